import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlacementPlan } from "../../../crds/plan.ts";
import { silentLog } from "../../../runtime/observe/log.ts";
import type { Observed } from "../observed.ts";
import type { Tools } from "./intent.ts";
import { Recover, recovery } from "./recover.ts";

const host = (rank: number) => ({ hosts: [[rank]], weights: [[1000]] });
const parts = { deploymentUid: "uid", modelDigest: "digest", planHash: "", parentEpoch: 0 };
/** The plan of epoch 1, with both layers on rank 0. */
const parent: PlacementPlan = { ...parts, epoch: 1, layers: [0, 1].map((layer) => ({ layer, epoch: 1, ...host(0) })) };
/** The plan of epoch 2, in which layer 1 goes to rank 1. */
const stored: PlacementPlan = { ...parts, epoch: 2, layers: [parent.layers[0]!, { layer: 1, epoch: 2, ...host(1) }] };

test("an unfinished plan is gone on with; a layer that nobody has committed can still be rolled back", () => {
  const found = recovery(stored, [parent, parent], 2);
  assert.ok(found.kind === "resume");
  assert.deepEqual([...found.committed], []);
  assert.equal(found.parent?.epoch, 1);
});

test("while a worker is silent a layer that it may have committed only goes forward", () => {
  const found = recovery(stored, [parent], 2, true);
  assert.ok(found.kind === "resume");
  assert.deepEqual([...found.committed], [1]);
});

test("when nobody says anything the stored plan is carried to everyone, not taken as finished", () => {
  assert.equal(recovery(stored, [], 2).kind, "settled", "all are new processes");
  const found = recovery(stored, [], 2, true);
  assert.ok(found.kind === "resume");
  assert.deepEqual([...found.committed], [0, 1]);
});

test("what workers know is judged by what was seen when they had answered", async () => {
  const link = { snapshot: async () => parent };
  const world = { ref: { namespace: "ns", name: "moe" }, uid: "uid", desiredRanks: 1 };
  const before = { world, now: 0, views: [{ rank: 0, usable: true, link }], usableAt: new Map(), startedAt: 0, shape: undefined };
  const seen = [before, { ...before, shape: { layers: 2 } }] as unknown as Observed[];
  const placement = { read: async () => undefined, recoveredAs: () => {} };
  const latest = () => (seen.length > 1 ? seen.shift() : seen[0]);
  const tools = { placement, latest, links: { all: () => [] }, ports: { log: silentLog } } as unknown as Tools;
  const made = await new Recover().make(before as unknown as Observed, tools);
  assert.ok("layers" in made);
  assert.equal(made.layers.length, 2);
});
