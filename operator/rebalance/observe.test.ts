// One observation is one value: it stays as it was while links go on changing, and what only shows over time is kept between them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { moeDeploymentSpecSchema } from "../../crds/moe-deployment.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { WorkerPod, World } from "../deployment/ports.ts";
import { Attempts } from "./intents/attempts.ts";
import { agreedModel, lostAfterMs, uniqueBytes } from "./members.ts";
import { Observer, unheld } from "./observe.ts";
import type { RankView } from "./observed.ts";
import type { Link } from "./ports.ts";
import { Placement } from "./rollout/placement.ts";

const sizes = Float64Array.from([1, 1]);
const description = {
  ...{ rank: 0, podUid: "w0", bootId: "a", podName: "moe-0", modelDigest: "m", architecture: "", layers: 1, experts: 2, topK: 1 },
  ...{
    codec: "f32",
    storedBytes: sizes,
    residentBytes: sizes,
    budgetBytes: 10,
    denseBytes: 0,
    kvBytes: 0,
    kvSlots: 1,
    kvTokens: 1,
    maxContext: 1,
    device: "cpu",
    numerics: "exact: double",
    speed: 1,
  },
};
const status = { epoch: 1, ready: true, membershipVersion: 1 };

function observing() {
  const link = {
    description,
    status,
    hosted: new Map(),
    triedAt: 0,
    downSince: undefined as number | undefined,
    lastError: "",
    address: "",
    clockAheadMs: 0,
  };
  const pod = { rank: 0, uid: "w0", name: "moe-0", lost: false, terminating: false } as unknown as WorkerPod;
  const spec = moeDeploymentSpecSchema.parse({ model: { uri: "pvc://m/x" } });
  const world = { ref: { namespace: "ns", name: "moe" }, uid: "uid", spec, desiredRanks: 1, workers: [pod], gateways: [], leaving: [] };
  const telemetry = {
    bus: undefined,
    ageMs: 0,
    staleAfterMs: 0,
    reporting: 0,
    expected: 0,
    joining: 0,
    lastSampleMs: 0,
    onNats: 0,
    keyProblem: undefined,
    refused: undefined,
    overQuota: false,
  };
  const store = { read: async () => undefined, write: () => Promise.reject(new Error("nothing is written")) };
  const placement = new Placement({ store, ref: world.ref, ownerUid: "uid" });
  const observer = new Observer(
    {
      links: { worker: () => link as unknown as Link, gateways: () => [] },
      intake: { facts: () => telemetry },
      placement,
      attempts: new Attempts(),
    },
    0,
  );
  const look = (now: number) => observer.observe(world as unknown as World, now);
  return { link, placement, look, forget: () => observer.forget() };
}

test("an observation does not change with its links, and cannot be written", () => {
  const { link, look } = observing();
  const seen = look(0);
  link.description = { ...description, bootId: "b" };
  link.status = { ...status, epoch: 2 };
  link.downSince = 1;
  const [view] = seen.views;
  assert.deepEqual([view?.report?.description?.bootId, view?.report?.status?.epoch, view?.report?.downSince], ["a", 1, undefined]);
  assert.deepEqual(seen.expected, [{ rank: 0, bootId: "a", clockAheadMs: 0, speed: 1 }]);
  assert.notEqual(look(100).members, seen.members);
  assert.throws(() => Object.assign(seen, { plan: undefined }), TypeError);
});

test("a rank without a usable process counts as gone after the grace, not before", () => {
  const { link, placement, look } = observing();
  placement.recoveredAs({ epoch: 1, modelDigest: "m", layers: [{ layer: 0, epoch: 1, hosts: [[0], [0]], weights: [] }] } as never);
  assert.deepEqual([...look(1_000).gone], []);
  link.downSince = 1_000;
  assert.deepEqual([...look(1_000 + lostAfterMs).gone], []);
  assert.deepEqual([...look(1_001 + lostAfterMs).gone], [0]);
});

test("a rank whose link waits for its turn is not gone, and has its grace from its turn on", () => {
  const { link, placement, look } = observing();
  placement.recoveredAs({ epoch: 1, modelDigest: "m", layers: [{ layer: 0, epoch: 1, hosts: [[0], [0]], weights: [] }] } as never);
  Object.assign(link, { description: undefined, status: undefined, downSince: 0, triedAt: Number.POSITIVE_INFINITY });
  const late = 10 * lostAfterMs;
  const waiting = look(late);
  assert.deepEqual([[...waiting.gone], waiting.introduced], [[], false]);
  link.triedAt = late;
  assert.deepEqual([...look(late + 2 * lostAfterMs).gone], []);
  const silent = look(late + 2 * lostAfterMs + 1);
  assert.deepEqual([[...silent.gone], silent.introduced], [[0], true]);
});

test("a rank that fell silent was last usable when it was last heard", () => {
  const { link, placement, look } = observing();
  placement.recoveredAs({ epoch: 1, modelDigest: "m", layers: [{ layer: 0, epoch: 1, hosts: [[0], [0]], weights: [] }] } as never);
  assert.deepEqual([...look(4_000).gone], [], "its silence is not noticed yet");
  link.downSince = 1_000;
  assert.deepEqual([...look(1_000 + lostAfterMs).gone], []);
  assert.deepEqual([...look(1_001 + lostAfterMs).gone], [0]);
});

test("another model is seen, and taken up when what is known of the old one was forgotten", () => {
  const { link, placement, look, forget } = observing();
  placement.recoveredAs({ epoch: 1, modelDigest: "m", layers: [{ layer: 0, epoch: 1, hosts: [[0], [0]], weights: [] }] } as never);
  assert.equal(look(0).plan?.epoch, 1);
  link.description = { ...description, modelDigest: "n", layers: 3 };
  const { otherModel, views, plan, shape } = look(100);
  assert.deepEqual([otherModel, views[0]?.mismatch, plan?.epoch, shape?.layers], [true, true, 1, 1]);
  assert.ok(look(200).otherModel, "to look changes nothing");
  placement.forget();
  forget();
  const seen = look(300);
  assert.deepEqual([seen.otherModel, seen.views[0]?.mismatch, seen.plan, seen.shape?.layers], [false, false, undefined, 3]);
});

/** One layer: expert 0 on ranks 0 and 1, expert 1 on rank 1, experts 2 and 3 on rank 2. */
const plan = { epoch: 3, layers: [{ layer: 0, epoch: 3, hosts: [[0, 1], [1], [2], [2]], weights: [] }] } as unknown as PlacementPlan;

interface Facts {
  readonly usable?: boolean;
  readonly ready?: boolean;
  readonly epoch?: number;
  readonly held?: readonly number[];
}

function view(rank: number, { usable = true, ready = true, epoch = 3, held = [] }: Facts = {}): RankView {
  const hosted = new Map([[0, { layer: 0, epoch, experts: held }]]);
  return { rank, usable, report: { description: { layers: 1, experts: 4 }, status: { ready, epoch }, hosted } } as unknown as RankView;
}

test("ranks that are ready hold what the plan gives them, whatever their last report says", () => {
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2)]), { unhosted: 0, withoutRank: 0, loading: [] });
  assert.deepEqual(unheld(undefined, [view(0)]), { unhosted: 0, withoutRank: 0, loading: [] });
});

test("experts of a rank that is gone are without a rank, unless another holds them", () => {
  assert.deepEqual(unheld(plan, [view(0), view(2)]), { unhosted: 1, withoutRank: 1, loading: [] });
  assert.deepEqual(unheld(plan, [view(0), view(1, { usable: false }), view(2)]), { unhosted: 1, withoutRank: 1, loading: [] });
});

test("a restarted rank holds what it reports: connected and empty it holds nothing", () => {
  const empty = { ready: false, epoch: 0 };
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2, empty)]), { unhosted: 2, withoutRank: 0, loading: [2] });
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2, { ready: false, held: [3] })]), { unhosted: 1, withoutRank: 0, loading: [2] });
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2, { ready: false, held: [2, 3] })]), { unhosted: 0, withoutRank: 0, loading: [] });
  assert.deepEqual(unheld(plan, [view(0), view(1, empty), view(2)]), { unhosted: 1, withoutRank: 0, loading: [1] });
});

test("a rank that has learnt nothing of the plan yet holds nothing of it, ready or not", () => {
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2, { epoch: 0 })]), { unhosted: 2, withoutRank: 0, loading: [2] });
});

interface Facts {
  readonly model?: string;
  readonly codec?: string;
  readonly lost?: boolean;
}

function telling(uid: string, { model, codec = "f32", lost = false }: Facts): RankView {
  const report = model === undefined ? {} : { description: { modelDigest: model, codec } };
  return { pod: { uid, lost }, report } as unknown as RankView;
}

test("workers agree on a model when all that may run another have spoken", () => {
  const none = new Set<string>();
  assert.deepEqual(agreedModel([telling("a", { model: "m" }), telling("b", { model: "m" })], none), { digest: "m", codec: "f32" });
  assert.equal(agreedModel([telling("a", { model: "m" }), telling("b", { model: "n" })], none), undefined);
  assert.equal(agreedModel([telling("a", { model: "m" }), telling("b", { model: "m", codec: "q4_0" })], none), undefined);
  assert.deepEqual(agreedModel([telling("a", { model: "m", lost: true }), telling("b", { model: "n" })], none)?.digest, "n");
  assert.deepEqual(agreedModel([telling("a", {}), telling("b", { model: "n" })], none)?.digest, "n", "a new pod says it later");
  assert.equal(
    agreedModel([telling("a", {}), telling("b", { model: "n" })], new Set(["a"])),
    undefined,
    "a pod of the plan may run the old one",
  );
});

test("unique bytes count an expert for its last live host, and for all of its hosts when none is live", () => {
  const layer = { layer: 0, epoch: 1, hosts: [[0, 1], [1, 2], [2]], weights: [[500, 500], [500, 500], [1000]] };
  const plan = { epoch: 1, layers: [layer] } as unknown as PlacementPlan;
  const sizes = Float64Array.from([1, 10, 100]);
  assert.deepEqual([...uniqueBytes(plan, new Set([0, 1, 2]), sizes)], [[2, 100]]);
  assert.deepEqual(Object.fromEntries(uniqueBytes(plan, new Set([0, 1]), sizes)), { 1: 10, 2: 100 });
  assert.deepEqual(Object.fromEntries(uniqueBytes(plan, new Set([0]), sizes)), { 0: 1, 1: 10, 2: 110 });
});
