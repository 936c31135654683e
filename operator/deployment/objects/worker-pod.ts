// The pod of one rank: created once, and replaced when its hash changes.

import { z } from "zod";
import { annotations, labels, paths, ports } from "../../../crds/common.ts";
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { gated } from "../../../crds/pod-gates.ts";
import { graceSecondsBounds, modelVolume, workerLifetime, workerProcess } from "../../../crds/process.ts";
import { parseQuantity } from "../../../crds/quantity.ts";
import { telemetrySecretName } from "../../../crds/telemetry-keys.ts";
import { renderEnv } from "../../../crds/variables.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { Refusal } from "../../kube/refusal-text.ts";
import { tlsSecrets } from "../../pki/names.ts";
import { mergePodTemplate, type PodShape, templateContainer, workerKind } from "../../pods/pod-template.ts";
import { containerSecurity, podSecurity } from "../../pods/security.ts";
import { graceSeconds } from "../core/handover.ts";
import { objectLabels, objectMeta, type RenderContext } from "./context.ts";
import { modelPlace, modelText } from "./model-place.ts";
import { gangAnnotation, membership } from "./pod-group.ts";
import { workerHash } from "./pod-hash.ts";
import { commonMounts, commonVolumes, modelMount, modelVolumeOf, probes, processFacts } from "./runtime-pod.ts";
import { placed, spreadOverNodes } from "./topology.ts";

export interface RenderedPod {
  readonly pod: PodShape;
  readonly hash: string;
}

export interface WorkerTemplate extends RenderedPod {
  readonly limitBytes: number | undefined;
}

export function workerTemplate(context: RenderContext): WorkerTemplate & { readonly refusals: readonly Refusal[] } {
  const { deployment, settings } = context;
  const merged = mergePodTemplate(basePod(context), deployment.spec.podTemplate, workerKind);
  const { pod, refusals } = placed(withDisk(merged.pod, deployment.spec), deployment);
  return {
    pod,
    hash: workerHash(deployment, settings.runtimeImage, context.weightServer !== undefined),
    limitBytes: memoryLimit(pod),
    refusals: [...merged.refusals, ...refusals],
  };
}

/** Else the ranks have a weight server. */
export const mountsClaim = ({ pod }: RenderedPod): boolean =>
  pod.spec.volumes.some(({ name, persistentVolumeClaim }) => name === modelVolume && persistentVolumeClaim !== undefined);

const ephemeral = "ephemeral-storage";
const kvDisk = "kv";
const fields = z.record(z.string(), z.unknown());
/** The hash is stored, since pods were made with it. */
export const storedPod = z.object({
  hash: z.string().min(1),
  pod: z.object({
    labels: z.record(z.string(), z.string()),
    annotations: z.record(z.string(), z.string()),
    spec: z.looseObject({ containers: z.array(fields), volumes: z.array(fields) }),
  }),
});
export const storedTemplate = storedPod.transform(({ hash, pod }): WorkerTemplate => ({ hash, pod, limitBytes: memoryLimit(pod) }));

export function workerPod(context: RenderContext, template: WorkerTemplate, rank: number, suffix: string): KubeObject {
  const { name } = context.deployment.metadata;
  const podName = `${name}-${rank}-${suffix}`;
  const { pod, hash } = template;
  // Not in the hash, since a new period must replace no pod.
  const terminationGracePeriodSeconds = pod.spec.terminationGracePeriodSeconds ?? graceSeconds(context.deployment.spec);
  const { min, max } = graceSecondsBounds;
  const lifetime = renderEnv(workerLifetime, { graceSeconds: Math.min(max, Math.max(min, Number(terminationGracePeriodSeconds))) });
  const meta = objectMeta(context, podName, "worker");
  const member = membership(context);
  const schedulerName = pod.spec.schedulerName ?? member.schedulerName;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      ...meta,
      labels: { ...pod.labels, ...member.labels, [labels.rank]: String(rank) },
      annotations: { ...pod.annotations, ...member.annotations, [annotations.templateHash]: hash },
    },
    spec: {
      ...gated(pod.spec),
      ...(schedulerName === undefined ? {} : { schedulerName }),
      terminationGracePeriodSeconds,
      containers: pod.spec.containers.map((container) =>
        container.name === workerKind.container ? { ...container, env: [...((container.env ?? []) as unknown[]), ...lifetime] } : container,
      ),
      volumes: pod.spec.volumes.map((volume) => (volume.name === "tls" ? commonVolumes(tlsSecrets.pod(podName))[1] : volume)),
    },
  };
}

/** The scheduler counts the disk of kvOffload, unless the template has a limit for it. */
function withDisk(pod: PodShape, { runtime: { kvOffload } }: MoEDeploymentSpec): PodShape {
  const request = (container: PodShape["spec"]["containers"][number]) => {
    const resources = (container.resources ?? {}) as { requests?: Record<string, unknown>; limits?: Record<string, unknown> };
    if (container.name !== workerKind.container || resources.limits?.[ephemeral] !== undefined) return container;
    return { ...container, resources: { ...resources, requests: { [ephemeral]: kvOffload?.disk, ...resources.requests } } };
  };
  return kvOffload?.disk === undefined ? pod : { ...pod, spec: { ...pod.spec, containers: pod.spec.containers.map(request) } };
}

function memoryLimit(pod: PodShape): number | undefined {
  const runtime = pod.spec.containers.find((container) => container.name === workerKind.container);
  const limit = (runtime?.resources as { limits?: { memory?: unknown } } | undefined)?.limits?.memory;
  if (limit === undefined) return undefined;
  try {
    return parseQuantity(limit as string, "limits.memory");
  } catch {
    return undefined; // the API server knows more notations and judges the pod itself
  }
}

function basePod(context: RenderContext): PodShape {
  const { deployment, settings } = context;
  const { name } = deployment.metadata;
  const placeAnnotation = { [annotations.modelPlace]: modelText(modelPlace(deployment.spec)) };
  const { disk } = deployment.spec.runtime.kvOffload ?? {};
  const mount = context.weightServer ? { name: modelMount.name, mountPath: modelMount.mountPath } : modelMount;
  return {
    labels: objectLabels(name, "worker"),
    annotations: context.weightServer ? { ...gangAnnotation(deployment), ...placeAnnotation } : gangAnnotation(deployment),
    spec: {
      restartPolicy: "Always",
      serviceAccountName: name,
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      securityContext: podSecurity,
      topologySpreadConstraints: spreadOverNodes(deployment),
      containers: [
        {
          name: workerKind.container,
          image: settings.runtimeImage,
          imagePullPolicy: settings.pullPolicy,
          command: ["node", "runtime/main.ts", "worker"],
          workingDir: "/app",
          env: renderEnv(workerProcess, processFacts(context)),
          ports: [
            { name: "grpc", containerPort: ports.grpc },
            { name: "engine", containerPort: ports.engine },
            { name: "metrics", containerPort: ports.metrics },
            { name: "probes", containerPort: ports.probes },
          ],
          ...probes,
          securityContext: containerSecurity,
          volumeMounts: [
            ...commonMounts(),
            mount,
            { name: "telemetry", mountPath: paths.telemetry, readOnly: true },
            ...(disk === undefined ? [] : [{ name: kvDisk, mountPath: paths.kvDisk }]),
          ],
        },
      ],
      volumes: [
        ...commonVolumes(""),
        modelVolumeOf(context),
        telemetryVolume(name),
        ...(disk === undefined ? [] : [{ name: kvDisk, emptyDir: { sizeLimit: disk } }]),
      ],
    },
  };
}

/** Workers never mount the spec's Secret: the operator checks its type first. */
function telemetryVolume(name: string) {
  // A worker without the Secret serves, but nobody believes its load.
  return { name: "telemetry", secret: { secretName: telemetrySecretName(name), defaultMode: 0o440, optional: true } };
}

/** The image that the workers' template names. */
export function ownImage({ podTemplate }: MoEDeploymentSpec): string | undefined {
  const image = templateContainer(podTemplate, workerKind)?.image;
  return image === undefined ? undefined : String(image);
}
