// Texts of training jobs: table, details, loss curve and the manifest that serves the result. Pure.
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { joinCurves, type LayerCopies } from "../../crds/training-report.ts";
import type { TrainingWorld } from "../../crds/training-world.ts";
import { type JobState, jobState } from "../views/job.ts";
import { plainLine, table } from "./table.ts";

const dash = "-";

/** A job that cannot be read, with the error's code. */
export interface UnreadableJob {
  readonly name: string;
  readonly code: string;
}

export function jobTable(jobs: readonly (MoETrainingJob | UnreadableJob)[]): string {
  const header = ["NAME", "STEP", "PROGRESS", "LOSS", "TOKENS/S", "RANKS", "ETA", "STATUS"];
  return table(
    header,
    jobs.map((job) => ("code" in job ? [job.name, dash, dash, dash, dash, dash, dash, job.code] : jobRow(jobState(job))).map(plainLine)),
  );
}

const jobRow = ({
  name,
  step = 0,
  steps,
  progress = dash,
  loss = dash,
  tokensPerSecond = 0,
  ready,
  eta = dash,
  state,
}: JobState): readonly string[] => [name, `${step}/${steps}`, progress, loss, `${tokensPerSecond || dash}`, `${ready}`, eta, state];

export function jobText(job: MoETrainingJob): string {
  const { spec, status } = job;
  const facts: readonly (readonly [name: string, value: string | undefined])[] = [
    ["model", spec.model.uri],
    ["data", spec.data.uri],
    ["output", spec.output.uri],
    ["image", status.image],
    ["memory", status.check?.fits?.message],
    ["ranks", `${status.readyReplicas ?? 0} of ${spec.replicas}`],
    ["world", status.world && worldText(status.world)],
    ["validation loss", status.validationLoss],
    ["gradient norm", status.gradientNorm],
    ["busiest expert", status.imbalance && `${status.imbalance} x mean`],
    ["busiest rank", status.spread && spreadText(status.spread)],
    ...(status.copies ?? []).map((copies) => [`copies, layer ${copies.layer}`, copiesText(copies)] as const),
    ["restarts", `${status.restarts ?? 0} of ${spec.failurePolicy.maxRestarts}`],
    ["last failure", status.lastFailure && `${status.lastFailure.time} ${status.lastFailure.reason}: ${status.lastFailure.message}`],
    ["result", status.result?.store],
    ["adapters", status.result?.adapters],
  ];
  const shown = facts.flatMap(([name, value]) => (value === undefined ? [] : [plainLine(`  ${name.padEnd(16)} ${value}`)]));
  const conditions = (status.conditions ?? []).map(({ type, status: is, reason, message }) =>
    plainLine(`  ${`${type}=${is}`.padEnd(20)} ${reason}: ${message}`),
  );
  return [jobTable([job]), "", ...shown, "", ...conditions].join("\n");
}

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

function worldText({ epoch, ranks, leaving = [], since }: TrainingWorld): string {
  const left = leaving.length === 0 ? "" : `; left by ${leaving.map(({ pod }) => pod).join(", ")}`;
  return `${epoch} since ${since}: ${ranks.map(({ rank, pod, node }) => `${rank} ${pod} on ${node}`).join(", ")}${left}`;
}

interface Point {
  readonly step: number;
  readonly loss: number;
}

const rows = 12;
const columns = 64;

/** Clamps to the width. */
const cellOf = (share: number, cells: number): number => Math.min(cells - 1, Math.max(0, Math.round(share * (cells - 1)) || 0));

/** Undefined below two points. */
export function curveText(points: readonly Point[]): string | undefined {
  const curve = joinCurves([], points);
  const [first, last] = [curve[0], curve.at(-1)];
  if (first === undefined || last === undefined || first === last) return undefined;
  const losses = curve.map(({ loss }) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const cells = Array.from({ length: rows }, () => Array<string>(columns).fill(" "));
  for (const { step, loss } of curve) {
    const column = cellOf((step - first.step) / (last.step - first.step), columns);
    const row = high === low ? rows - 1 : cellOf((high - loss) / (high - low), rows);
    (cells[row] as string[])[column] = "*";
  }
  const label = (row: number): string => (row === 0 ? high : row === rows - 1 ? low : undefined)?.toFixed(4) ?? "";
  const width = Math.max(label(0).length, label(rows - 1).length);
  const lines = cells.map((line, row) => `${label(row).padStart(width)} |${line.join("").trimEnd()}`);
  const steps = `${first.step}${`${last.step}`.padStart(columns - `${first.step}`.length)}`;
  return [...lines, `${" ".repeat(width)} +${"-".repeat(columns)}`, `${" ".repeat(width)}  ${steps}  step`].join("\n");
}

export function servingManifest({ metadata, spec }: MoETrainingJob, name: string): object {
  return {
    apiVersion: "enodia.dev/v1alpha1",
    kind: "MoEDeployment",
    metadata: { name, namespace: metadata.namespace },
    spec: { model: { uri: `${spec.output.uri}/store` }, replicas: 1, runtime: { expertCodec: spec.output.codecs[0] } },
  };
}
