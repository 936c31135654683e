// The pod of a training rank, rendered from spec and template, and the hash of what may change during a job. Pure.

import { createHash } from "node:crypto";
import { annotations, apiVersion, labels, paths, ports } from "../../crds/common.ts";
import { parseModelUri } from "../../crds/moe-deployment.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { defaultGang, type LogLevel, type PullPolicy } from "../../crds/names.ts";
import { gated } from "../../crds/pod-gates.ts";
import { trainerComponent, trainerProcess } from "../../crds/training-process.ts";
import { renderEnv } from "../../crds/variables.ts";
import type { GangScheduler } from "../gangs/gang.ts";
import { makerLabels } from "../kube/adoption.ts";
import type { KubeObject } from "../kube/kube.ts";
import { tlsSecrets } from "../pki/names.ts";
import { heldNote, onNode } from "../pods/claim-use.ts";
import type { PolicySettings } from "../pods/network-policy.ts";
import { mergePodTemplate, type PodShape, type TemplateKind, templateContainer } from "../pods/pod-template.ts";
import { containerSecurity, podSecurity } from "../pods/security.ts";
import { container } from "./core/pod-view.ts";

export interface TrainingSettings {
  readonly trainingImage: string;
  readonly pullPolicy: PullPolicy;
  readonly logLevel: LogLevel;
  readonly networkPolicies?: PolicySettings;
}

export const templateKind: TemplateKind = {
  field: "podTemplate",
  container: "runtime",
  open: [],
  passedOn: [],
  restartPolicy: "Never",
  fixed: { image: "set spec.image", terminationMessagePath: "the operator reads the end of a pod from there" },
};
/** Time to abandon a step and write a checkpoint of 10 GB at 100 MB/s. */
const graceSeconds = 120;
const hashChars = 16;

export const groupName = (job: string): string => `${job}-train`;
const podName = (job: string, { rank, attempt }: Made): string => `${groupName(job)}-${rank}-${attempt}`;

/** The result's bits do not depend on these fields, so that they may change and only replace the pod. All other fields are fixed. */
export function templateHash({ metadata, spec }: MoETrainingJob, image: string): string {
  const { memoryPerRank, checkpoint, fssdp, failurePolicy, podTemplate } = spec;
  const { shadow, stepTimeout } = failurePolicy;
  const { gang } = spec.scheduling;
  // The default scheduler is left out of the hash, as jobs from before PodGroups have it.
  const grouped = gang === defaultGang ? [] : [gang];
  const text = JSON.stringify([metadata.uid, memoryPerRank, checkpoint, fssdp, shadow, stepTimeout, podTemplate ?? {}, image, ...grouped]);
  return createHash("sha256").update(text).digest("hex").slice(0, hashChars);
}

interface Made {
  readonly image: string;
  readonly rank: number;
  /** Earlier pods of its rank. */
  readonly attempt: number;
  /** Undefined where it is scheduled alone. */
  readonly scheduler?: GangScheduler | undefined;
  /** The node of a claim that no other node can mount now. */
  readonly node?: string | undefined;
}

interface Problem {
  readonly reason: string;
  readonly message: string;
}

/** Refusals of the pod template. */
export function templateProblems(job: MoETrainingJob, settings: TrainingSettings): readonly Problem[] {
  const { refusals } = mergePodTemplate(basePod(job, settings, { image: "", rank: 0, attempt: 0 }), job.spec.podTemplate, templateKind);
  const { limits, requests } = resourcesOf(templateContainer(job.spec.podTemplate, templateKind));
  const field = `spec.podTemplate.spec.containers[${container}].resources`;
  const own = limits.memory === undefined && requests.memory === undefined;
  return own ? refusals : [...refusals, { reason: "FieldNotSupported", message: `${field}: memory is spec.memoryPerRank; set that` }];
}

type Resources = Readonly<Record<string, unknown>>;
export function resourcesOf(given: Resources | undefined): { readonly limits: Resources; readonly requests: Resources } {
  const { limits, requests } = (given?.resources ?? {}) as { limits?: Resources; requests?: Resources };
  return { limits: limits ?? {}, requests: requests ?? {} };
}

export function trainingPod(job: MoETrainingJob, settings: TrainingSettings, made: Made): KubeObject {
  const { pod } = mergePodTemplate(basePod(job, settings, made), job.spec.podTemplate, templateKind);
  const { metadata, spec } = job;
  const memory = String(spec.memoryPerRank);
  const containers = pod.spec.containers.map((one) => {
    if (one.name !== container) return one;
    const { limits, requests } = resourcesOf(one);
    return { ...one, resources: { limits: { ...limits, memory }, requests: { cpu: String(spec.threadsPerRank), ...requests, memory } } };
  });
  const member = made.scheduler?.member(groupName(metadata.name)) ?? { labels: {}, annotations: {} };
  const schedulerName = pod.spec.schedulerName ?? made.scheduler?.schedulerName;
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: podName(metadata.name, made),
      namespace: metadata.namespace,
      labels: { ...pod.labels, ...member.labels, [labels.rank]: String(made.rank) },
      annotations: {
        ...pod.annotations,
        ...member.annotations,
        [annotations.templateHash]: templateHash(job, made.image),
        [annotations.generation]: String(metadata.generation),
        [annotations.output]: spec.output.uri,
        ...heldNote(made.node),
      },
      ownerReferences: [ownerOf(job)],
    },
    spec: { ...gated(pod.spec), ...heldTo(made.node, pod), ...(schedulerName === undefined ? {} : { schedulerName }), containers },
  };
}

export const ownerOf = ({ metadata: { name, uid } }: MoETrainingJob) => ({
  apiVersion,
  kind: "MoETrainingJob",
  name,
  uid,
  controller: true,
  blockOwnerDeletion: false,
});

export const commonSpec = {
  restartPolicy: "Never",
  automountServiceAccountToken: false,
  enableServiceLinks: false,
  securityContext: podSecurity,
} as const;

export const tmp = { mount: { name: "tmp", mountPath: "/tmp" }, volume: { name: "tmp", emptyDir: { sizeLimit: "256Mi" } } } as const;

function basePod(job: MoETrainingJob, settings: TrainingSettings, made: Made): PodShape {
  return {
    labels: { ...makerLabels, [labels.trainingJob]: job.metadata.name, [labels.component]: trainerComponent },
    annotations: {},
    spec: {
      ...commonSpec,
      terminationGracePeriodSeconds: graceSeconds,
      containers: [
        {
          name: container,
          image: made.image,
          imagePullPolicy: settings.pullPolicy,
          command: ["node", "runtime/main.ts", "trainer"],
          workingDir: "/app",
          env: renderEnv(trainerProcess, { job, logLevel: settings.logLevel }),
          ports: [
            { name: "ranks", containerPort: ports.ranks },
            { name: "world", containerPort: ports.world },
          ],
          securityContext: containerSecurity,
          volumeMounts: [tmp.mount, { name: "tls", mountPath: paths.tls, readOnly: true }, ...claimsOf(job).map(mountOf)],
        },
      ],
      volumes: [
        tmp.volume,
        { name: "tls", secret: { secretName: tlsSecrets.pod(podName(job.metadata.name, made)), defaultMode: 0o440 } },
        ...claimsOf(job).map(volumeOf),
      ],
    },
  };
}

export const heldTo = (node: string | undefined, { spec }: PodShape) =>
  node === undefined ? {} : { affinity: onNode(node, (spec.affinity ?? undefined) as Parameters<typeof onNode>[1]) };

interface Claim {
  readonly claim: string;
  readonly volume: string;
  readonly readOnly: boolean;
}

/** Each claim once. Only the output's is writable. */
export function claimsOf({ spec }: MoETrainingJob): readonly Claim[] {
  const { model, data, local, output } = spec;
  const uris = [model.uri, data.uri, ...local.data, ...(data.validation === undefined ? [] : [data.validation]), output.uri];
  const written = parseModelUri(output.uri).claim;
  const claims = [...new Set(uris.map((uri) => parseModelUri(uri).claim))];
  return claims.map((claim, i) => ({ claim, volume: `claim-${i}`, readOnly: claim !== written }));
}

export const volumeOf = ({ claim, volume }: Claim) => ({ name: volume, persistentVolumeClaim: { claimName: claim } });
export const mountOf = ({ claim, volume, readOnly }: Claim) => ({ name: volume, mountPath: `${paths.claims}/${claim}`, readOnly });
