import assert from "node:assert/strict";
import { test } from "node:test";
import type { ExpertPlacementSpec } from "../../crds/expert-placement.ts";
import { FakeKube } from "../../test/contract/fake-kube.ts";
import { hasCode } from "../kube/errors.ts";
import { placementStore } from "./placement-store.ts";

const ref = { namespace: "ns", name: "moe" };
const plan = (epoch: number): ExpertPlacementSpec => ({
  deploymentUID: "uid",
  epoch,
  parentEpoch: epoch - 1,
  planHash: `hash${epoch}`,
  modelDigest: "digest",
  ranks: [],
  layers: [],
});

test("a status written between reading and writing a plan costs nothing; another plan is a conflict", async () => {
  const kube = new FakeKube();
  const store = placementStore(kube);
  const first = await store.write(ref, "owner", plan(1), undefined);
  let statuses = 0;
  kube.onWrite = (verb) => {
    if (verb === "update" && statuses++ < 2) void store.writeStatus(ref, { phase: "Committed", committedEpoch: statuses });
  };
  const second = await store.write(ref, "owner", plan(2), first);
  assert.equal(second.spec.epoch, 2);
  assert.equal(statuses, 3, "two writes met a status and were made again");
  await assert.rejects(store.write(ref, "owner", plan(2), first), (error) => hasCode(error, "Conflict"));
});
