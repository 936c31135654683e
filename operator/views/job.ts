// The state of a MoETrainingJob for commands and the page. Pure.
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { type Health, jobHealth } from "./health.ts";

export interface JobState {
  readonly namespace: string;
  readonly name: string;
  readonly health: Health;
  /** Complete, Failed or the reason of Running. */
  readonly state: string;
  readonly step: number | undefined;
  readonly steps: number;
  readonly progress: string | undefined;
  readonly loss: string | undefined;
  readonly tokensPerSecond: number | undefined;
  readonly ready: number;
  readonly desired: number;
  readonly eta: string | undefined;
}

export function jobState({ metadata, spec, status }: MoETrainingJob): JobState {
  const { conditions = [], step, progress, loss, tokensPerSecond, eta } = status;
  const over = conditions.find(({ type, status: is }) => (type === "Complete" || type === "Failed") && is === "True");
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    health: jobHealth(conditions),
    state: over?.type ?? conditions.find(({ type }) => type === "Running")?.reason ?? "NotObserved",
    step,
    steps: spec.steps,
    progress,
    loss,
    tokensPerSecond,
    ready: status.readyReplicas ?? 0,
    desired: spec.replicas,
    eta,
  };
}
