import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLog } from "../../../runtime/observe/log.ts";
import { VirtualClock } from "../../../test/sim/clock.ts";
import { hasCode } from "../../kube/errors.ts";
import type { Observed } from "../observed.ts";
import type { Link, StoredPlacement } from "../ports.ts";
import { Placement } from "./placement.ts";
import type { Proposal } from "./proposal.ts";
import { Rollout } from "./rollout.ts";

const ref = { namespace: "ns", name: "moe" };
const sizes = Float64Array.from([1]);
const proposal: Proposal = {
  ...{ kind: "test", reason: "test", parent: undefined, limited: false, announced: false, once: false },
  layers: [{ hosts: [[0]], shares: [[1000]] }],
};

/** A view of one usable worker. */
function seenWith(link: Link): Observed {
  const report = { description: { bootId: "b", modelDigest: "d", budgetBytes: 10 }, hosted: new Map() };
  const view = { rank: 0, pod: { name: "p", uid: "u" }, link, report, usable: true };
  const shape = { layers: 1, experts: 1, residentBytes: sizes, storedBytes: sizes };
  return { world: { ref, uid: "uid" }, spec: {}, views: [view], ranks: [], shape } as unknown as Observed;
}

test("a plan that is closed while it is being written is not pushed to anybody", async () => {
  let written = (_: StoredPlacement): void => {};
  let prepared = 0;
  const link = { prepare: async () => void prepared++, description: { bootId: "b" } } as unknown as Link;
  const write = () =>
    new Promise<StoredPlacement>((resolve) => {
      written = resolve;
    });
  const placement = new Placement({ store: { read: async () => undefined, write }, ref, ownerUid: "uid" });
  placement.recoveredAs(undefined);
  const ends: unknown[] = [];
  const rollout = new Rollout(
    {
      ports: { clock: new VirtualClock(), log: silentLog, event: () => {}, onRollout: (_ref, _running, done) => ends.push(done) },
      placement,
      links: { all: () => [link], planBegins: () => {} },
      load: () => undefined,
      onProgress: () => {},
    },
    proposal,
    seenWith(link),
  );
  const ended = rollout.run();
  rollout.stop();
  written({ resourceVersion: "1", spec: {} as StoredPlacement["spec"], status: {} });
  await assert.rejects(ended, (error) => hasCode(error, "Stopped"));
  assert.equal(prepared, 0);
  assert.equal(placement.facts.recovered, false, "what holds is found out anew");
  assert.deepEqual(ends, [undefined], "whoever leads now says how it ended");
});
