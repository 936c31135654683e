import assert from "node:assert/strict";
import { test } from "node:test";
import type { Condition } from "../../crds/conditions.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { processBytes } from "../../crds/rank-memory.ts";
import { deployment } from "../../test/kit/deployment/deployment.ts";
import { overviewText } from "../cli/findings-text.ts";
import { sectionsText } from "../cli/table.ts";
import { conditionTable, deploymentFacts, historySections, placementFacts, rolloutSections } from "./deployment.ts";
import { expectedMemory, expectedMemoryFormula, rankStates, rankTable } from "./ranks.ts";
import { type Fact, textOf } from "./section.ts";

const condition = (type: string, status: Condition["status"], reason: string, message = `${type} says why`): Condition => ({
  type,
  status,
  reason,
  message,
  lastTransitionTime: "2026-03-01T10:00:00Z",
});

/** What a fact of these says. */
const saidOf = (facts: readonly Fact[], name: string): string => textOf(facts.find(([of]) => of === name)?.[1]);
const said = (name: string, of: MoEDeployment): string => saidOf(deploymentFacts(of), name);

test("a deployment that nobody asks says so, one that somebody has set to 0 says nothing of it", () => {
  const lastScale = {
    time: "2026-03-01T10:00:00Z",
    from: 3,
    to: 0,
    message: "no request since 2026-03-01T09:50:00Z, for 10m: replicas 3 -> 0",
  };
  const scaled = (status: Condition["status"]) =>
    said("Scaled", deployment({ replicas: 0 }, { conditions: [condition("Ready", status, "ScaledToZero")], autoscale: { lastScale } }));
  assert.equal(scaled("True"), `to zero: ${lastScale.message}`);
  assert.equal(scaled("False"), "");
});

test("the gateways, and whose their number is", () => {
  const gateways = (gateway: object) => said("Gateways", deployment({ gateway }, { gateway: { replicas: 3, readyReplicas: 2 } }));
  assert.equal(gateways({}), "2/3 ready (left to who scales them)");
  assert.equal(gateways({ replicas: 3 }), "2/3 ready (as spec.gateway.replicas says)");
  assert.equal(gateways({ autoscale: { maxReplicas: 5 } }), "2/3 ready (autoscaled, 1 to 5 at 80% of their CPU request)");
  const stuck = { gateway: { replicas: 1, readyReplicas: 1, autoscalerProblem: "FailedGetResourceMetric: no metrics" } };
  assert.equal(
    said("Autoscaler", deployment({ gateway: { autoscale: { maxReplicas: 5 } } }, stuck)),
    "FailedGetResourceMetric: no metrics",
  );
});

test("the planner's last decision is said once, also when it is why the placement is not balanced", () => {
  const decision = { reason: "WithinNoise", message: "worst layer at 114%, trigger 110%, of which 5% may be chance" };
  const text = `${decision.reason}: ${decision.message}`;
  const plan = { status: { decision } };
  const conditions = [condition("PlacementBalanced", "False", "RebalanceSuppressed", text)];
  assert.equal(saidOf(placementFacts(deployment({}, { conditions }), plan), "Decision"), "");
  assert.equal(saidOf(placementFacts(deployment(), plan), "Decision"), text);
});

test("ranks that serve more than they hold show both, and what they load for a token; others show one figure", () => {
  const Mi = 2 ** 20;
  const reported = [0, 1].map((rank) => ({ rank, hostedBytes: Mi * (3 + rank), budgetBytes: 8 * Mi }));
  const loading = reported.map((each) => ({ ...each, servedBytes: 8 * Mi, predictedLoadBytes: 2 * Mi }));
  const over = loading.map((each) => (each.rank === 0 ? { ...each, measuredLoadBytes: Mi } : each));
  const said = (ranks: typeof reported) => saidOf(placementFacts(deployment(), { status: { ranks } }), "In memory");
  assert.equal(said(reported), "");
  assert.equal(said(over), "7.00 MiB of the 16.0 MiB that ranks serve (loaded for a token: 1.00 MiB measured, 4.00 MiB predicted)");
  const pods = [0, 1].map((rank) => ({ rank, pod: `p-${rank}`, node: "n", state: "Running" }));
  const shown = (ranks: typeof reported) => sectionsText([rankTable(["rank", "expertBytes", "budget", "epoch"], rankStates(pods, ranks))]);
  assert.match(shown(reported), /^RANK +EXPERTS +BUDGET +EPOCH$/m);
  assert.match(shown(over), /^RANK +IN MEMORY +BUDGET +SERVED +LOADED A TOKEN +PREDICTED +EPOCH$/m);
  const inRoles = rankStates(pods, [{ rank: 1, role: "decode" }]);
  assert.match(
    sectionsText([rankTable(["rank", "state", "epoch"], inRoles)]),
    /^RANK +STATE +ROLE +EPOCH$\n *0 +Running +- +-$\n *1 +Running +decode +-$/m,
  );
  assert.match(shown(over), /^ *0 +3\.00 MiB +8\.00 MiB +8\.00 MiB +1\.00 MiB +2\.00 MiB +-$/m);
});

test("requests at once and the least ranks are shown with their arithmetic", () => {
  const status = {
    model: { architecture: "Mixtral", requestsPerRank: 2, requestsPerRankReason: "kvPool 4Mi" },
    expertParallel: { leastRanks: 3, leastRanksReason: "16 experts" },
  };
  assert.equal(said("Requests", deployment({}, status)), "2 at once per rank (kvPool 4Mi)");
  assert.equal(said("Ranks", deployment({}, status)), "at least 3 (16 experts)");
});

test("a worker is expected to take what the operator leaves for its process beside what is resident, and the help says so", () => {
  assert.equal(expectedMemory({ hostedBytes: 0 }), processBytes);
  assert.equal(expectedMemory({ hostedBytes: 1000, denseBytes: 200, kvBytes: 300 }), 1725 + 400_000_000);
  assert.equal(expectedMemory({ hostedBytes: 1000, denseBytes: 200, kvBytes: 300 }, 1000), 2875 + 400_000_000);
  assert.equal(expectedMemory({ denseBytes: 200 }), undefined, "not known before the rank tells what it holds");
  assert.equal(expectedMemoryFormula, "1.15 x (dense part + KV pool + kvOffload + EXPERTS) + 400 MB");
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

test("a rollout names the green deployment, its phase and since when", () => {
  const green = { name: "moe-1234abcd", phase: "Serving", since: "2026-03-01T10:00:00Z" };
  const text = (rollout: object) => sectionsText(rolloutSections(deployment({}, { rollout })));
  assert.match(text({ phase: "Progressing", revision: 2, green }), /^green +moe-1234abcd Serving {3}since 2026-03-01T10:00:00Z$/m);
  assert.doesNotMatch(text({ phase: "Complete" }), /green/);
});

test("the revision in effect and the last whole one are marked while a roll goes on", () => {
  const rollout = { revision: 2, stableRevision: 1, phase: "Progressing" };
  const row = (number: number) => ({ number, generation: number, templateHash: "hash", image: "image", model: "model" });
  const states = (of: object) =>
    historySections(deployment({}, { rollout: { ...rollout, ...of } }), [2, 1].map(row))
      .slice(0, 1)
      .flatMap((section) => (section.kind === "table" ? section.rows.map((cells) => textOf(cells.at(-1))) : []));
  assert.deepEqual(states({}), ["in effect", "whole"]);
  assert.deepEqual(states({ stableRevision: 2 }), ["in effect, whole", ""]);
});

test("a condition whose message stands above has none in the table", () => {
  const conditions = [condition("Ready", "False", "NoCapacity"), condition("Degraded", "True", "Lost")];
  const text = sectionsText([conditionTable(conditions, "Ready says why\n")]);
  assert.doesNotMatch(text, /Ready says why/);
  assert.match(text, /Degraded says why/);
});
