// Gauges of training jobs, read from cached statuses at each scrape.
import { type MoETrainingJob, parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import { trainingFailures, trainingPlacements } from "../../crds/names.ts";
import { shareQuantiles } from "../../crds/training-report.ts";
import type { Metrics } from "../../runtime/observe/runtime-metrics.ts";
import type { KubeObject } from "../kube/kube.ts";
import { isOver } from "./core/decide.ts";

/** Undefined while there is no value. */
const gauges = {
  enodia_training_created_timestamp_seconds: (_: MoETrainingJob, { metadata }: KubeObject) => secondsOf(metadata.creationTimestamp),
  enodia_training_step: ({ status }: MoETrainingJob) => status.step ?? 0,
  enodia_training_steps: ({ spec }: MoETrainingJob) => spec.steps,
  enodia_training_loss: ({ status }: MoETrainingJob) => number(status.loss),
  enodia_training_validation_loss: ({ status }: MoETrainingJob) => number(status.validationLoss),
  enodia_training_gradient_norm: ({ status }: MoETrainingJob) => number(status.gradientNorm),
  enodia_training_imbalance_ratio: ({ status }: MoETrainingJob) => number(status.imbalance),
  enodia_training_copied_ratio: ({ status }: MoETrainingJob) => number(status.spread?.copied),
  enodia_training_exposed_seconds: ({ status }: MoETrainingJob) => number(status.spread?.exposedSeconds),
  enodia_training_moved_bytes: ({ status }: MoETrainingJob) => status.spread?.bytes,
  enodia_training_tokens_per_second: ({ status }: MoETrainingJob) => status.tokensPerSecond ?? 0,
  enodia_training_restarts: ({ status }: MoETrainingJob) => status.restarts ?? 0,
  enodia_training_active: ({ spec, status }: MoETrainingJob) => (spec.suspend || isOver(status) ? 0 : 1),
} as const;
type Gauge = keyof typeof gauges;
const names = Object.keys(gauges) as readonly Gauge[];

const secondsOf = (time: string | undefined): number | undefined => (time === undefined ? undefined : Date.parse(time) / 1000);
const number = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text));

interface Labels {
  readonly training_namespace: string;
  readonly training_job: string;
}

export class JobMetrics {
  readonly #metrics: Pick<Metrics<"operator">, "set" | "unset">;
  #reported = new Map<string, Labels>();

  constructor(metrics: Pick<Metrics<"operator">, "set" | "unset">) {
    this.#metrics = metrics;
  }

  record(objects: readonly KubeObject[]): void {
    const reported = new Map<string, Labels>();
    for (const object of objects) {
      const labels = { training_namespace: object.metadata.namespace ?? "", training_job: object.metadata.name };
      reported.set(`${labels.training_namespace}/${labels.training_job}`, labels);
      try {
        this.#one(object, labels);
      } catch {
        // an object that cannot be read has SpecAccepted=False and no gauges
      }
    }
    for (const [key, labels] of this.#reported) if (!reported.has(key)) this.#drop(labels);
    this.#reported = reported;
  }

  #one(object: KubeObject, labels: Labels): void {
    const job = parseMoETrainingJob(object);
    for (const name of names) {
      const value = gauges[name](job, object);
      if (value === undefined) this.#metrics.unset(name, labels);
      else this.#metrics.set(name, value, labels);
    }
    this.#spread(job.status.spread, labels);
    const failed = job.status.conditions?.find(({ type, status }) => type === "Failed" && status === "True");
    for (const reason of trainingFailures)
      this.#metrics.set("enodia_training_failed", failed?.reason === reason ? 1 : 0, failedLabels(labels, reason));
  }

  #spread(spread: Spread | undefined, { training_namespace, training_job }: Labels): void {
    for (const placement of trainingPlacements) {
      const [value, labels] = [spread && imbalances[placement](spread), { training_namespace, training_job, placement }];
      if (value === undefined) this.#metrics.unset("enodia_training_rank_imbalance_ratio", labels);
      else this.#metrics.set("enodia_training_rank_imbalance_ratio", Number(value), labels);
    }
    for (const [i, quantile] of shareQuantiles.entries()) {
      const [value, labels] = [spread?.expertShares[i], { training_namespace, training_job, quantile }];
      if (value === undefined) this.#metrics.unset("enodia_training_expert_share_ratio", labels);
      else this.#metrics.set("enodia_training_expert_share_ratio", Number(value), labels);
    }
  }

  #drop(labels: Labels): void {
    this.#spread(undefined, labels);
    for (const name of names) this.#metrics.unset(name, labels);
    for (const reason of trainingFailures) this.#metrics.unset("enodia_training_failed", failedLabels(labels, reason));
  }
}

type Spread = NonNullable<MoETrainingJob["status"]["spread"]>;

/** Imbalance without and with expert replicas. */
const imbalances: Readonly<Record<(typeof trainingPlacements)[number], (spread: Spread) => string>> = {
  primaries: ({ imbalanceAtPrimaries }) => imbalanceAtPrimaries,
  copies: ({ imbalance }) => imbalance,
};

const failedLabels = ({ training_namespace, training_job }: Labels, reason: (typeof trainingFailures)[number]) => ({
  training_namespace,
  training_job,
  reason,
});
