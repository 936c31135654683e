// The state of a MoETrainingJob, and what commands and the page say of it. Pure.
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import type { LayerCopies } from "../../crds/training-report.ts";
import { conditionTable, healthMark } from "./deployment.ts";
import { figure } from "./format.ts";
import { jobHealth } from "./health.ts";
import { bar, type Column, type Fact, facts, note, picked, type Section, type Table, table, time, type Value } from "./section.ts";

type JobState = ReturnType<typeof jobState>;

export function jobState({ metadata, spec, status }: MoETrainingJob) {
  const { conditions = [], step, progress, loss, tokensPerSecond, eta } = status;
  const over = conditions.find(({ type, status: is }) => (type === "Complete" || type === "Failed") && is === "True");
  return {
    namespace: metadata.namespace,
    name: metadata.name,
    health: jobHealth(conditions),
    /** Complete, Failed or the reason of Running. */
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

export function jobFacts(job: MoETrainingJob): readonly Fact[] {
  const { spec, status } = job;
  const { step, steps, loss, eta, ready, desired } = jobState(job);
  const { validationLoss, spread, result, world, lastFailure, lastStop } = status;
  return [
    ["Step", [bar(step, steps), `${figure(step)} of ${steps}`, eta && note(`${eta} left`)]],
    ["Loss", (loss ?? validationLoss) && [loss, validationLoss && note(`validation ${validationLoss}`)]],
    ["Gradient norm", status.gradientNorm],
    ["Tokens a second", status.tokensPerSecond],
    ["Busiest expert", status.imbalance && `${status.imbalance} x mean`],
    ["Busiest rank", spread && spreadText(spread)],
    ["Load of experts", spread && [spread.expertShares.join(", "), note("shares from the idlest to the busiest")]],
    ...(status.copies ?? []).map((copies): Fact => [`Copies, layer ${copies.layer}`, copiesText(copies)]),
    ["Ranks", `${ready} of ${desired}`],
    ["World", world && [`${world.epoch} of ${world.ranks.length} ranks since`, time(world.since)]],
    ["Restarts", `${status.restarts ?? 0} of ${spec.failurePolicy.maxRestarts}`],
    ["Last failure", lastFailure && endValue(lastFailure)],
    ["Last stop", lastStop && endValue(lastStop)],
    ["Model", spec.model.uri],
    ["Data", spec.data.uri],
    ["Output", spec.output.uri],
    ["Image", status.image],
    ["Memory", status.check?.fits?.message],
    ["Result", result?.store],
    ["Adapters", result?.adapters],
  ];
}

type End = NonNullable<MoETrainingJob["status"]["lastFailure"]>;
const endValue = ({ time: at, reason, message, step }: End): Value => [time(at), `${reason}: ${message}`, note(`after step ${step}`)];

/** Expert replicas of the last step, each expert's primary first. */
function copiesText({ experts, copied, most }: LayerCopies): string {
  const each = most.map(({ expert, ranks: [primary, ...others] }) => `${expert} of rank ${primary} on ${others.join(" ")}`);
  return `${copied} of ${experts} experts${each.length === 0 ? "" : `: ${each.join(", ")}`}`;
}

type Spread = NonNullable<MoETrainingJob["status"]["spread"]>;

/** What expert replicas gained and cost. */
function spreadText({ imbalanceAtPrimaries, imbalance, copied, exposedSeconds, bytes }: Spread): string {
  const share = `${Math.round(100 * Number(copied))}% of experts`;
  const cost = `${Math.round(1000 * Number(exposedSeconds))} ms waited for and ${(bytes / 1e6).toFixed(1)} MB sent a step`;
  return `${imbalance} x mean, ${imbalanceAtPrimaries} without copies of ${share}; ${cost}`;
}

const worldColumns: readonly Column<{ readonly rank: number; readonly pod: string; readonly node: string; readonly state: string }>[] = [
  ["Rank", ({ rank }) => rank],
  ["Pod", ({ pod }) => pod],
  ["Node", ({ node }) => node],
  ["State", ({ state }) => state],
];
const worldMax = 256;

export function worldTable({ status: { world } }: MoETrainingJob): Table {
  const { ranks = [], leaving = [] } = world ?? {};
  const rows = [...ranks.map((one) => ({ ...one, state: "trains" })), ...leaving.map((one) => ({ ...one, state: "leaves" }))];
  return table(worldColumns, rows, { caption: "Pods that train together", none: "no world of pods yet", max: worldMax });
}

/** A job in a list; one that cannot be read has a name and its health alone. */
export type JobRow = Pick<JobState, "namespace" | "name" | "health"> & Partial<JobState>;

const jobColumns = {
  namespace: ["Namespace", ({ namespace }) => namespace],
  name: ["Training job", ({ name }) => name],
  link: ["Training job", ({ namespace, name }) => ({ as: "link", text: `${namespace}/${name}`, page: "job", namespace, name })],
  status: ["Status", ({ health, state }) => healthMark(health, state)],
  step: ["Step", ({ step, steps }) => steps && [bar(step, steps), `${figure(step)}/${steps}`]],
  progress: ["Progress", ({ progress }) => progress],
  loss: ["Loss", ({ loss }) => loss],
  tokens: ["Tokens/s", ({ tokensPerSecond }) => tokensPerSecond],
  ranks: ["Ranks", ({ ready, desired }) => desired && `${ready}/${desired}`],
  eta: ["ETA", ({ eta }) => eta],
  message: ["Message", ({ health }) => ({ as: "cut", text: health.message })],
} as const satisfies Readonly<Record<string, Column<JobRow>>>;

export const jobList = (names: readonly (keyof typeof jobColumns)[]): readonly Column<JobRow>[] =>
  picked<JobRow, keyof typeof jobColumns>(jobColumns, names);

/** The columns of commands. */
export const jobTable = (jobs: readonly JobRow[]): Table =>
  table(jobList(["namespace", "name", "status", "step", "progress", "loss", "tokens", "ranks", "eta"]), jobs, { caption: "Training jobs" });

export const jobReport = (job: MoETrainingJob): readonly Section[] => [
  jobTable([jobState(job)]),
  facts(...jobFacts(job)),
  worldTable(job),
  conditionTable(job.status.conditions),
];
