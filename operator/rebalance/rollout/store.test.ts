import assert from "node:assert/strict";
import { test } from "node:test";
import { apiVersion, labels } from "../../../crds/common.ts";
import type { ExpertPlacementSpec } from "../../../crds/expert-placement.ts";
import { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { hasCode } from "../../kube/errors.ts";
import { resources } from "../../kube/kube.ts";
import { placementStore } from "./store.ts";

const { kind } = resources.expertPlacements;
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
    if (verb !== "update" || statuses++ >= 2) return;
    const object = { apiVersion, kind, metadata: { ...ref, uid: first.uid }, status: { committedEpoch: statuses } };
    void store.applyStatus(resources.expertPlacements, object, { manager: "enodia-rebalance" });
  };
  const second = await store.write(ref, "owner", plan(2), first);
  assert.equal(second.spec.epoch, 2);
  assert.equal(statuses, 3, "two writes met a status and were made again");
  await assert.rejects(store.write(ref, "owner", plan(2), first), (error) => hasCode(error, "Conflict"));
});

test("the object is labelled like everything the operator owns, and what others wrote on it stays", async () => {
  const kube = new FakeKube();
  const store = placementStore(kube);
  const first = await store.write(ref, "owner", plan(1), undefined);
  const made = await kube.get(resources.expertPlacements, ref);
  assert.equal(made?.metadata.labels?.[labels.deployment], "moe");
  const others = { labels: { team: "a" }, annotations: { note: "b" }, finalizers: ["example.com/keep"] };
  await kube.patch(resources.expertPlacements, ref, { metadata: others }, { manager: "test" });
  await store.write(ref, "owner", plan(2), first);
  const metadata = (await kube.get(resources.expertPlacements, ref))?.metadata;
  assert.deepEqual(metadata?.labels, { ...made?.metadata.labels, team: "a" });
  assert.deepEqual(metadata?.annotations, others.annotations);
  assert.deepEqual(metadata?.finalizers, others.finalizers);
  assert.deepEqual(metadata?.ownerReferences, made?.metadata.ownerReferences);
});
