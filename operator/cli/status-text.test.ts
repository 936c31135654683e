import assert from "node:assert/strict";
import { test } from "node:test";
import type { Condition } from "../../crds/conditions.ts";
import { parseExpertPlacement } from "../../crds/expert-placement.ts";
import { deployment, snapshot } from "../../test/kit/deployment/deployment.ts";
import { processBytes } from "../deployment/core/capacity.ts";
import { verdicts } from "../deployment/features/conditions.ts";
import { expectedMemory, expectedMemoryFormula } from "../views/ranks.ts";
import { overviewText } from "./findings-text.ts";
import { rolloutStatusText } from "./rollout-text.ts";
import { renderStatus } from "./status-text.ts";

const condition = (type: string, status: Condition["status"], reason: string, message = `${type} says why`): Condition => ({
  type,
  status,
  reason,
  message,
  lastTransitionTime: "2026-03-01T10:00:00Z",
});

/** Types of the conditions whose messages are printed. */
function shown(...conditions: readonly Condition[]): string[] {
  const text = renderStatus({ deployment: deployment({}, { conditions }), placement: undefined, ranks: [] });
  return [...text.matchAll(/^ +(\w+): /gm)].map((match) => match[1] ?? "");
}

const cases: Readonly<Record<string, readonly [given: readonly Condition[], want: readonly string[]]>> = {
  "nothing is wrong with a deployment at rest": [
    [
      condition("Ready", "True", "AllReplicasAvailable"),
      condition("Progressing", "False", "Converged", "nothing is to be done"),
      condition("Degraded", "False", "AsExpected"),
      condition("PlacementBalanced", "True", "Balanced"),
    ],
    [],
  ],
  "an operation under way is not wrong": [[condition("Progressing", "True", "Scaling")], []],
  "an operation that is refused or late is": [
    [condition("Progressing", "False", "ScaleDownBlocked"), condition("Progressing", "False", "DeadlineExceeded")],
    ["Progressing", "Progressing"],
  ],
  "Degraded is wrong when it is True": [[condition("Degraded", "True", "RanksLost")], ["Degraded"]],
  "FieldConflict is wrong when it is True": [
    [condition("FieldConflict", "True", "ManagedByOthers"), condition("FieldConflict", "False", "NoConflict")],
    ["FieldConflict"],
  ],
  "whatever else is False is wrong": [
    [condition("Ready", "False", "RanksNotReady"), condition("TelemetryFresh", "False", "Stale")],
    ["Ready", "TelemetryFresh"],
  ],
  "what is not known says so while the deployment is not ready": [
    [condition("Ready", "False", "RanksNotReady"), condition("PlacementBalanced", "Unknown", "InsufficientExpertMemory")],
    ["Ready", "PlacementBalanced"],
  ],
  "what is not known is passed over once it is ready": [
    [condition("Ready", "True", "AllReplicasAvailable"), condition("TelemetryFresh", "Unknown", "NotConfigured")],
    [],
  ],
};
for (const [name, [given, want]] of Object.entries(cases)) test(`status: ${name}`, () => assert.deepEqual(shown(...given), want));

test("status: a deployment that nobody asks says so and is well, one that somebody has set to 0 says nothing of it", () => {
  const lastScale = {
    time: "2026-03-01T10:00:00Z",
    from: 3,
    to: 0,
    message: "no request since 2026-03-01T09:50:00Z, for 10m: replicas 3 -> 0",
  };
  const text = (status: Condition["status"]) => {
    const at = deployment({ replicas: 0 }, { conditions: [condition("Ready", status, "ScaledToZero")], autoscale: { lastScale } });
    return renderStatus({ deployment: at, placement: undefined, ranks: [] });
  };
  assert.match(text("True"), /^scaled {5}to zero: no request since \S+Z, for 10m: replicas 3 -> 0$/m);
  assert.doesNotMatch(text("False"), /to zero/);
});

test("status: the gateways, and whose their number is", () => {
  const line = (gateway: object) => {
    const counted = deployment({ gateway }, { gateway: { replicas: 3, readyReplicas: 2 } });
    return /^gateways .*/m.exec(renderStatus({ deployment: counted, placement: undefined, ranks: [] }))?.[0];
  };
  assert.equal(line({}), "gateways   2/3 ready (left to who scales them)");
  assert.equal(line({ replicas: 3 }), "gateways   2/3 ready (as spec.gateway.replicas says)");
  assert.equal(line({ autoscale: { maxReplicas: 5 } }), "gateways   2/3 ready (autoscaled, 1 to 5 at 80% of their CPU request)");
  const stuck = { gateway: { replicas: 1, readyReplicas: 1, autoscalerProblem: "FailedGetResourceMetric: no metrics" } };
  const still = deployment({ gateway: { autoscale: { maxReplicas: 5 } } }, stuck);
  assert.match(
    renderStatus({ deployment: still, placement: undefined, ranks: [] }),
    /^ +autoscaler: FailedGetResourceMetric: no metrics$/m,
  );
});

test("status: Converged is the reason that the operator gives for having nothing to do", () => {
  const { Progressing } = verdicts({
    snapshot: snapshot(),
    ranks: 3,
    refusals: [],
    blocked: undefined,
    operation: undefined,
    pendingReplicas: undefined,
    failure: "",
    failures: [],
    judgeError: "",
    createError: "",
  });
  assert.deepEqual(shown({ ...condition("Progressing", "Unknown", ""), ...Progressing }), []);
});

test("status: the planner's last decision is said once, also when it is why the placement is not balanced", () => {
  const decision = { reason: "WithinNoise", message: "worst layer at 114%, trigger 110%, of which 5% may be chance" };
  const text = `${decision.reason}: ${decision.message}`;
  const placement = parseExpertPlacement({
    metadata: { name: "moe", namespace: "ns" },
    spec: { deploymentUID: "u", epoch: 1, parentEpoch: 0, planHash: "h", modelDigest: "d", ranks: [], layers: [] },
    status: { decision },
  });
  const conditions = [condition("PlacementBalanced", "False", "RebalanceSuppressed", text)];
  const printed = renderStatus({ deployment: deployment({}, { conditions }), placement, ranks: [] });
  assert.deepEqual(
    printed.split("\n").filter((line) => line.includes(text)),
    [`decision   ${text}`],
  );
});

test("status: a message that stands above already is not told again", () => {
  const conditions = [condition("Ready", "False", "RanksNotReady"), condition("ModelAvailable", "False", "ClaimNotFound")];
  const text = renderStatus(
    { deployment: deployment({}, { conditions }), placement: undefined, ranks: [] },
    "why  ModelAvailable says why",
  );
  assert.ok(text.includes("Ready: Ready says why") && !text.includes("ModelAvailable: "), text);
});

test("status: requests at once and the least ranks are shown with their arithmetic", () => {
  const status = {
    model: { architecture: "Mixtral", requestsPerRank: 2, requestsPerRankReason: "kvPool 4Mi" },
    expertParallel: { leastRanks: 3, leastRanksReason: "16 experts" },
  };
  const printed = renderStatus({ deployment: deployment({}, status), placement: undefined, ranks: [] }).split("\n");
  assert.ok(printed.includes("requests   2 at once per rank (kvPool 4Mi)"), printed.join("\n"));
  assert.ok(printed.includes("ranks      at least 3 (16 experts)"), printed.join("\n"));
});

test("a worker is expected to take what the operator leaves for its process beside what is resident, and the help says so", () => {
  assert.equal(expectedMemory({ hostedBytes: 0 }), processBytes);
  assert.equal(expectedMemory({ hostedBytes: 1000, denseBytes: 200, kvBytes: 300 }), 1725 + 400_000_000);
  assert.equal(expectedMemory({ denseBytes: 200 }), undefined, "not known before the rank tells what it holds");
  assert.equal(expectedMemoryFormula, "1.15 x (dense part + KV pool + EXPERTS) + 400 MB");
});

const marks = { labels: { "enodia.dev/green-of": "moe" } };
const seen = (...all: ReturnType<typeof deployment>[]) => ({
  deployments: all.map((one) => ({ deployment: one, placement: undefined, changedAt: undefined })),
  jobs: [],
});
const namesIn = (text: string): string[] =>
  text
    .split("\n")
    .slice(1)
    .map((line) => line.trim().split(/ {2,}/)[1] ?? "");

test("a green deployment stands below its deployment, wherever the API server lists it", () => {
  const child = deployment({}, {}, { name: "moe-1234abcd", uid: "c", ...marks });
  const [other, own] = [deployment({}, {}, { name: "zoo", uid: "z" }), deployment()];
  assert.deepEqual(namesIn(overviewText(seen(child, other, own))), ["zoo", "moe", "- moe-1234abcd, green deployment"]);
  const elsewhere = deployment({}, {}, { name: "moe-1", namespace: "b", uid: "e", ...marks });
  assert.deepEqual(
    namesIn(overviewText(seen(elsewhere, own))),
    ["- moe-1, green deployment", "moe"],
    "one whose deployment is not shown stays",
  );
});

test("rollout status names the green deployment, its phase and since when", () => {
  const green = { name: "moe-1234abcd", phase: "Serving", since: "2026-03-01T10:00:00Z" };
  const rollout = { phase: "Progressing", revision: 2, green };
  assert.match(rolloutStatusText(deployment({}, { rollout })), /\ngreen +moe-1234abcd Serving +since 2026-03-01T10:00:00Z/);
  assert.doesNotMatch(rolloutStatusText(deployment({}, { rollout: { phase: "Complete" } })), /green/);
});
