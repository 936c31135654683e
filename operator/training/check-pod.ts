// The pod that checks a training job where its ranks would run, without a certificate or write access; and the hash of what its answer
// depends on. Pure.

import { createHash } from "node:crypto";
import { annotations, labels } from "../../crds/common.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { checkerComponent, checkerProcess, trainerSpec } from "../../crds/training-process.ts";
import { renderEnv } from "../../crds/variables.ts";
import { makerLabels } from "../kube/adoption.ts";
import type { KubeObject } from "../kube/kube.ts";
import { heldNote } from "../pods/claim-use.ts";
import { mergePodTemplate, type PodShape } from "../pods/pod-template.ts";
import { containerSecurity } from "../pods/security.ts";
import { container } from "./core/pod-view.ts";
import { claimsOf, commonSpec, heldTo, mountOf, ownerOf, resourcesOf, type TrainingSettings, templateKind, tmp, volumeOf } from "./pod.ts";

/** It reads headers, and indexes of some tens of megabytes. */
const memory = "512Mi";
const milliCpus = 100;
/** The deadline includes the image's pull; a volume may hang. */
const secondsMax = 900;
const graceSeconds = 5;
const hashChars = 16;
const uidChars = 8;

/** Keys of gang schedulers, which the pod must not inherit: it would wait for the ranks. */
const ofGroup = /pod-group|\/group-name$/;

const checkPodName = ({ metadata }: MoETrainingJob, attempt: number): string =>
  `${metadata.name}-check-${metadata.uid.slice(0, uidChars)}-${attempt}`;

/** The number of ranks does not matter. */
export function checkHash({ metadata, spec }: MoETrainingJob, image: string): string {
  const { shadow } = spec.failurePolicy;
  const text = JSON.stringify([metadata.uid, { ...trainerSpec(spec), failurePolicy: { shadow } }, image]);
  return createHash("sha256").update(text).digest("hex").slice(0, hashChars);
}

interface Made {
  readonly image: string;
  readonly attempt: number;
  readonly ranks: number;
  readonly node?: string | undefined;
}

export function checkPod(job: MoETrainingJob, settings: TrainingSettings, made: Made): KubeObject {
  const { pod } = mergePodTemplate(basePod(job, settings, made), job.spec.podTemplate, templateKind);
  const { metadata } = job;
  const own = pod.spec.containers.filter(({ name }) => name === container);
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name: checkPodName(job, made.attempt),
      namespace: metadata.namespace,
      labels: withoutGroup(pod.labels),
      annotations: { ...withoutGroup(pod.annotations), [annotations.generation]: String(metadata.generation), ...heldNote(made.node) },
      ownerReferences: [ownerOf(job)],
    },
    // Init containers stay, since they may fetch the input.
    spec: { ...pod.spec, ...heldTo(made.node, pod), containers: own.map((one) => ({ ...one, resources: resourcesFor(one) })) },
  };
}

const withoutGroup = (keys: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(keys).filter(([key]) => !ofGroup.test(key)));

/** The CPU limit and ephemeral storage of ranks, since a quota may require them. */
function resourcesFor(one: Readonly<Record<string, unknown>>): object {
  const { limits, requests } = resourcesOf(one);
  const { cpu } = limits;
  const less = cpu !== undefined && milliCpusOf(cpu) < milliCpus;
  return {
    limits: { memory, ...(cpu !== undefined && { cpu }), ...diskOf(limits) },
    requests: { cpu: less ? cpu : `${milliCpus}m`, memory, ...diskOf(requests) },
  };
}

const disk = "ephemeral-storage";
const diskOf = ({ [disk]: asked }: Readonly<Record<string, unknown>>): object => (asked === undefined ? {} : { [disk]: asked });

const milliCpusOf = (cpu: unknown): number => Number(`${cpu}`.replace(/m$/, "")) * (`${cpu}`.endsWith("m") ? 1 : 1000);

function basePod(job: MoETrainingJob, settings: TrainingSettings, { image, ranks }: Made): PodShape {
  const claims = claimsOf(job);
  return {
    labels: { ...makerLabels, [labels.trainingJob]: job.metadata.name, [labels.component]: checkerComponent },
    annotations: {},
    spec: {
      ...commonSpec,
      terminationGracePeriodSeconds: graceSeconds,
      activeDeadlineSeconds: secondsMax,
      containers: [
        {
          name: container,
          image,
          imagePullPolicy: settings.pullPolicy,
          command: ["node", "runtime/main.ts", "checker"],
          workingDir: "/app",
          env: renderEnv(checkerProcess, { job, logLevel: settings.logLevel, ranks }),
          // An older image that cannot check says so only in its log.
          terminationMessagePolicy: "FallbackToLogsOnError",
          securityContext: containerSecurity,
          volumeMounts: [tmp.mount, ...claims.map((claim) => mountOf({ ...claim, readOnly: true }))],
        },
      ],
      volumes: [tmp.volume, ...claims.map(volumeOf)],
    },
  };
}
