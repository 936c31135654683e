// `enodia plan explain`: why the experts of a deployment are where they are, and why they move or do not: reasons and
// numbers from MoEDeployment, ExpertPlacement and their events. Reads the API server; changes nothing.
import { parseArgs } from "node:util";
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { type ExpertPlacement, parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { decodeLayer, type LayerPlan } from "../../../crds/plan.ts";
import { resources } from "../../kube/kube.ts";
import { type ClusterAccess, kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { bytes, percent, table } from "../table.ts";

const usage = `usage: enodia plan explain NAME [options]

Says why the experts of a MoEDeployment are where they are: the plan and its reason, what was predicted and measured,
which layers it changed, and the last decisions, "not moving" included.

${kubeFlagsHelp}
      --layer L          hosts and shares of every expert of one layer
      --json             machine-readable`;

const eventsShown = 12;

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { ...kubeFlags, layer: { type: "string" }, json: { type: "boolean" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const [name] = positionals;
  if (name === undefined) throw new AppError("NAME of the MoEDeployment is missing; see: kubectl get moed -A", { code: "InvalidOption" });
  const cluster = openCluster(values);
  const found = await read(cluster, name);
  const explained = explain(found);
  if (values.json) process.stdout.write(`${JSON.stringify(explained, null, 2)}\n`);
  else if (values.layer !== undefined) process.stdout.write(`${renderLayer(found.placement, Number(values.layer))}\n`);
  else process.stdout.write(`${render(found, explained)}\n`);
  return 0;
}

interface Found {
  readonly deployment: MoEDeployment;
  readonly placement: ExpertPlacement;
  readonly events: readonly Event[];
}

const eventSchema = z.object({
  regarding: z.object({ kind: z.string().default(""), name: z.string().default("") }).prefault({}),
  reason: z.string().default(""),
  note: z.string().default(""),
  type: z.string().default("Normal"),
  eventTime: z.string().nullish(),
  series: z.object({ count: z.number(), lastObservedTime: z.string() }).nullish(),
});
type Event = z.infer<typeof eventSchema>;

async function read(cluster: ClusterAccess, name: string): Promise<Found> {
  const ref = { namespace: cluster.namespace, name };
  const [deployment, placement, events] = await Promise.all([
    cluster.kube.get(resources.moeDeployments, ref),
    cluster.kube.get(resources.expertPlacements, ref),
    cluster.kube.list(resources.events, { namespace: cluster.namespace }),
  ]);
  if (!deployment)
    throw new AppError(`no MoEDeployment "${name}" in namespace ${ref.namespace}; see: kubectl get moed -A`, { code: "NotFound" });
  if (!placement) {
    throw new AppError(`"${name}" has no plan yet: its ExpertPlacement appears when the first ranks report; see: enodia status ${name}`, {
      code: "NotFound",
    });
  }
  const own = events.items
    .map((item) => eventSchema.parse(item))
    .filter((event) => event.regarding.name === name && ["MoEDeployment", "ExpertPlacement"].includes(event.regarding.kind))
    .sort((a, b) => timeOf(a).localeCompare(timeOf(b)));
  return { deployment: parseMoEDeployment(deployment), placement: parseExpertPlacement(placement), events: own.slice(-eventsShown) };
}

function timeOf(event: Event): string {
  return event.series?.lastObservedTime ?? event.eventTime ?? "";
}

interface Explained {
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
  readonly hosting: readonly { rank: number; experts: number; copies: number; bytes: number | undefined; budget: number | undefined }[];
  readonly atRisk: number;
  readonly events: readonly { time: string; reason: string; note: string; count: number }[];
}

function explain({ deployment, placement, events }: Found): Explained {
  const { spec, status } = placement;
  const layers = spec.layers.map((layer) => decodeLayer(layer.hosts, layer.shares, `spec.layers[${layer.layer}]`));
  const conditions = [...(deployment.status.conditions ?? []), ...(status.conditions ?? [])];
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
    atRisk: layers.reduce((n, layer) => n + layer.hosts.filter((row) => row.length < 2).length, 0),
    events: events.map((event) => ({ time: timeOf(event), reason: event.reason, note: event.note, count: event.series?.count ?? 1 })),
  };
}

function hostingOf(placement: ExpertPlacement, layers: readonly LayerPlan[]): Explained["hosting"] {
  const rows = placement.spec.layers.length === 0 ? [] : placement.spec.ranks.map(({ rank }) => rank).sort((a, b) => a - b);
  return rows.map((rank) => {
    const held = layers.flatMap((layer) => layer.hosts.filter((row) => row.includes(rank)));
    const reported = placement.status.ranks?.find((each) => each.rank === rank);
    return {
      rank,
      experts: held.length,
      copies: held.filter((row) => row[0] !== rank).length,
      bytes: reported?.hostedBytes,
      budget: reported?.budgetBytes,
    };
  });
}

function render({ deployment }: Found, e: Explained): string {
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
  if (e.lastRebalance) {
    const last = e.lastRebalance;
    lines.push(
      `last move  ${last.time}: ${last.result}, ${last.moves} moves, ${bytes(last.bytes)} in ${(last.durationMs / 1000).toFixed(1)} s, ${percent(last.imbalanceBeforePercent)} -> ${percent(last.imbalanceAfterPercent)}`,
    );
  }
  lines.push(`layers     changed by this plan: ${e.layersChanged.length === 0 ? "none" : e.layersChanged.join(", ")}`);
  lines.push(`at risk    ${e.atRisk} experts have one copy only (they come back from the model store if their rank dies)`);
  lines.push(
    "",
    table(
      ["RANK", "EXPERTS", "OF THEM COPIES", "BYTES", "BUDGET"],
      e.hosting.map((row) => [String(row.rank), String(row.experts), String(row.copies), bytes(row.bytes), bytes(row.budget)]),
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

function outcome(o: NonNullable<ExpertPlacement["status"]["predicted"]>): string {
  const parts = [`imbalance ${percent(o.imbalancePercent)}`];
  if (o.boundPercent !== undefined) parts.push(`bound ${percent(o.boundPercent)}`);
  if (o.moves !== undefined) parts.push(`${o.moves} moves`);
  if (o.bytes !== undefined) parts.push(bytes(o.bytes));
  if (o.durationMs !== undefined) parts.push(`${(o.durationMs / 1000).toFixed(1)} s`);
  return parts.join(", ");
}

function renderLayer(placement: ExpertPlacement, index: number): string {
  const layer = placement.spec.layers.find((each) => each.layer === index);
  if (!layer)
    throw new AppError(`--layer: the plan has layers ${placement.spec.layers.map((each) => each.layer).join(", ")}`, {
      code: "InvalidOption",
    });
  const { hosts, shares } = decodeLayer(layer.hosts, layer.shares, `spec.layers[${index}]`);
  const rows = hosts.map((row, e) => [
    String(e),
    row.map((rank, i) => `${rank}${i === 0 ? " (home)" : ""} ${((shares[e]?.[i] ?? 0) / 10).toFixed(1)}%`).join(", "),
  ]);
  return `layer ${index}, epoch ${layer.epoch}\n${table(["EXPERT", "RANKS AND SHARES"], rows)}`;
}
