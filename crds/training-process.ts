// The contract between the operator and a training pod: its environment and its labels. The spec is handed on as it is, and the pod
// reads it by the same schema, so that a field of training is one in moe-training-job.ts and its use.
import { z } from "zod";
import { labels, paths, ports } from "./common.ts";
import { parseModelUri } from "./moe-deployment.ts";
import { type MoETrainingJob, type MoETrainingJobSpec, moeTrainingJobSpecSchema } from "./moe-training-job.ts";
import { defaultLogLevel, type LogLevel, logLevels } from "./names.ts";
import { ranksMax } from "./training-world.ts";
import { rowsFrom, type SettingsOf } from "./variables.ts";

/** The values of the label component of training pods, and of the pod that checks a job before them. */
export const trainerComponent = "trainer";
export const checkerComponent = "checker";
export const selectorText = (job: string): string => `${labels.trainingJob}=${job},${labels.component}=${trainerComponent}`;

/** The kubelet reads there what a container says of its end. */
const endFile = "/dev/termination-log";

/** Path of a URI in the pod, which has each claim by its name. */
export function pathOf(uri: string): string {
  const { claim, folder } = parseModelUri(uri);
  return `${paths.claims}/${claim}/${folder}`;
}

interface TrainerFacts {
  readonly job: MoETrainingJob;
  readonly logLevel: LogLevel;
}

/** Fields that decide, but for two of the policy, when there is a pod, and what is beside the process in it. */
const operatorsFields: readonly (keyof MoETrainingJobSpec)[] = [
  "suspend",
  "replicas",
  "elasticity",
  "failurePolicy",
  "scheduling",
  "podTemplate",
  "image",
];

/** What a pod is told of the spec: a change of anything else is no reason to replace it. */
export function trainerSpec(spec: MoETrainingJobSpec): object {
  const whole = Object.entries(spec).filter(([field]) => !operatorsFields.some((one) => one === field));
  const { shadow, stepTimeout } = spec.failurePolicy;
  return { ...Object.fromEntries(whole), failurePolicy: { shadow, stepTimeout } };
}

const json = z
  .string()
  .max(65_536)
  .transform((text, context): unknown => {
    try {
      return JSON.parse(text);
    } catch {
      context.addIssue({ code: "custom", message: "is no JSON" });
      return z.NEVER;
    }
  });

const { rendered } = rowsFrom<TrainerFacts>();
const name = z.string().min(1).max(253);
const uid = z.string().min(1).max(64);
const port = z.coerce.number<string>().int().min(0).max(65_535);
export const trainerProcess = {
  namespace: rendered("ENODIA_NAMESPACE", name, ({ job }) => job.metadata.namespace),
  job: rendered("ENODIA_TRAINING_JOB", name, ({ job }) => job.metadata.name),
  jobUid: rendered("ENODIA_TRAINING_JOB_UID", uid, ({ job }) => job.metadata.uid),
  podUid: rendered("ENODIA_POD_UID", uid, () => ({ fieldPath: "metadata.uid" })),
  rank: rendered(
    "ENODIA_RANK",
    z.coerce
      .number<string>()
      .int()
      .min(0)
      .max(ranksMax - 1),
    () => ({
      fieldPath: `metadata.labels['${labels.rank}']`,
    }),
  ),
  spec: rendered("ENODIA_TRAINING_SPEC", json.pipe(moeTrainingJobSpecSchema), ({ job }) => JSON.stringify(trainerSpec(job.spec))),
  tlsDir: rendered("ENODIA_TLS_DIR", z.string().default(paths.tls), () => paths.tls),
  ranksPort: rendered("ENODIA_RANKS_PORT", port.default(ports.ranks), () => String(ports.ranks)),
  worldPort: rendered("ENODIA_WORLD_PORT", port.default(ports.world), () => String(ports.world)),
  tracePort: rendered("ENODIA_TRACE_PORT", port.default(ports.trace), () => String(ports.trace)),
  endFile: rendered("ENODIA_TRAINING_END", z.string().max(1024), () => endFile),
  logLevel: rendered("ENODIA_LOG_LEVEL", z.enum(logLevels).default(defaultLogLevel), ({ logLevel }) => logLevel),
};
export type TrainerSettings = SettingsOf<typeof trainerProcess>;

interface CheckerFacts extends TrainerFacts {
  /** Ranks that the job is to begin with. */
  readonly ranks: number;
}

const checker = rowsFrom<CheckerFacts>();
const ranks = z.coerce.number<string>().int().min(1).max(ranksMax);
/** The pod that checks a job has no rank, no certificate and no port. */
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
