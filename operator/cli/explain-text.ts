// The text of `enodia plan explain`. Pure.
import { AppError } from "../../crds/common.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import { decodeLayer } from "../../crds/plan.ts";
import { moveText, placementState } from "../views/deployment.ts";
import { bytes, percent } from "../views/format.ts";
import type { Explained, ExplainFacts } from "../views/plan.ts";
import { type Column, factLines, table, tableOf } from "./table.ts";

export function renderExplained({ deployment }: Pick<ExplainFacts, "deployment">, e: Explained): string {
  const { name, namespace } = deployment.metadata;
  const { imbalancePercent, boundPercent, triggerPercent } = placementState(deployment);
  const { decision, conditions } = e;
  // The condition of an unchanged placement repeats the decision.
  const repeated = conditions.some(({ message }) => message.includes(decision?.message ?? ""));
  const numbers = Object.entries(decision?.numbers ?? {}).map(([of, value]) => `${of} ${value}`);
  const phases = e.phases.map((p) => `${p.phase} ${percent(p.imbalancePercent)} worst layer of ${p.selections} selections`);
  const notable = conditions.filter(({ type }) => ["PlacementBalanced", "TelemetryFresh", "Degraded", "Progressing"].includes(type));
  const events = e.events.map(({ time, reason, count, note }) => `  ${time}  ${reason}${count > 1 ? ` (x${count})` : ""}: ${note}`);
  return [
    `${namespace}/${name}   policy ${e.policy} (${e.mode})   epoch ${e.epoch} (parent ${e.parentEpoch}) ${e.phase ?? ""}`,
    ...factLines([
      ["imbalance", `${percent(imbalancePercent)} worst layer, bound ${percent(boundPercent)}, trigger ${triggerPercent}%`],
      ["plan", e.planReason || undefined],
      ["now", e.statusReason || undefined],
      ["predicted", e.predicted && outcome(e.predicted)],
      ["measured", e.measured && outcome(e.measured)],
      ["decision", decision && !repeated ? `${decision.reason}: ${decision.message}` : undefined],
      ["numbers", numbers.join(", ") || undefined],
      ["forecast", e.forecast && forecastText(e.forecast)],
      ["last move", e.lastRebalance && `${e.lastRebalance.time}: ${moveText(e.lastRebalance)}`],
      ["layers", `changed by this plan: ${e.layersChanged.join(", ") || "none"}`],
      ["by phase", phases.length === 0 ? undefined : `${phases.join(", ")} (planned for the sum)`],
      [
        "at risk",
        `${e.atRisk} experts have all their expert replicas on one node (they come back from the model store if it dies); minExpertReplicas is ${e.minExpertReplicas}`,
      ],
    ]),
    "",
    tableOf(hostingColumns, e.hosting),
    ...(notable.length > 0 ? ["", ...notable.map((c) => `${c.type}=${c.status} ${c.reason}: ${c.message}`)] : []),
    ...(events.length > 0 ? ["", "decisions, oldest first:", ...events] : []),
  ].join("\n");
}

const hostingColumns: readonly Column<Explained["hosting"][number]>[] = [
  ["RANK", ({ rank }) => String(rank)],
  ["EXPERTS", ({ experts }) => String(experts)],
  ["OF THEM SECONDARY", ({ expertReplicas }) => String(expertReplicas)],
  ["BYTES", (row) => bytes(row.bytes)],
  ["BUDGET", ({ budget }) => bytes(budget)],
  ["SPEED", ({ speedPercent }) => percent(speedPercent)],
];

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
