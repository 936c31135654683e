import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment } from "../../../test/kit/deployment/deployment.ts";
import type { MemberView, RebalanceView } from "../../deployment/ports.ts";
import type { RankView } from "../observed.ts";
import { changeKey, rebalanceView, type ViewInput } from "./view.ts";

const rank = (number: number, device: string, numerics = "exact: double") =>
  ({
    rank: number,
    pod: { uid: `pod-${number}` },
    usable: true,
    mismatch: false,
    state: "active",
    report: { description: { device, numerics } },
  }) as unknown as RankView;

const input = (views: readonly RankView[]): ViewInput => ({
  world: { ref: { namespace: "ns", name: "moe" }, spec: deployment().spec } as ViewInput["world"],
  views,
  shape: { layers: 1, experts: 1, storedBytes: new Float64Array(1), residentBytes: new Float64Array(1) } as unknown as ViewInput["shape"],
  gateways: [],
  signals: new Map(),
  epoch: undefined,
  expertsAtRisk: 0,
  uniqueBytes: new Map(),
  unheld: { unhosted: 0, withoutRank: 0, loading: [] },
  drains: [],
  rollout: undefined,
  load: undefined,
  waiting: undefined,
  telemetry: {
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
  },
  lastRebalance: undefined,
});

test("ModelAvailable names each kind of device that ranks took, once", () => {
  const views = [rank(0, "reference: TypeScript"), rank(1, "cpu: EPYC, 8 threads"), rank(2, "reference: TypeScript")];
  const { status, message } = rebalanceView(input(views)).modelAvailable;
  assert.equal(status, "True");
  assert.equal(message, "all connected ranks hold the same model, on cpu: EPYC, 8 threads; reference: TypeScript");
  assert.deepEqual(rebalanceView(input(views)).model?.backends, ["cpu", "reference"]);
});

test("a rank that has just joined is no missing telemetry yet; one that stays silent is", () => {
  const heard = (joining: number, reporting: number): string => {
    const telemetry = { ...input([]).telemetry, staleAfterMs: 15_000, lastSampleMs: 1, expected: 3, reporting, joining };
    const { status, reason } = rebalanceView({ ...input([]), telemetry }).telemetryFresh;
    return `${status} ${reason}`;
  };
  assert.deepEqual([heard(1, 2), heard(0, 2), heard(1, 1)], ["Unknown PartialRanks", "False PartialRanks", "False PartialRanks"]);
});

test("Reproducible says whether text may change where a request moves, and which ranks differ", () => {
  const verdictOf = (...numerics: readonly string[]) =>
    rebalanceView(input(numerics.map((each, number) => rank(number, "cpu", each)))).reproducible;
  assert.deepEqual(verdictOf(), { status: "Unknown", reason: "NotObserved", message: "no worker was reached yet" });
  assert.equal(verdictOf("", "").reason, "NotReported");
  assert.equal(verdictOf("exact: a", "exact: a").reason, "Exact");
  assert.equal(verdictOf("tolerance: a", "tolerance: a").reason, "ToleranceDevice");
  const mixed = verdictOf("exact: avx512", "exact: avx2", "exact: avx512");
  assert.deepEqual([mixed.status, mixed.reason], ["False", "MixedClasses"]);
  assert.match(mixed.message, /ranks 0, 2 exact: avx512; ranks 1 exact: avx2; .*nodeSelector/);
  assert.ok(verdictOf(...Array.from({ length: 40 }, (_, i) => `exact: ${i}${"x".repeat(180)}`)).message.length < 1_024);
});

test("the model is of the observation, whatever the link says by now", () => {
  const [seen] = [rank(0, "cpu")];
  const link = { description: { topK: 9 } } as unknown as RankView["link"];
  const { model } = rebalanceView(input([{ ...seen!, link, report: { ...seen!.report!, description: { topK: 2 } as never } }]));
  assert.equal(model?.topK, 2);
});

const member: MemberView = {
  ...{ rank: 0, podUid: "u", bootId: "b", connected: true, active: true, ready: true, notReadyReason: "", draining: false, epoch: 3 },
  ...{ activeRequests: 0, hostedBytes: 100, budgetBytes: 200, denseBytes: 1, kvBytes: 1, uniqueBytes: 50 },
};
const verdict = { status: "True", reason: "Fresh", message: "the oldest report is 1 s old" } as const;
const gateway = { name: "g", idleMs: 5, wantsRanks: false, holds: false };
const view = (changed: Partial<MemberView>): RebalanceView => ({
  ...{ members: [{ ...member, ...changed }], model: undefined, digestMismatch: [], expertsAtRisk: 0, drains: [] },
  ...{ gateways: [gateway], unhostedExperts: 0, expertsWithoutRank: 0, loadingRanks: [] },
  ...{ modelAvailable: verdict, reproducible: verdict, telemetryFresh: verdict, placementBalanced: verdict, placement: {} },
  telemetry: { ranksReporting: 1, ranksExpected: 1 },
});

test("requests and bytes that come and go ask for no reconcile; what status and drains read does", () => {
  const key = changeKey(view({}));
  assert.equal(changeKey(view({ activeRequests: 7, hostedBytes: 90 })), key);
  assert.equal(changeKey(view({ served: { requests: 1, failed: 0, gaps: 5, gapMicros: 9 } })), key, "totals that grow");
  assert.equal(changeKey({ ...view({}), unhostedExperts: 3 }), key, "experts that come one by one");
  assert.notEqual(changeKey({ ...view({}), expertsWithoutRank: 3 }), key);
  const gateways = (more: object) => changeKey({ ...view({}), gateways: [{ ...gateway, ...more }] });
  assert.equal(gateways({ idleMs: 905 }), key, "time that passes");
  for (const changed of [{ wantsRanks: true }, { holds: true }, { idleMs: undefined }]) assert.notEqual(gateways(changed), key);
  assert.notEqual(changeKey({ ...view({}), loadingRanks: [1] }), key);
  const reported = { ...verdict, message: "other grounds for the same" };
  assert.equal(
    changeKey({ ...view({}), telemetryFresh: reported, placementBalanced: reported, placement: { imbalancePercent: 105 } }),
    key,
  );
  assert.notEqual(changeKey({ ...view({}), placementBalanced: { ...verdict, reason: "Imbalanced" } }), key);
  assert.notEqual(changeKey({ ...view({}), placement: { epoch: 2 } }), key);
  for (const changed of [{ active: false }, { ready: false }, { epoch: 4 }, { uniqueBytes: 0 }, { draining: true }])
    assert.notEqual(changeKey(view(changed)), key, JSON.stringify(changed));
});
