// Load decides where experts are: a skew that stays without the planner, goes with it, and no move when nothing changes.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type Load, startLoad } from "../harness/load.ts";
import { sleep, until } from "../harness/process.ts";
import type { Target } from "../harness/product.ts";
import { type Balance, balanceOf, goalPercent, patchRebalancing } from "./balance.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "balance";
const clients = 6;
/** From the first full window of the load. */
const balanceWithinMs = 60_000;
const steadyWindows = 10;
const windowMs = 5_000;

let target: Target;
let moe: Deployed;
let url = "";
let load: Load;

before(async () => {
  target = await openWorld();
  moe = await deploy(target, "e2e-rebalance", smolMoe(model));
  url = await moe.url();
});
after(async () => {
  await load?.stop();
  if (moe) await remove(moe);
});

async function waitBalanced(since: Balance): Promise<Balance> {
  return until(
    "the load to be balanced",
    async () => {
      const now = await balanceOf(moe.kubectl, model);
      const moved = now.epoch > since.epoch;
      if (moved && now.imbalance !== undefined && now.imbalance <= goalPercent(now)) return now;
      throw new Error(`epoch ${now.epoch}, worst layer ${now.imbalance}%, goal ${goalPercent(now)}%, ${now.reason}`);
    },
    { timeoutMs: balanceWithinMs + 2 * windowMs, everyMs: 1000 },
  );
}

/** Adds up the counts of moves over windows of steady load. */
async function movesWhileSteady(): Promise<number> {
  const start = await balanceOf(moe.kubectl, model);
  for (let window = 0; window < steadyWindows; window += 1) await sleep(windowMs);
  const end = await balanceOf(moe.kubectl, model);
  return end.epoch - start.epoch;
}

for (const policy of ["incremental", "hecate"] as const) {
  describe(`policy ${policy}`, () => {
    test("with mode Off a skewed load stays skewed", async () => {
      await patchRebalancing(moe, model, { mode: "Off", policy });
      if (policy !== "incremental") return; // the control run is the same for every policy and was made once
      load = startLoad({ url: () => url, model, clients, topic: "code" });
      await sleep(4 * windowMs);
      const early = await balanceOf(moe.kubectl, model);
      assert.ok((early.imbalance ?? 0) >= 150, `worst layer ${early.imbalance}%: the load is not skewed enough for the test`);
      await sleep(6 * windowMs);
      const late = await balanceOf(moe.kubectl, model);
      assert.ok((late.imbalance ?? 0) >= 140, `worst layer went from ${early.imbalance}% to ${late.imbalance}% without the planner`);
      assert.equal(late.epoch, early.epoch);
    });

    test("with mode Auto it is balanced within a minute, within the budget", async () => {
      const before = await balanceOf(moe.kubectl, model);
      await patchRebalancing(moe, model, { mode: "Auto", policy });
      const done = await waitBalanced(before);
      assert.ok((done.moves ?? 0) <= 64, `${done.moves} moves in one plan`);
      assert.equal(load.counts.failed, 0, load.errors[0]);
      process.stderr.write(
        `# ${policy}: worst layer ${before.imbalance}% -> ${done.imbalance}% (bound ${done.bound}%), ${done.moves} moves, ${done.bytes} bytes\n`,
      );
    });

    test("under steady load nothing moves for ten windows", async () => {
      assert.equal(await movesWhileSteady(), 0);
    });

    test("after a switch of topic it is balanced again", async () => {
      const before = await balanceOf(moe.kubectl, model);
      load.switchTo(policy === "incremental" ? "story" : "legal");
      await waitBalanced(before);
      assert.equal(await movesWhileSteady(), 0);
      assert.equal(load.counts.failed, 0, load.errors[0]);
    });
  });
}
