// The pod of one rank. Created by POST and never re-applied: a changed template gives another hash, and the pod is replaced.
import { createHash } from "node:crypto";
import { annotations, labels, paths, ports } from "../../../crds/common.ts";
import { parseDuration, parseQuantity } from "../../../crds/quantity.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { Refusal } from "../core/snapshot.ts";
import { names, objectLabels, objectMeta, type RenderContext, selectorLabels } from "./context.ts";
import { mergePodTemplate, type PodShape, workerKind } from "./pod-template.ts";
import {
  commonEnv,
  commonMounts,
  commonVolumes,
  containerSecurity,
  type Env,
  podSecurity,
  probes,
  rankEnv,
  terminationGraceSeconds,
} from "./runtime-pod.ts";

/** Load is sampled at least this often; the planner sums samples into its window. */
const telemetrySampleMs = 5_000;
const telemetrySampleMsMin = 250;
const samplesPerWindow = 3;

export interface WorkerTemplate {
  readonly pod: PodShape;
  readonly hash: string;
  readonly refusals: readonly Refusal[];
  /** Memory limit of the container runtime, when it has one. */
  readonly limitBytes: number | undefined;
}

/** The pod without rank and name: what the hash is taken of. */
export function workerTemplate(context: RenderContext): WorkerTemplate {
  const { pod, refusals } = mergePodTemplate(basePod(context), context.deployment.spec.podTemplate, workerKind);
  const hash = createHash("sha256").update(JSON.stringify(pod)).digest("hex").slice(0, 16);
  return { pod, hash, ...memoryLimit(pod, refusals) };
}

export function workerPod(context: RenderContext, template: WorkerTemplate, rank: number, suffix: string): KubeObject {
  const { name } = context.deployment.metadata;
  const podName = `${name}-${rank}-${suffix}`;
  const { pod, hash } = template;
  const meta = objectMeta(context, podName, "worker");
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      ...meta,
      labels: { ...pod.labels, [labels.rank]: String(rank) },
      annotations: { ...pod.annotations, [annotations.templateHash]: hash },
    },
    spec: {
      ...pod.spec,
      volumes: pod.spec.volumes.map((volume) => (volume.name === "tls" ? commonVolumes(context, names.podTls(podName))[1] : volume)),
    },
  };
}

function memoryLimit(pod: PodShape, refusals: readonly Refusal[]): { limitBytes: number | undefined; refusals: readonly Refusal[] } {
  const runtime = pod.spec.containers.find((container) => container.name === workerKind.container);
  const limit = (runtime?.resources as { limits?: { memory?: unknown } } | undefined)?.limits?.memory;
  if (limit === undefined) return { limitBytes: undefined, refusals };
  try {
    return { limitBytes: parseQuantity(limit as string, "limits.memory"), refusals };
  } catch {
    return { limitBytes: undefined, refusals }; // the API server knows more notations; it judges the pod itself
  }
}

function basePod(context: RenderContext): PodShape {
  const { deployment, settings } = context;
  const { name } = deployment.metadata;
  return {
    labels: objectLabels(name, "worker"),
    annotations: {},
    spec: {
      restartPolicy: "Always",
      serviceAccountName: name,
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      terminationGracePeriodSeconds: terminationGraceSeconds,
      securityContext: podSecurity,
      topologySpreadConstraints: [
        {
          maxSkew: 1,
          topologyKey: "kubernetes.io/hostname",
          whenUnsatisfiable: "ScheduleAnyway",
          labelSelector: { matchLabels: selectorLabels(name, "worker") },
        },
      ],
      containers: [
        {
          name: workerKind.container,
          image: settings.runtimeImage,
          imagePullPolicy: settings.pullPolicy,
          command: ["node", "runtime/main.ts", "worker"],
          workingDir: "/app",
          env: [...commonEnv(context), ...workerEnv(context)],
          ports: [
            { name: "grpc", containerPort: ports.grpc },
            { name: "metrics", containerPort: ports.metrics },
          ],
          ...probes,
          securityContext: containerSecurity,
          volumeMounts: [...commonMounts(), ...(natsSecret(context) ? [{ name: "nats", mountPath: paths.nats, readOnly: true }] : [])],
        },
      ],
      volumes: [...commonVolumes(context, ""), ...natsVolume(context)],
    },
  };
}

/** glibc: weights of an expert are mapped on their own (1 MiB and more), so that a released expert's memory leaves the container. */
const allocator: readonly Env[] = [
  { name: "MALLOC_MMAP_THRESHOLD_", value: "1048576" },
  { name: "MALLOC_ARENA_MAX", value: "2" },
];

function workerEnv(context: RenderContext): Env[] {
  const { spec } = context.deployment;
  const url = spec.telemetry.nats.url ?? context.settings.natsUrl;
  const { memoryPerRank } = spec.experts;
  // 0 = the worker takes what its container limit leaves beside dense part, KV pool and 15%.
  const budget = memoryPerRank === undefined ? 0 : parseQuantity(memoryPerRank, "spec.experts.memoryPerRank");
  return [
    rankEnv(),
    ...allocator,
    { name: "ENODIA_BACKEND", value: spec.runtime.backend },
    { name: "ENODIA_EXPERT_CODEC", value: spec.runtime.expertCodec },
    { name: "ENODIA_KV_POOL_BYTES", value: String(parseQuantity(spec.runtime.kvPool, "spec.runtime.kvPool")) },
    { name: "ENODIA_EXPERT_BUDGET_BYTES", value: String(budget) },
    ...(url
      ? [
          { name: "ENODIA_NATS_URL", value: url },
          ...(natsSecret(context) ? [{ name: "ENODIA_NATS_CREDS", value: paths.nats }] : []),
          { name: "ENODIA_NATS_PREFIX", value: spec.telemetry.nats.subjectPrefix },
          { name: "ENODIA_TELEMETRY_WINDOW_MS", value: String(sampleMs(spec.rebalancing.trigger.window)) },
        ]
      : []),
  ];
}

/** Several samples a window: one that covers a change of plan is not counted. */
function sampleMs(window: string): number {
  const share = Math.floor(parseDuration(window, "spec.rebalancing.trigger.window") / samplesPerWindow);
  return Math.min(telemetrySampleMs, Math.max(telemetrySampleMsMin, share));
}

const natsSecret = (context: RenderContext): string | undefined => context.deployment.spec.telemetry.nats.credentialsSecretRef?.name;

function natsVolume(context: RenderContext) {
  const secretName = natsSecret(context);
  // Optional: without its Secret a worker serves all the same, only unheard.
  return secretName ? [{ name: "nats", secret: { secretName, defaultMode: 0o440, optional: true } }] : [];
}
