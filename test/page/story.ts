// The story that the page is looked at with: a deployment of four ranks in virtual time, made by the operator's own loop, planner and
// sessions (test/sim), whose load changes so that experts move; statuses are made by the operator's own functions. It is recorded as
// frames, and a board is shown one after another. Beside it stand deployments and a training job in other states.
import { labels } from "../../crds/common.ts";
import { parseMoEDeployment } from "../../crds/moe-deployment.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { Verdict } from "../../operator/deployment/core/world.ts";
import { nextStatus } from "../../operator/deployment/features/status.ts";
import type { KubeObject } from "../../operator/kube/kube.ts";
import { bucketMs } from "../../operator/page/memory.ts";
import { PageState } from "../../operator/page/state.ts";
import type { PlacementView } from "../../operator/rebalance/status/placement-view.ts";
import { decide } from "../../operator/training/core/decide.ts";
import type { WarningEvent } from "../../operator/views/findings/finding.ts";
import { deployment, pod, snapshot, view } from "../kit/deployment/deployment.ts";
import { job, rankPod, observed as trainingObserved } from "../kit/training/training-decisions.ts";
import { SimCluster } from "../sim/cluster.ts";
import { deploymentUid } from "../sim/worker.ts";

const ranks = 4;
const layers = 4;
const experts = 16;
/** Small ones are hashed at once: larger ones take time of this machine, for which virtual time does not wait. */
const expertBytes = 100;
const nodes = 2;
export const frameMs = 250;
/** Before the load changes for the last time, and from then on in frames. */
const beforeMs = 2 * 60_000;
const framesMs = 40_000;
const changeEveryMs = 60_000;

export interface StoryFrame {
  /** Unix ms. */
  readonly at: number;
  readonly placement: PlacementView;
  readonly status: MoEDeploymentStatus;
}

/** Experts that are asked for most move on with each turn, by another step in each layer. */
const demandOf =
  (turn: number) =>
  (layer: number): number[] =>
    Array.from({ length: experts }, (_, e) => 40 + Math.round(900 * 0.72 ** ((e + turn * 5 + layer * 3) % experts)));

const spec = {
  model: { uri: "hf://mistralai/Mixtral-8x7B-Instruct-v0.1@main" },
  replicas: ranks,
  experts: { memoryPerRank: `${((layers * experts) / ranks + 5) * expertBytes}` },
  telemetry: { nats: { url: "nats://sim:4222" } },
  rebalancing: { trigger: { window: "5s" }, interval: "10s", budget: { maxTransferBytesPerSecond: "64" } },
};

/** The status as the operator would write it, with what the loop says at this moment. */
function statusOf(sim: SimCluster, before: MoEDeploymentStatus, at: number): MoEDeploymentStatus {
  const known = parseMoEDeployment({
    metadata: { name: "chat", namespace: "serving", uid: deploymentUid, generation: 1 },
    spec,
    status: before,
  });
  const pods = [...sim.pods.values()].map(({ rank, podUid, podName, ready }) => {
    return pod(rank, { uid: podUid, name: podName, ready, createdMs: at - 60_000, node: `node-${rank % nodes}` });
  });
  return nextStatus({
    snapshot: snapshot({ now: new Date(at), deployment: known, pods, view: sim.loop?.view() }),
    target: { ranks, pending: undefined } as never,
    ...{ refusals: [], blocked: undefined, operation: undefined, rollout: undefined, floor: undefined },
    ...{ failures: [], failure: "", judgeError: "", createError: "" },
  });
}

export interface Story {
  /** A frame each 5 s, which the board remembers. */
  readonly before: readonly StoryFrame[];
  readonly frames: readonly StoryFrame[];
}

/** Plays it in virtual time, some seconds of computing. Deterministic. */
export async function record(): Promise<Story> {
  const budgetBytes = ((layers * experts) / ranks + 5) * expertBytes;
  const sim = new SimCluster({ ranks, shape: { layers, experts, bytes: expertBytes, storedBytes: expertBytes, budgetBytes }, spec });
  let status: MoEDeploymentStatus = {};
  const play = async (ms: number, stepMs: number, demand: (at: number) => SimCluster["demand"]): Promise<StoryFrame[]> => {
    const frames: StoryFrame[] = [];
    for (let at = 0; at < ms; at += stepMs) {
      sim.demand = demand(at);
      await sim.clock.run(stepMs);
      const placement = sim.loop?.placement();
      if (!placement) continue;
      status = statusOf(sim, status, sim.clock.now());
      // A window's load is a buffer of the loop's, which it writes anew.
      const expected = placement.expected?.slice();
      frames.push({ at: sim.clock.now(), placement: { ...placement, expected }, status });
    }
    return frames;
  };
  sim.demand = demandOf(0);
  sim.startOperator();
  const before = await play(beforeMs, bucketMs, (at) => demandOf(Math.floor(at / changeEveryMs)));
  const frames = await play(framesMs, frameMs, () => demandOf(9));
  return { before, frames };
}

interface Telling {
  readonly pageState: PageState;
  now(): number;
  show(frame: StoryFrame): void;
}

/** A board that remembers the time before, and is shown one frame after another. */
export function tell({ before }: Pick<Story, "before">): Telling {
  let shown: StoryFrame | undefined;
  const now = (): number => shown?.at ?? 0;
  const cache = { list: (name: Copy, wanted = (_: KubeObject) => true) => listOf(name, shown).filter(wanted) };
  const pageState = new PageState({ cache, warnings: { of: () => ({ events: [contested(now())], unread: [] }) }, now });
  pageState.lead({ placement: (uid) => (uid === deploymentUid ? shown?.placement : undefined) });
  const show = (frame: StoryFrame): void => {
    shown = frame;
  };
  for (const frame of before) {
    show(frame);
    pageState.sample();
  }
  return { pageState, now, show };
}

type Copy = "moeDeployments" | "moeTrainingJobs" | "pods" | "trainingPods";

function listOf(name: Copy, shown: StoryFrame | undefined): readonly KubeObject[] {
  if (name === "trainingPods") return [];
  if (name === "moeTrainingJobs") return [training];
  if (name === "pods") return [killed((shown?.at ?? 0) - 40_000)];
  return [objectOf("serving", "chat", { spec, status: shown?.status ?? {} }), ...others];
}

const objectOf = (namespace: string, name: string, { spec, status }: { readonly spec: object; readonly status: object }): KubeObject => ({
  apiVersion: "enodia.dev/v1alpha1",
  kind: "MoEDeployment",
  metadata: { namespace, name, uid: name === "chat" ? deploymentUid : `${namespace}/${name}`, generation: 1, resourceVersion: "1" },
  spec,
  status,
});

/** A rank of `code-assistant` that its memory limit ended. */
const killed = (at: number): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    ...{ namespace: "tenants", name: "code-assistant-2", uid: "code-assistant-2" },
    labels: { [labels.deployment]: "code-assistant", [labels.component]: "worker", [labels.rank]: "2" },
  },
  spec: { containers: [{ name: "runtime", image: "enodia", resources: { limits: { memory: "2Gi" } } }] },
  status: {
    phase: "Running",
    containerStatuses: [
      {
        ...{ name: "runtime", restartCount: 3, state: {} },
        lastState: { terminated: { reason: "OOMKilled", exitCode: 137, finishedAt: new Date(at).toISOString() } },
      },
    ],
  },
});

const contested = (at: number): WarningEvent => ({
  namespace: "tenants",
  kind: "MoEDeployment",
  name: "code-assistant",
  reason: "FieldConflict",
  message: "spec.replicas is also set by kubectl",
  count: 2,
  lastAt: new Date(at - 60_000),
});

const fresh: Verdict = { status: "True", reason: "Fresh", message: "the oldest report is 1 s old" };

/** Deployments that stand otherwise: refused, without ranks, scaled up. */
const others: readonly KubeObject[] = [
  other(
    "code-assistant",
    { replicas: 4 },
    {
      refusals: [
        { reason: "InsufficientExpertMemory", message: "experts need 2.55Gi, 4 ranks x 0.5Gi = 2.0Gi: raise memoryPerRank to 0.7Gi" },
      ],
    },
  ),
  other("night-batch", { replicas: 2, suspend: true }, {}),
  other("translate", { replicas: 3 }, { serving: 3 }),
];

function other(
  name: string,
  more: { readonly replicas: number; readonly suspend?: boolean },
  { refusals = [], serving = 0 }: Readonly<{ refusals?: readonly { reason: string; message: string }[]; serving?: number }>,
): KubeObject {
  const wanted = { model: { uri: `pvc://models/${name}` }, ...more };
  const known = deployment(wanted, {}, { name, namespace: "tenants" });
  const pods = Array.from({ length: serving }, (_, rank) => pod(rank));
  const members = pods.map(({ rank, uid }) => ({ ...view().members[0], rank, podUid: uid, connected: true, active: true, ready: true }));
  const status = nextStatus({
    snapshot: snapshot({ deployment: known, pods, view: view({ members: members as never, telemetryFresh: fresh }) }),
    target: { ranks: more.replicas, pending: undefined } as never,
    refusals: refusals as never,
    ...{ blocked: undefined, operation: undefined, rollout: undefined, floor: undefined },
    ...{ failures: [], failure: "", judgeError: "", createError: "" },
  });
  return objectOf("tenants", name, { spec: wanted, status });
}

const trained = 4_200;

/** A job in the middle, decided by the operator's own function from what its pods say. */
const training: KubeObject = (() => {
  const pods = [0, 1, 2].map((rank) => rankPod(rank));
  const wanted = job({ replicas: 3, steps: 10_000, elasticity: { maxReplicas: 4 } });
  const curve = Array.from({ length: 60 }, (_, i) => ({
    step: 1 + Math.round((i * trained) / 59),
    loss: 1.9 + 3.6 * Math.exp(-i / 12) + 0.05 * Math.sin(i * 1.7),
  }));
  const spread = {
    imbalanceAtPrimaries: 1.82,
    imbalance: 1.07,
    copied: 0.21,
    exposedSeconds: 0.043,
    bytes: 81_000_000,
    expertShares: [0.01, 0.03, 0.06, 0.14],
  };
  const progress = {
    step: trained,
    loss: 1.93,
    validationLoss: 1.97,
    gradientNorm: 0.83,
    imbalance: 2.1,
    spread,
    tokensPerSecond: 18_400,
    secondsLeft: 5_300,
    curve,
  };
  const reports = new Map(pods.map(({ uid }) => [uid, { pod: uid, epoch: 0, training: 0, leastRanks: 1, progress }]));
  const first = decide(trainingObserved({ job: wanted, pods, reports })).status;
  const epoch = first.world?.epoch ?? 1;
  const told = new Map(pods.map(({ uid }) => [uid, { pod: uid, epoch, training: epoch, leastRanks: 1, progress }]));
  const { status } = decide(trainingObserved({ job: wanted, status: first, pods, reports: told }));
  return { ...objectOf("research", "writer", { spec: wanted.spec, status }), kind: "MoETrainingJob" };
})();
