// The text of `enodia plan explain`: the plan and its reason, prediction and measurement, what is at risk, who hosts what, and the
// last decisions, "not moving" included. Called by commands/plan-explain.ts. Pure: from objects to an explanation, and from that to
// text. Not here: reading the API server.
import { AppError } from "../../crds/common.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { decodeLayer, type LayerPlan } from "../../crds/plan.ts";
import { bytes, percent, table } from "./table.ts";

export interface ExplainEvent {
  readonly time: string;
  readonly reason: string;
  readonly note: string;
  readonly count: number;
}

export interface ExplainFacts {
  readonly deployment: MoEDeployment;
  readonly placement: ExpertPlacement;
  /** The events of the deployment, oldest first. */
  readonly events: readonly ExplainEvent[];
  /** The node of each rank's pod; a rank that is not listed counts as a node of its own. */
  readonly nodes: ReadonlyMap<number, string>;
}

export interface Explained {
  readonly policy: string;
  readonly mode: string;
  readonly epoch: number;
  readonly parentEpoch: number;
  readonly phase: string | undefined;
  readonly planReason: string | undefined;
  readonly statusReason: string | undefined;
  readonly predicted: ExpertPlacement["status"]["predicted"];
  readonly measured: ExpertPlacement["status"]["measured"];
  readonly lastRebalance: NonNullable<MoEDeployment["status"]["placement"]>["lastRebalance"];
  readonly conditions: readonly { type: string; status: string; reason: string; message: string }[];
  readonly layersChanged: readonly number[];
  readonly hosting: readonly {
    rank: number;
    experts: number;
    expertReplicas: number;
    bytes: number | undefined;
    budget: number | undefined;
    speedPercent: number | undefined;
  }[];
  readonly phases: NonNullable<ExpertPlacement["status"]["phases"]>;
  readonly decision: ExpertPlacement["status"]["decision"];
  readonly forecast: ExpertPlacement["status"]["forecast"];
  readonly minExpertReplicas: number;
  /** Experts whose hosts are all on one node. */
  readonly atRisk: number;
  readonly events: readonly ExplainEvent[];
}

export function explain({ deployment, placement, events, nodes }: ExplainFacts): Explained {
  const { spec, status } = placement;
  const layers = spec.layers.map((layer) => decodeLayer(layer.hosts, layer.weights, `spec.layers[${layer.layer}]`));
  const conditions = deployment.status.conditions ?? [];
  return {
    policy: deployment.spec.rebalancing.policy,
    mode: deployment.spec.rebalancing.mode,
    epoch: spec.epoch,
    parentEpoch: spec.parentEpoch,
    phase: status.phase,
    planReason: spec.reason,
    statusReason: status.reason,
    predicted: status.predicted,
    measured: status.measured,
    lastRebalance: deployment.status.placement?.lastRebalance,
    conditions: conditions.map(({ type, status: value, reason, message }) => ({ type, status: value, reason, message })),
    layersChanged: spec.layers.filter((layer) => layer.epoch === spec.epoch).map((layer) => layer.layer),
    hosting: hostingOf(placement, layers),
    phases: status.phases ?? [],
    decision: status.decision,
    forecast: status.forecast,
    minExpertReplicas: deployment.spec.experts.minExpertReplicas,
    atRisk: atRisk(layers, nodes),
    events,
  };
}

/** Counts by rank, not by the pods that the plan was made for: these are replaced without a new plan. */
function atRisk(layers: readonly LayerPlan[], nodes: ReadonlyMap<number, string>): number {
  const alone = (row: readonly number[]): boolean => new Set(row.map((rank) => nodes.get(rank) ?? rank)).size < 2;
  return layers.reduce((n, layer) => n + layer.hosts.filter(alone).length, 0);
}

function hostingOf(placement: ExpertPlacement, layers: readonly LayerPlan[]): Explained["hosting"] {
  const rows = placement.spec.layers.length === 0 ? [] : placement.spec.ranks.map(({ rank }) => rank).sort((a, b) => a - b);
  return rows.map((rank) => {
    const held = layers.flatMap((layer) => layer.hosts.filter((row) => row.includes(rank)));
    const reported = placement.status.ranks?.find((each) => each.rank === rank);
    return {
      rank,
      experts: held.length,
      expertReplicas: held.filter((row) => row[0] !== rank).length,
      bytes: reported?.hostedBytes,
      budget: reported?.budgetBytes,
      speedPercent: reported?.speedPercent,
    };
  });
}

export function renderExplained({ deployment }: Pick<ExplainFacts, "deployment">, e: Explained): string {
  const { name, namespace } = deployment.metadata;
  const placement = deployment.status.placement;
  const lines = [
    `${namespace}/${name}   policy ${e.policy} (${e.mode})   epoch ${e.epoch} (parent ${e.parentEpoch}) ${e.phase ?? ""}`,
    `imbalance  ${percent(placement?.imbalancePercent)} worst layer, bound ${percent(placement?.boundPercent)}, trigger ${deployment.spec.rebalancing.trigger.imbalancePercent}%`,
  ];
  if (e.planReason) lines.push(`plan       ${e.planReason}`);
  if (e.statusReason) lines.push(`now        ${e.statusReason}`);
  if (e.predicted) lines.push(`predicted  ${outcome(e.predicted)}`);
  if (e.measured) lines.push(`measured   ${outcome(e.measured)}`);
  // A placement that is left as it is gives the decision as its condition's message: said once, below.
  if (e.decision && !e.conditions.some(({ message }) => message.includes(e.decision?.message ?? "")))
    lines.push(`decision   ${e.decision.reason}: ${e.decision.message}`);
  if (e.decision?.numbers && Object.keys(e.decision.numbers).length > 0)
    lines.push(
      `numbers    ${Object.entries(e.decision.numbers)
        .map(([name, value]) => `${name} ${value}`)
        .join(", ")}`,
    );
  if (e.forecast) lines.push(`forecast   ${forecastText(e.forecast)}`);
  if (e.lastRebalance) {
    const last = e.lastRebalance;
    lines.push(
      `last move  ${last.time}: ${last.result}, ${last.moves} moves, ${bytes(last.bytes)} in ${(last.durationMs / 1000).toFixed(1)} s, ${percent(last.imbalanceBeforePercent)} -> ${percent(last.imbalanceAfterPercent)}`,
    );
  }
  lines.push(`layers     changed by this plan: ${e.layersChanged.length === 0 ? "none" : e.layersChanged.join(", ")}`);
  if (e.phases.length > 0) {
    const parts = e.phases.map((p) => `${p.phase} ${percent(p.imbalancePercent)} worst layer of ${p.selections} selections`);
    lines.push(`by phase   ${parts.join(", ")} (planned for the sum)`);
  }
  lines.push(
    `at risk    ${e.atRisk} experts have all their expert replicas on one node (they come back from the model store if it dies); minExpertReplicas is ${e.minExpertReplicas}`,
  );
  lines.push(
    "",
    table(
      ["RANK", "EXPERTS", "OF THEM COPIES", "BYTES", "BUDGET", "SPEED"],
      e.hosting.map((row) => [
        String(row.rank),
        String(row.experts),
        String(row.expertReplicas),
        bytes(row.bytes),
        bytes(row.budget),
        percent(row.speedPercent),
      ]),
    ),
  );
  const notable = e.conditions.filter(({ type }) => ["PlacementBalanced", "TelemetryFresh", "Degraded", "Progressing"].includes(type));
  if (notable.length > 0) lines.push("", ...notable.map((c) => `${c.type}=${c.status} ${c.reason}: ${c.message}`));
  if (e.events.length > 0)
    lines.push(
      "",
      "decisions, oldest first:",
      ...e.events.map((event) => `  ${event.time}  ${event.reason}${event.count > 1 ? ` (x${event.count})` : ""}: ${event.note}`),
    );
  return lines.join("\n");
}

function forecastText(f: NonNullable<ExpertPlacement["status"]["forecast"]>): string {
  const part = (permille: number): string => `${(permille / 10).toFixed(1)}%`;
  const state = f.changed ? "; it has just changed, and the next plan does not wait" : "";
  return `the newest window weighs ${percent(f.newestWeightPercent)}; it misses ${part(f.errorPermille)} of the load, of which ${part(f.noisePermille)} are chance; the last of ${f.windows} windows changed ${part(f.changePermille)}${state}`;
}

function outcome(o: NonNullable<ExpertPlacement["status"]["predicted"]>): string {
  const parts = [`imbalance ${percent(o.imbalancePercent)}`];
  if (o.boundPercent !== undefined) parts.push(`bound ${percent(o.boundPercent)}`);
  if (o.moves !== undefined) parts.push(`${o.moves} moves`);
  if (o.bytes !== undefined) parts.push(bytes(o.bytes));
  if (o.durationMs !== undefined) parts.push(`${(o.durationMs / 1000).toFixed(1)} s`);
  return parts.join(", ");
}

export function renderLayer(placement: ExpertPlacement, index: number): string {
  const layer = placement.spec.layers.find((each) => each.layer === index);
  if (!layer)
    throw new AppError(`--layer: the plan has layers ${placement.spec.layers.map((each) => each.layer).join(", ")}`, {
      code: "InvalidOption",
    });
  const { hosts, weights } = decodeLayer(layer.hosts, layer.weights, `spec.layers[${index}]`);
  const rows = hosts.map((row, e) => [
    String(e),
    row.map((rank, i) => `${rank}${i === 0 ? " (primary)" : ""} ${((weights[e]?.[i] ?? 0) / 10).toFixed(1)}%`).join(", "),
  ]);
  return `layer ${index}, epoch ${layer.epoch}\n${table(["EXPERT", "RANKS AND SHARES"], rows)}`;
}
