// The explanation of a plan: reason, prediction, measurement, hosts, risks and last decisions, as data and as sections. Pure.

import { AppError } from "../../crds/common.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { decodeLayer, type LayerPlan } from "../../crds/plan.ts";
import { conditionTable, placementFacts, placementState } from "./deployment.ts";
import { hostedBy, plansOf } from "./experts-view.ts";
import { bytes, percent } from "./format.ts";
import { loadsOf, rankTable } from "./ranks.ts";
import { type Column, facts, list, message, note, type Section, strong, table, time } from "./section.ts";

export interface ExplainEvent {
  readonly time: string;
  readonly reason: string;
  readonly note: string;
  readonly count: number;
}

export interface ExplainFacts {
  readonly deployment: MoEDeployment;
  readonly placement: ExpertPlacement;
  /** Oldest first. */
  readonly events: readonly ExplainEvent[];
  /** Nodes by rank; an unlisted rank counts as a node of its own. */
  readonly nodes: ReadonlyMap<number, string>;
}

export type Explained = ReturnType<typeof explain>;

export function explain({ deployment, placement, events, nodes }: ExplainFacts) {
  const { spec, status } = placement;
  const plans = plansOf(placement);
  const conditions = deployment.status.conditions ?? [];
  const { policy, mode, last } = placementState(deployment, status);
  return {
    policy,
    mode,
    epoch: spec.epoch,
    parentEpoch: spec.parentEpoch,
    phase: status.phase,
    planReason: spec.reason,
    statusReason: status.reason,
    predicted: status.predicted,
    measured: status.measured,
    lastRebalance: last,
    conditions: conditions.map(({ type, status: value, reason, message }) => ({ type, status: value, reason, message })),
    layersChanged: spec.layers.filter((layer) => layer.epoch === spec.epoch).map((layer) => layer.layer),
    hosting: hostingOf(placement, plans),
    phases: status.phases ?? [],
    decision: status.decision,
    forecast: status.forecast,
    minExpertReplicas: deployment.spec.experts.minExpertReplicas,
    /** Experts whose hosts share one node. */
    atRisk: atRisk(plans, nodes),
    events,
  };
}

/** Counts by rank, since pods are replaced without a new plan. */
function atRisk(plans: readonly LayerPlan[], nodes: ReadonlyMap<number, string>): number {
  const alone = (row: readonly number[]): boolean => new Set(row.map((rank) => nodes.get(rank) ?? rank)).size < 2;
  return plans.reduce((n, layer) => n + layer.hosts.filter(alone).length, 0);
}

function hostingOf({ spec, status }: ExpertPlacement, plans: readonly LayerPlan[]) {
  const ranks = plans.length === 0 ? [] : spec.ranks.map(({ rank }) => rank).sort((a, b) => a - b);
  return [...hostedBy(ranks, plans)].map(([rank, { held: experts, expertReplicas }]) => {
    const report = status.ranks?.find((each) => each.rank === rank);
    const { hostedBytes: bytes, ...loads } = loadsOf(report);
    return { rank, experts, expertReplicas, bytes, ...loads, budget: report?.budgetBytes, speedPercent: report?.speedPercent };
  });
}

const notable: readonly string[] = ["PlacementBalanced", "ExpertsOversubscribed", "TelemetryFresh", "Degraded", "Progressing"];

export function explainedSections({ deployment, placement }: ExplainFacts, explained: Explained): readonly Section[] {
  const { predicted, measured, forecast, decision } = explained;
  const numbers = Object.entries(decision?.numbers ?? {}).map(([of, value]) => `${of} ${value}`);
  const phases = explained.phases.map((p) => `${p.phase} ${percent(p.imbalancePercent)} worst layer of ${p.selections} selections`);
  const hosting = explained.hosting.map(({ bytes: hostedBytes, budget: budgetBytes, ...row }) => ({ ...row, hostedBytes, budgetBytes }));
  const conditions = deployment.status.conditions?.filter(({ type }) => notable.includes(type));
  return [
    message(strong(`${deployment.metadata.namespace}/${deployment.metadata.name}`)),
    facts(
      ...placementFacts(deployment, placement),
      ["Predicted", predicted && outcome(predicted)],
      ["Measured", measured && outcome(measured)],
      ["Numbers", numbers.join(", ") || undefined],
      ["Forecast", forecast && forecastText(forecast)],
      ["Layers", `changed by this plan: ${explained.layersChanged.join(", ") || "none"}`],
      ["By phase", phases.length === 0 ? undefined : [phases.join(", "), note("planned for the sum")]],
      [
        "At risk",
        `${explained.atRisk} experts have all their expert replicas on one node (they come back from the model store if it dies); minExpertReplicas is ${explained.minExpertReplicas}`,
      ],
    ),
    rankTable(["rank", "experts", "secondary", "bytes", "budget", "speed"], hosting),
    conditionTable(conditions),
    message("Decisions, oldest first:"),
    list(
      explained.events.map(({ time: at, reason, count, note: said }) => [
        time(at),
        ` ${reason}`,
        count > 1 ? note(`x${count}`) : undefined,
        `: ${said}`,
      ]),
      "no decision is kept",
    ),
  ];
}

function forecastText(f: NonNullable<ExpertPlacement["status"]["forecast"]>): string {
  const part = (permille: number): string => `${(permille / 10).toFixed(1)}%`;
  const state = f.changed ? "; it has just changed, and the next plan does not wait" : "";
  return `the newest window weighs ${percent(f.newestWeightPercent)}; it misses ${part(f.errorPermille)} of the load, of which ${part(f.noisePermille)} are chance; the last of ${f.windows} windows changed ${part(f.changePermille)}${state}`;
}

function outcome(o: NonNullable<ExpertPlacement["status"]["predicted"]>): string {
  return [
    `imbalance ${percent(o.imbalancePercent)}`,
    o.boundPercent === undefined ? [] : `bound ${percent(o.boundPercent)}`,
    o.moves === undefined ? [] : `${o.moves} moves`,
    o.bytes === undefined ? [] : bytes(o.bytes),
    o.durationMs === undefined ? [] : `${(o.durationMs / 1000).toFixed(1)} s`,
  ]
    .flat()
    .join(", ");
}

/** Throws AppError `InvalidOption` for an unknown layer. */
export function layerTable({ spec }: ExpertPlacement, index: number): readonly Section[] {
  const layer = spec.layers.find((each) => each.layer === index);
  if (!layer) {
    const known = spec.layers.map((each) => each.layer).join(", ");
    throw new AppError(`--layer: the plan has layers ${known}`, { code: "InvalidOption" });
  }
  const { hosts, weights } = decodeLayer(layer.hosts, layer.weights, `spec.layers[${index}]`);
  const weight = (expert: number, i: number): string => `${((weights[expert]?.[i] ?? 0) / 10).toFixed(1)}%`;
  const columns: readonly Column<readonly number[]>[] = [
    ["Expert", (row) => hosts.indexOf(row)],
    [
      "Ranks and weights",
      (row) => row.map((rank, i) => `${rank}${i === 0 ? " (primary)" : ""} ${weight(hosts.indexOf(row), i)}`).join(", "),
    ],
  ];
  const caption = `layer ${index}, epoch ${layer.epoch}`;
  return [message(caption), table(columns, hosts, { caption })];
}
