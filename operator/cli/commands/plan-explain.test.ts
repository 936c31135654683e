import assert from "node:assert/strict";
import { test } from "node:test";
import { labels } from "../../../crds/common.ts";
import { parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { encodeLayer } from "../../../crds/plan.ts";
import { FakeKube } from "../../../test/kit/kube/fake-kube.ts";
import { resources } from "../../kube/kube.ts";
import { expertMap } from "../../views/experts-view.ts";
import { explain, explainedSections, layerTable } from "../../views/plan.ts";
import { mapSvg, mapText } from "../expert-map.ts";
import { sectionsText } from "../table.ts";
import { gather } from "./plan-explain.ts";

const ref = { namespace: "ns", name: "moe" };
const writer = { manager: "test" };

const placement = {
  spec: {
    deploymentUID: "uid",
    epoch: 5,
    parentEpoch: 4,
    planHash: "h",
    modelDigest: "d",
    ranks: [0, 1, 2].map((rank) => ({ rank, podName: `moe-${rank}-abcde`, podUID: `u${rank}` })),
    layers: [
      { layer: 0, epoch: 5, hosts: "0.2,1,2", weights: "600.400,1000,1000" },
      { layer: 1, epoch: 3, hosts: "0.1,1.2,2", weights: "500.500,1000.0,1000" },
    ],
    reason: "incremental: 160% -> 108% (bound 100%) with 2 moves, 200 bytes",
  },
  status: {
    phase: "Committed",
    committedEpoch: 5,
    ranks: [{ rank: 0, hostedBytes: 200, budgetBytes: 400, speedPercent: 80 }],
    predicted: { imbalancePercent: 108, boundPercent: 100, moves: 2, bytes: 200 },
    measured: { imbalancePercent: 111, moves: 2, bytes: 200, durationMs: 1500 },
    phases: [
      { phase: "prefill", selections: 900, imbalancePercent: 140 },
      { phase: "decode", selections: 4000, imbalancePercent: 109 },
    ],
    decision: {
      reason: "WithinNoise",
      message: "worst layer at 111%, trigger 110%, of which 2% may be chance",
      numbers: { imbalancePercent: 111, triggerPercent: 110, noisePercent: 2 },
    },
    forecast: { newestWeightPercent: 35, errorPermille: 31, noisePermille: 12, changePermille: 25, changed: true, windows: 40 },
  },
};

/** A namespace with one deployment whose ranks 0 and 1 share a node, and its plan. */
async function cluster(): Promise<FakeKube> {
  const kube = new FakeKube();
  const object = (kind: { apiVersion: string; kind: string }, name: string, rest: object) => ({
    apiVersion: kind.apiVersion,
    kind: kind.kind,
    metadata: { name, namespace: "ns" },
    ...rest,
  });
  const spec = { model: { uri: "pvc://models/moe" }, replicas: 3, experts: { minExpertReplicas: 2 } };
  await kube.create(resources.moeDeployments, object(resources.moeDeployments, "moe", { spec }), writer);
  const plan = object(resources.expertPlacements, "moe", placement);
  const created = await kube.create(resources.expertPlacements, plan, writer);
  await kube.updateStatus(resources.expertPlacements, { ...created, status: placement.status }, writer);
  for (const [rank, nodeName] of ["a", "a", "b"].entries()) {
    // Pods were replaced since the plan was made: their names are others.
    const pod = object(resources.pods, `moe-${rank}-fghij`, { spec: { nodeName, containers: [] } });
    const owned = { [labels.deployment]: "moe", [labels.component]: "worker", [labels.rank]: String(rank) };
    await kube.create(resources.pods, { ...pod, metadata: { ...pod.metadata, labels: owned } }, writer);
  }
  const event = (name: string, reason: string, time: string, kind = "MoEDeployment") =>
    object(resources.events, name, { regarding: { kind, name: "moe" }, reason, note: `${reason} said`, eventTime: time });
  await kube.create(resources.events, event("e2", "PlacementCommitted", "2026-01-01T00:00:09Z"), writer);
  await kube.create(resources.events, event("e1", "RebalanceStarted", "2026-01-01T00:00:01Z"), writer);
  await kube.create(resources.events, event("e3", "Killing", "2026-01-01T00:00:05Z", "Pod"), writer);
  return kube;
}

test("explain tells the plan, its reason, what came of it, the phases, the decision, and the events oldest first", async () => {
  const facts = await gather(await cluster(), ref);
  const text = sectionsText(explainedSections(facts, explain(facts)));
  for (const line of [
    /^policy +incremental \(Auto\)$/m,
    /^epoch +5 \(Committed, parent 4\)$/m,
    /^plan +incremental: 160% -> 108%/m,
    /^predicted +imbalance 108%, bound 100%, 2 moves/m,
    /^measured +imbalance 111%.* 1\.5 s$/m,
    /^by phase +prefill 140% worst layer of 900 selections, decode 109% .*planned for the sum/m,
    /^decision +WithinNoise: worst layer at 111%/m,
    /^numbers +imbalancePercent 111, triggerPercent 110, noisePercent 2$/m,
    /^forecast +the newest window weighs 35%; it misses 3\.1% of the load, of which 1\.2% are chance; .* changed 2\.5%; it has just changed/m,
    /^layers +changed by this plan: 0$/m,
    /RebalanceStarted: RebalanceStarted said\n.*PlacementCommitted: PlacementCommitted said$/,
  ])
    assert.match(text, line);
  assert.doesNotMatch(text, /Killing/);
});

test("explain counts experts whose expert replicas are all on one node, whatever their number", async () => {
  const facts = await gather(await cluster(), ref);
  // Layer 0: expert 0 is on nodes a and b; layer 1: expert 0 on ranks 0 and 1, both on a.
  assert.equal(explain(facts).atRisk, 4);
  assert.match(
    sectionsText(explainedSections(facts, explain(facts))),
    /at risk +4 experts have all their expert replicas on one node.* minExpertReplicas is 2/,
  );
  assert.equal(explain({ ...facts, nodes: new Map() }).atRisk, 3, "pods of unknown nodes count as apart");
});

test("explain lists what each rank hosts, and every expert of a layer with its weights", async () => {
  const facts = await gather(await cluster(), ref);
  assert.deepEqual(
    explain(facts).hosting.map(({ rank, experts, expertReplicas, bytes, speedPercent }) => [
      rank,
      experts,
      expertReplicas,
      bytes,
      speedPercent,
    ]),
    [
      [0, 2, 0, 200, 80],
      [1, 3, 1, undefined, undefined],
      [2, 4, 2, undefined, undefined],
    ],
  );
  assert.match(sectionsText(explainedSections(facts, explain(facts))), /SPEED\n +0 .* 80%\n/);
  assert.match(sectionsText(layerTable(facts.placement, 1)), /^layer 1, epoch 3\n.*\n +0 +0 \(primary\) 50\.0%, 1 50\.0%/);
  assert.throws(() => layerTable(facts.placement, 7), { code: "InvalidOption", message: /the plan has layers 0, 1/ });
});

test("a deployment that is not there, or has no plan yet, is said with what to look at", async () => {
  const kube = await cluster();
  await assert.rejects(gather(kube, { ...ref, name: "other" }), { code: "NotFound", message: /no MoEDeployment "other" in namespace ns/ });
  await kube.delete(resources.expertPlacements, ref);
  await assert.rejects(gather(kube, ref), { code: "NotFound", message: /no plan yet.*enodia status moe/ });
});

/** Two layers of three experts on two ranks; the second layer has expert 0 on both. */
const mapped = (layers: readonly { hosts: number[][]; weights: number[][] }[]) =>
  parseExpertPlacement({
    metadata: { name: "moe", namespace: "ns" },
    spec: {
      deploymentUID: "u",
      epoch: 7,
      parentEpoch: 6,
      planHash: "h",
      modelDigest: "d",
      ranks: [0, 1].map((rank) => ({ rank, podName: `p${rank}`, podUID: `u${rank}` })),
      layers: layers.map((plan, layer) => ({ layer, epoch: 7, ...encodeLayer(plan) })),
    },
    status: {
      ranks: [
        { rank: 0, hostedBytes: 2 ** 20, loadPercent: 104, state: "active" },
        { rank: 1, state: "draining" },
      ],
    },
  });
const two = mapped([
  { hosts: [[0], [1], [0]], weights: [[1000], [1000], [1000]] },
  { hosts: [[1, 0], [1], [0]], weights: [[600, 400], [1000], [1000]] },
]);

test("experts: a cell is the share of an expert's rows, over all layers or in one", () => {
  const all = expertMap(two, undefined);
  assert.deepEqual(
    all.rows.map(({ rank, held, expertReplicas, weights }) => [rank, held, expertReplicas, weights]),
    [
      [0, 4, 1, [0.7, 0, 1]],
      [1, 3, 0, [0.3, 1, 0]],
    ],
  );
  assert.deepEqual(expertMap(two, 1).rows[0]?.weights, [0.4, 0, 1]);
  assert.throws(() => expertMap(two, 2), { code: "InvalidOption", message: "--layer: the plan has layers 0, 1" });
});

test("experts: the map in the terminal has a glyph for each share, and says what it means", () => {
  const lines = mapText(expertMap(two, undefined), 120).split("\n");
  assert.equal(lines[0], "ns/moe   epoch 7, 2 layers together, experts 0 to 2");
  assert.equal(lines[3], "   0 |* #|    4 experts,   1 secondary,  1.00 MiB, load 104%");
  assert.equal(lines[4], "   1 |:# |    3 experts,   0 secondary,         -, load -  draining");
  assert.match(lines.at(-1) ?? "", /blank none, \. to 20%.*# all; a cell is an expert$/);
});

test("experts: where a line has no room, neighbours share a cell, and the picture stays small", () => {
  const experts = Array.from({ length: 256 }, (_, e) => e % 2);
  const wide = expertMap(mapped([{ hosts: experts.map((rank) => [rank]), weights: experts.map(() => [1000]) }]), undefined);
  const lines = mapText(wide, 80).split("\n");
  assert.ok(
    lines.slice(2, 5).every((line) => line.length <= 80),
    lines[3],
  );
  assert.match(lines.at(-1) ?? "", /a cell is 16 experts, their mean$/);
  const picture = mapSvg(wide);
  assert.equal(picture.match(/<rect [^>]*fill="rgb/g)?.length, 256);
  assert.ok(picture.startsWith("<svg ") && picture.includes('data-made-by="enodia experts"'));
});
