// The text of `enodia plan explain`. Pure.
import { AppError } from "../../crds/common.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import { decodeLayer } from "../../crds/plan.ts";
import { moveText, placementState } from "../views/deployment.ts";
import { bytes, percent } from "../views/format.ts";
import type { Explained, ExplainFacts } from "../views/plan.ts";
import { table } from "./table.ts";

export function renderExplained({ deployment }: Pick<ExplainFacts, "deployment">, e: Explained): string {
  const { name, namespace } = deployment.metadata;
  const { imbalancePercent, boundPercent, triggerPercent } = placementState(deployment);
  const lines = [
    `${namespace}/${name}   policy ${e.policy} (${e.mode})   epoch ${e.epoch} (parent ${e.parentEpoch}) ${e.phase ?? ""}`,
    `imbalance  ${percent(imbalancePercent)} worst layer, bound ${percent(boundPercent)}, trigger ${triggerPercent}%`,
  ];
  if (e.planReason) lines.push(`plan       ${e.planReason}`);
  if (e.statusReason) lines.push(`now        ${e.statusReason}`);
  if (e.predicted) lines.push(`predicted  ${outcome(e.predicted)}`);
  if (e.measured) lines.push(`measured   ${outcome(e.measured)}`);
  // The condition of an unchanged placement repeats the decision.
  if (e.decision && !e.conditions.some(({ message }) => message.includes(e.decision?.message ?? "")))
    lines.push(`decision   ${e.decision.reason}: ${e.decision.message}`);
  if (e.decision?.numbers && Object.keys(e.decision.numbers).length > 0)
    lines.push(
      `numbers    ${Object.entries(e.decision.numbers)
        .map(([name, value]) => `${name} ${value}`)
        .join(", ")}`,
    );
  if (e.forecast) lines.push(`forecast   ${forecastText(e.forecast)}`);
  if (e.lastRebalance) lines.push(`last move  ${e.lastRebalance.time}: ${moveText(e.lastRebalance)}`);
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
      ["RANK", "EXPERTS", "OF THEM SECONDARY", "BYTES", "BUDGET", "SPEED"],
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
  return `layer ${index}, epoch ${layer.epoch}\n${table(["EXPERT", "RANKS AND WEIGHTS"], rows)}`;
}
