// The environment and labels of a training pod. It gets the spec as it is and parses it by the same schema.
import { z } from "zod";
import { labels, paths, ports } from "./common.ts";
import { parseModelUri } from "./moe-deployment.ts";
import { type MoETrainingJob, type MoETrainingJobSpec, moeTrainingJobSpecSchema } from "./moe-training-job.ts";
import { defaultLogLevel, type LogLevel, logLevels } from "./names.ts";
import { endFile } from "./process-end.ts";
import { ranksMax } from "./training-world.ts";
import { rowsFrom, type SettingsOf, settings } from "./variables.ts";

/** Label values of training pods and of the pod that checks a job first. */
export const trainerComponent = "trainer";
export const checkerComponent = "checker";
export const tracePath = "/trace";
export const tracedStepsMax = 1000;
export const selectorText = (job: string): string => `${labels.trainingJob}=${job},${labels.component}=${trainerComponent}`;

/** Path of a URI in the pod, where claims are mounted by name. */
export function pathOf(uri: string): string {
  const { claim, folder } = parseModelUri(uri);
  return `${paths.claims}/${claim}/${folder}`;
}

interface TrainerFacts {
  readonly job: MoETrainingJob;
  readonly logLevel: LogLevel;
}

/** Fields for the operator; a pod gets only two of `failurePolicy`. */
const operatorsFields: readonly (keyof MoETrainingJobSpec)[] = [
  "suspend",
  "replicas",
  "elasticity",
  "failurePolicy",
  "scheduling",
  "podTemplate",
  "image",
];

/** The part of the spec that a pod gets; other changes do not replace it. */
export function trainerSpec(spec: MoETrainingJobSpec): object {
  const whole = Object.entries(spec).filter(([field]) => !operatorsFields.some((one) => one === field));
  const { shadow, stepTimeout } = spec.failurePolicy;
  return { ...Object.fromEntries(whole), failurePolicy: { shadow, stepTimeout } };
}

const { rendered } = rowsFrom<TrainerFacts>();
const { name, uid, path, whole, port, json } = settings;
export const trainerProcess = {
  namespace: rendered("ENODIA_NAMESPACE", name, ({ job }) => job.metadata.namespace),
  job: rendered("ENODIA_TRAINING_JOB", name, ({ job }) => job.metadata.name),
  jobUid: rendered("ENODIA_TRAINING_JOB_UID", uid, ({ job }) => job.metadata.uid),
  podUid: rendered("ENODIA_POD_UID", uid, () => ({ fieldPath: "metadata.uid" })),
  rank: rendered("ENODIA_RANK", whole(0, ranksMax - 1), () => ({ fieldPath: `metadata.labels['${labels.rank}']` })),
  spec: rendered("ENODIA_TRAINING_SPEC", json.pipe(moeTrainingJobSpecSchema), ({ job }) => JSON.stringify(trainerSpec(job.spec))),
  tlsDir: rendered("ENODIA_TLS_DIR", z.string().default(paths.tls), () => paths.tls),
  ranksPort: rendered("ENODIA_RANKS_PORT", port.default(ports.ranks), () => String(ports.ranks)),
  worldPort: rendered("ENODIA_WORLD_PORT", port.default(ports.world), () => String(ports.world)),
  tracePort: rendered("ENODIA_TRACE_PORT", port.default(ports.trace), () => String(ports.trace)),
  endFile: rendered("ENODIA_TRAINING_END", path, () => endFile),
  logLevel: rendered("ENODIA_LOG_LEVEL", z.enum(logLevels).default(defaultLogLevel), ({ logLevel }) => logLevel),
};
export type TrainerSettings = SettingsOf<typeof trainerProcess>;

interface CheckerFacts extends TrainerFacts {
  /** Initial ranks of the job. */
  readonly ranks: number;
}

const checker = rowsFrom<CheckerFacts>();
const ranks = whole(1, ranksMax);
/** The checking pod has no rank, certificate or port. */
export const checkerProcess = {
  namespace: trainerProcess.namespace,
  job: trainerProcess.job,
  ranks: checker.rendered("ENODIA_RANKS", ranks, (facts) => String(facts.ranks)),
  minRanks: checker.rendered("ENODIA_MIN_RANKS", ranks, ({ job }) => String(job.spec.elasticity.minReplicas)),
  spec: trainerProcess.spec,
  endFile: trainerProcess.endFile,
  logLevel: trainerProcess.logLevel,
};
export type CheckerSettings = SettingsOf<typeof checkerProcess>;
