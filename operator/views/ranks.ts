// The state of a rank: its pod, and its part of the ExpertPlacement; and the columns of every table of ranks. Pure.
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import { processBytes } from "../../crds/rank-memory.ts";
import { bytes, figure, percent } from "./format.ts";
import { bar, type Column, picked, type Table, table, type Value } from "./section.ts";

export interface RankPod {
  readonly rank: number;
  readonly pod: string;
  readonly node: string | undefined;
  /** The rank's own state where known, else the pod's phase. */
  readonly state: string;
}

type Reported = NonNullable<ExpertPlacement["status"]["ranks"]>[number];

/** Buffers and fragmentation beside resident bytes. */
const residentFactor = 1.15;
export const expectedMemoryFormula = `${residentFactor} x (dense part + KV pool + kvOffload + EXPERTS) + ${processBytes / 1e6} MB`;

export function expectedMemory({ hostedBytes, denseBytes = 0, kvBytes = 0 }: Partial<Reported>, offloadBytes = 0): number | undefined {
  if (hostedBytes === undefined) return undefined;
  return Math.round((hostedBytes + denseBytes + kvBytes + offloadBytes) * residentFactor) + processBytes;
}

/** Where memory holds all that ranks serve, only the first is known. */
export const loadsOf = ({ hostedBytes, servedBytes, predictedLoadBytes, measuredLoadBytes }: Partial<Reported> = {}) => {
  return { hostedBytes, servedBytes, predictedLoadBytes, measuredLoadBytes };
};

/** `offloadBytes`: of runtime.kvOffload.memory. */
export function rankStates<P extends RankPod>(pods: readonly P[], reported: readonly Reported[] = [], offloadBytes = 0) {
  const byRank = new Map(reported.map((one) => [one.rank, one]));
  return pods.map((pod) => {
    const report: Partial<Reported> = byRank.get(pod.rank) ?? {};
    const { epoch, loadPercent, speedPercent, budgetBytes, role } = report;
    const state = pod.state === "Running" ? (report.state ?? pod.state) : pod.state;
    // The expected memory is undefined until the rank has reported.
    const memory = { budgetBytes, ...loadsOf(report), memoryExpectedBytes: expectedMemory(report, offloadBytes) };
    return { ...pod, state, role, epoch, loadPercent, speedPercent, ...memory };
  });
}

/** Memory is resident, as the kubelet or the process itself reports it; `kvPercent` is used, and the bound is the deployment's. */
type Figure = "experts" | "expertReplicas" | "memoryBytes" | "cpus" | "boundPercent";
type Served = "outputPerSecond" | "promptPerSecond" | "active" | "queued" | "queuedTokens" | "kvPercent";
/** What some view knows of a rank; the load is over the mean, in the worst layer. */
export type RankRow = Partial<ReturnType<typeof rankStates>[number] & Readonly<Record<Figure | Served, number | undefined>>>;

export const fixed = (of: number | undefined, digits = 0): string => (of === undefined ? "-" : of.toFixed(digits));
const stateValue = (state: string | undefined): Value => state && { as: "state", text: state };

/** Percent of the mean at full width. */
const loadScale = 200;

const rankColumns = {
  rank: ["Rank", ({ rank }) => rank],
  pod: ["Pod", ({ pod }) => pod],
  node: ["Node", ({ node }) => node],
  state: ["State", ({ state }) => stateValue(state)],
  role: ["Role", ({ role }) => role],
  epoch: ["Epoch", ({ epoch }) => epoch],
  load: ["Load", ({ loadPercent, boundPercent }) => [bar(loadPercent, loadScale, boundPercent), percent(loadPercent)]],
  speed: ["Speed", ({ speedPercent }) => percent(speedPercent)],
  experts: ["Experts", ({ experts }) => experts],
  secondary: ["Of them secondary", ({ expertReplicas }) => expertReplicas],
  expertBytes: ["Experts", ({ hostedBytes, budgetBytes }) => [bar(hostedBytes, budgetBytes || 1), bytes(hostedBytes)]],
  bytes: ["Bytes", ({ hostedBytes }) => bytes(hostedBytes)],
  inMemory: ["In memory", ({ hostedBytes, budgetBytes }) => [bar(hostedBytes, budgetBytes || 1), bytes(hostedBytes)]],
  served: ["Served", ({ servedBytes }) => bytes(servedBytes)],
  measuredLoads: ["Loaded a token", ({ measuredLoadBytes }) => bytes(measuredLoadBytes)],
  predictedLoads: ["Predicted", ({ predictedLoadBytes }) => bytes(predictedLoadBytes)],
  budget: ["Budget", ({ budgetBytes }) => bytes(budgetBytes)],
  memory: ["Memory", ({ memoryBytes }) => bytes(memoryBytes)],
  expected: ["Expected <=", ({ memoryExpectedBytes }) => bytes(memoryExpectedBytes)],
  output: ["Tokens/s", ({ outputPerSecond }) => fixed(outputPerSecond, 1)],
  prompt: ["Prompt/s", ({ promptPerSecond }) => fixed(promptPerSecond, 1)],
  active: ["Running", ({ active }) => figure(active)],
  queued: ["Waiting", ({ queued }) => figure(queued)],
  queuedTokens: ["Queued tokens", ({ queuedTokens }) => figure(queuedTokens)],
  kv: ["KV", ({ kvPercent }) => percent(kvPercent)],
  cpus: ["CPUs", ({ cpus }) => fixed(cpus, 1)],
} as const satisfies Readonly<Record<string, Column<RankRow>>>;

type RankColumn = keyof typeof rankColumns;

/** The columns for ranks that serve more experts than they hold. */
const oversubscribed: Partial<Readonly<Record<RankColumn, readonly RankColumn[]>>> = {
  expertBytes: ["inMemory"],
  bytes: ["inMemory"],
  budget: ["budget", "served", "measuredLoads", "predictedLoads"],
};

export function rankTable(names: readonly RankColumn[], rows: readonly RankRow[], max?: number): Table {
  const isOver = rows.some(({ servedBytes }) => servedBytes !== undefined);
  const hasRoles = rows.some(({ role }) => role !== undefined);
  const inRoles = hasRoles ? names.flatMap((name): readonly RankColumn[] => (name === "state" ? [name, "role"] : [name])) : names;
  const shown = isOver ? inRoles.flatMap((name) => oversubscribed[name] ?? [name]) : inRoles;
  return table(picked<RankRow, RankColumn>(rankColumns, shown), rows, {
    caption: "Ranks; load is over the mean in the worst layer, the line is the bound",
    none: "no rank is known yet",
    more: "more ranks, less busy than these",
    max,
  });
}
