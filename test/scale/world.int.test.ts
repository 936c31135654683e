// The short form of `npm run test:scale -- world`: 16 ranks on simulated nodes, through what a large world goes through. It holds counts
// and bytes to bounds, which do not depend on how busy the machine is.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { down } from "../cluster/cluster.ts";
import { runWorld, worldFleet } from "./world.ts";

const ranks = 16;
/** Pods, certificates, objects, plan, events and statuses, which take about 8 a rank. */
const writesMax = 12 * ranks;
/** A membership says of each rank 0.2 KB, to each rank; the plan has 4 layers. */
const sentMiBMax = 4;

after(() => down(worldFleet));

test("a world of 16 ranks serves, follows its load, shrinks and repairs a lost node, with few writes and bytes", {
  timeout: 600_000,
}, async (t) => {
  const shape = { ranks, layers: 4, experts: 32, shrinkBy: 2, windowSeconds: 1 };
  const row = await runWorld({ ...shape, steadySeconds: 3, short: true, log: (line) => t.diagnostic(line) });
  const { serve, steady, frames, rebalance, loss, shrink } = row;
  assert.ok(serve.writes >= 2 * ranks && serve.writes <= writesMax, `${serve.writes} writes until it served`);
  assert.ok(serve.sentMiB > 0 && serve.sentMiB <= sentMiBMax, `${serve.sentMiB} MiB sent until it served`);
  assert.equal(serve.fromPeers, 0, "all experts came from the store");
  assert.ok(serve.fromStore >= 4 * 32);
  assert.ok(steady.writes <= 10, `${steady.writes} writes while nothing changed`);
  assert.ok(steady.taken > 0 && steady.refused <= steady.taken / 10, `${steady.taken} load messages taken, ${steady.refused} refused`);
  assert.ok(frames.sent > 0);
  assert.match(rebalance.reason, /^incremental: \d+% -> \d+% .* with \d+ moves/);
  assert.ok(rebalance.fromPeers > 0, "moved experts came from other ranks");
  assert.equal(shrink.unhosted, 0, "no expert was without a host");
  assert.ok(shrink.writes <= writesMax / 2, `${shrink.writes} writes to shrink`);
  assert.ok(loss.ranks >= 6 && loss.experts > 0 && loss.repairedSeconds > 0);
  assert.ok(loss.fromStore >= loss.experts, "what only lost ranks had came from the store");
  assert.ok(loss.writes <= writesMax, `${loss.writes} writes for the loss`);
});
