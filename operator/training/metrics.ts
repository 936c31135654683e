// Gauges of training jobs, read from the statuses in the cache at each scrape; those of a job go with it.
import { parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import type { Metrics } from "../../runtime/observe/metrics.ts";
import type { KubeObject } from "../kube/kube.ts";
import { isTrue } from "./core/decide.ts";

const gauges = [
  "enodia_training_step",
  "enodia_training_steps",
  "enodia_training_loss",
  "enodia_training_tokens_per_second",
  "enodia_training_restarts",
  "enodia_training_failed",
] as const;

interface Labels {
  readonly training_namespace: string;
  readonly training_job: string;
}

export class JobMetrics {
  readonly #metrics: Pick<Metrics<"operator">, "set" | "unset">;
  #told = new Map<string, Labels>();

  constructor(metrics: Pick<Metrics<"operator">, "set" | "unset">) {
    this.#metrics = metrics;
  }

  record(objects: readonly KubeObject[]): void {
    const told = new Map<string, Labels>();
    for (const object of objects) {
      const labels = { training_namespace: object.metadata.namespace ?? "", training_job: object.metadata.name };
      told.set(`${labels.training_namespace}/${labels.training_job}`, labels);
      try {
        this.#one(object, labels);
      } catch {
        // an object that cannot be read has SpecAccepted=False and no gauges
      }
    }
    for (const [key, labels] of this.#told) if (!told.has(key)) for (const gauge of gauges) this.#metrics.unset(gauge, labels);
    this.#told = told;
  }

  #one(object: KubeObject, labels: Labels): void {
    const { spec, status } = parseMoETrainingJob(object);
    const values: Record<(typeof gauges)[number], number | undefined> = {
      enodia_training_step: status.step ?? 0,
      enodia_training_steps: spec.steps,
      enodia_training_loss: status.loss === undefined ? undefined : Number(status.loss),
      enodia_training_tokens_per_second: status.tokensPerSecond ?? 0,
      enodia_training_restarts: status.restarts ?? 0,
      enodia_training_failed: isTrue(status, "Failed") ? 1 : 0,
    };
    for (const gauge of gauges) {
      const value = values[gauge];
      if (value === undefined) this.#metrics.unset(gauge, labels);
      else this.#metrics.set(gauge, value, labels);
    }
  }
}
