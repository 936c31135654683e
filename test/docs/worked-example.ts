// The example of operator/docs/placement.md, computed: production code in virtual time, on a cluster that is small enough to follow by
// hand. `npm run -s example -- decision` prints how a plan comes to be held as TransferNotWorth, `-- objects` the pods and the
// ExpertPlacement that a MoEDeployment leads to. docs.test.ts holds the document to what this prints.
import { parse, stringify } from "yaml";
import { labels } from "../../crds/common.ts";
import { parseMoEDeployment } from "../../crds/moe-deployment.ts";
import { parseQuantity } from "../../crds/quantity.ts";
import { workerPod, workerTemplate } from "../../operator/deployment/objects/worker-pod.ts";
import { imbalance } from "../../runtime/placement/imbalance.ts";
import { loadByWeights } from "../../runtime/placement/split.ts";
import { settings } from "../kit/deployment/deployment.ts";
import { SimCluster } from "../sim/cluster.ts";
import { ref } from "../sim/worker.ts";

const ranks = 3;
const layers = 4;
const experts = 6;
const expertSize = "1Mi";
const expertBytes = parseQuantity(expertSize, "example");
/** The selections of each expert of a layer in a second; only layer 0 is uneven. */
const skewed = [2100, 1500, 1200, 900, 900, 600];
const even = skewed.map(() => skewed.reduce((a, b) => a + b, 0) / experts);
const demand = (layer: number): readonly number[] => (layer === 0 ? skewed : even);
/** Virtual time in which the first plan is made and the load of one window judged. */
const storyMs = 25_000;
/** The width of the printed lines. */
const lineWidth = 130;

interface Setting {
  readonly memoryPerRank: string;
  readonly maxTransferBytesPerSecond: string;
}

const tight: Setting = { memoryPerRank: "9Mi", maxTransferBytesPerSecond: "8Ki" };
const usual: Setting = { ...tight, maxTransferBytesPerSecond: "64Mi" };
const roomy: Setting = { ...usual, memoryPerRank: "10Mi" };

/** One expert replica of every expert takes 8Mi a rank; 1Mi is for staging, and the tenth is room for an expert replica in one layer. */
const manifest = ({ memoryPerRank, maxTransferBytesPerSecond }: Setting): string => `apiVersion: enodia.dev/v1alpha1
kind: MoEDeployment
metadata: {name: ${ref.name}, namespace: ${ref.namespace}}
spec:
  model: {uri: "pvc://models/small"}
  replicas: ${ranks}
  experts: {memoryPerRank: ${memoryPerRank}}
  rebalancing:
    budget: {maxTransferBytesPerSecond: ${maxTransferBytesPerSecond}}
`;

/** The cluster after its first plan and one window of load. */
async function played(setting: Setting): Promise<SimCluster> {
  const budgetBytes = parseQuantity(setting.memoryPerRank, "experts.memoryPerRank");
  const shape = { layers, experts, bytes: expertBytes, storedBytes: expertBytes, budgetBytes };
  const sim = new SimCluster({ ranks, shape, spec: parse(manifest(setting)).spec });
  sim.demand = demand;
  sim.startOperator();
  await sim.clock.run(storyMs);
  return sim;
}

const event = (sim: SimCluster, reason: string): string => sim.events.find((each) => each.reason === reason)?.message ?? "none";

/** Rows a second that each rank computes of a layer under the stored plan. */
function rankLoad(sim: SimCluster, layer: number): number[] {
  const plan = sim.plan()?.layers[layer];
  return plan ? [...loadByWeights(demand(layer), plan.hosts, plan.weights, ranks)] : [];
}

/** Mean of all layers' max/mean: what layer time is proportional to. */
function meanImbalance(sim: SimCluster): number {
  const each = Array.from({ length: layers }, (_, l) => imbalance(Float64Array.from(rankLoad(sim, l)), new Float64Array(ranks).fill(1)));
  return each.reduce((a, b) => a + b, 0) / layers;
}

const percent = (ratio: number): string => `${(ratio * 100).toFixed(2)}%`;

/** The text of the decision, from the load to `TransferNotWorth`, and what a faster transfer or more memory would have led to. */
export async function decisionText(): Promise<string> {
  const [held, moved, copied] = await Promise.all([tight, usual, roomy].map(played));
  if (!held || !moved || !copied) throw new Error("the example has three runs");
  const numbers = held.stored?.status.decision?.numbers ?? {};
  const [before, after] = [meanImbalance(held), meanImbalance(moved)];
  const hosts = held.plan()?.layers[0]?.hosts ?? [];
  const holds = Array.from({ length: ranks }, (_, rank) => hosts.flatMap((row, e) => (row.includes(rank) ? [e] : [])).join(" and "));
  const load = rankLoad(held, 0);
  const mean = load.reduce((a, b) => a + b, 0) / ranks;
  const { lifetimeSeconds = 0, gainSeconds = 0, transferSeconds = 0, costSeconds = 0, moves = 0 } = numbers;
  return `load       layer 0: experts 0 to 5 are chosen ${skewed.join(", ")} times a second; layers 1 to 3: ${even[0]} times each
placement  layer 0: ${holds.map((list, rank) => `rank ${rank} holds experts ${list}`).join(", ")}
imbalance  layer 0: ranks compute ${load.join(", ")} rows a second; busiest over mean is ${Math.max(...load)} / ${mean} = ${numbers.beforePercent}%
plan?      yes: the trigger is 110%. The policy finds ${moves} moves that bring layer 0 to ${numbers.afterPercent}%
gain       mean of the ${layers} layers: ${percent(before)} -> ${percent(after)}, ${percent((before - after) / before)} of their time; in ${lifetimeSeconds} s that is ${gainSeconds} s
transfer   each of ${moves} ranks takes ${expertSize} at ${tight.maxTransferBytesPerSecond} a second: ${transferSeconds} s, both at the same time
cost       a tenth of that time and 2 ms a move: ${costSeconds} s
move?      no: ${gainSeconds} s of gain do not pay for ${costSeconds} s of cost
event      RebalanceHeld ${event(held, "RebalanceHeld")}

The same with maxTransferBytesPerSecond ${usual.maxTransferBytesPerSecond}, the default:
event      RebalanceStarted ${event(moved, "RebalanceStarted")}

And with memoryPerRank ${roomy.memoryPerRank}, which has room for an expert replica:
event      RebalanceStarted ${event(copied, "RebalanceStarted")}
`;
}

/** A deployment, its pods and its plan as Kubernetes has them, all shortened. */
export async function objectsText(): Promise<string> {
  const sim = await played(roomy);
  const yaml = manifest(roomy);
  const deployment = parseMoEDeployment({ metadata: { ...ref, uid: sim.stored?.spec.deploymentUID }, spec: parse(yaml).spec });
  const context = { deployment, settings };
  const template = workerTemplate(context);
  const pods = [...sim.pods.values()].map(({ rank, podUid }) => workerPod(context, template, rank, podUid) as unknown as WorkerPod);
  return `${yaml}---\n${pods.map(podLine).join("\n")}\n---\n${stringify(shortened(sim), { lineWidth })}`;
}

interface WorkerPod {
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly spec: { readonly containers: readonly { readonly env: readonly { readonly name: string; readonly value?: string }[] }[] };
}

function podLine({ metadata, spec }: WorkerPod): string {
  const budget = spec.containers[0]?.env.find(({ name }) => name === "ENODIA_EXPERT_BUDGET_BYTES");
  return `pod/${metadata.name}  ${labels.rank}=${metadata.labels[labels.rank]}  ${budget?.name}=${budget?.value}`;
}

/** The object with the first entries of its lists, and only the fields that the example tells of. */
function shortened({ stored }: SimCluster): object {
  if (!stored) throw new Error("the example has a plan");
  const { epoch, parentEpoch, modelDigest, ranks, layers, reason } = stored.spec;
  const { phase, committedEpoch, layersCommitted, ranks: reported = [], predicted } = stored.status;
  return {
    apiVersion: "enodia.dev/v1alpha1",
    kind: "ExpertPlacement",
    metadata: { ...ref },
    spec: { epoch, parentEpoch, modelDigest, ranks: ranks.slice(0, 1), layers: layers.slice(0, 2), reason },
    status: { phase, committedEpoch, layersCommitted, ranks: reported.slice(0, 1), predicted },
  };
}

const sections: Readonly<Record<string, () => Promise<string>>> = { decision: decisionText, objects: objectsText };

if (import.meta.main) {
  const wanted = process.argv[2] ?? "decision";
  const section = sections[wanted];
  process.stdout.write(section ? await section() : `no "${wanted}": ${Object.keys(sections).join(" or ")}\n`);
  if (!section) process.exitCode = 1;
}
