// The page of one deployment; the script draws the map. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { Operation } from "../../crds/operation.ts";
import type { PlacementView } from "../rebalance/status/placement-view.ts";
import { deploymentState, moveText, placementState, sideText } from "../views/deployment.ts";
import { bytes, figure, percent } from "../views/format.ts";
import { type RankState, rankStates } from "../views/ranks.ts";
import { bar, chart } from "./chart.ts";
import { type HeatView, heatView, type LayerLoad, layerLoads, leastEven } from "./heat.ts";
import { type Html, html, type Part } from "./html.ts";
import { bucketMs, type PastDecision, type PastMove, type Remembered, type Series, type SeriesName } from "./memory.ts";
import { type Column, conditionsTable, facts, log, markOf, nothing, type Sections, table } from "./sections.ts";
import { linkTo, timeOf } from "./units.ts";

/** A larger world shows its busiest ranks. */
const ranksMax = 256;

export interface Looked {
  readonly deployment: MoEDeployment;
  readonly placement: PlacementView | undefined;
  readonly remembered: Remembered | undefined;
  /** The requested layer; undefined: the least even. */
  readonly chosen: number | undefined;
}

export function deploymentSections({ deployment, placement, remembered, chosen }: Looked): {
  readonly sections: Sections;
  readonly heat?: HeatView;
} {
  const layers = placement ? layerLoads(placement) : [];
  const drawn = chosen ?? leastEven(layers);
  const heat = placement && drawn !== undefined ? heatView(placement, drawn) : undefined;
  const { conditions, placement: { boundPercent } = {} } = deployment.status;
  const sections = {
    head: headOf(deployment),
    placement: placementOf(deployment, placement),
    layers: layersOf(deployment, layers, chosen),
    uneven: unevenOf(layers, heat?.layer, boundPercent),
    ranks: ranksOf(placement, boundPercent),
    decisions: decisionsOf(remembered?.decisions ?? []),
    moves: movesOf(remembered?.moves ?? []),
    hour: hourOf(remembered?.series),
    operations: operationsOf(deployment),
    conditions: conditionsTable(conditions),
  };
  return { sections, ...(heat ? { heat } : {}) };
}

function headOf(deployment: MoEDeployment): Html {
  const { download } = deployment.status;
  const { health, modelUri, modelText = "not opened yet", operation, rollout } = deploymentState(deployment);
  return html`<p>${markOf(health)} ${health.message}</p>${facts([
    ["Model", html`${modelUri}<br><small>${modelText}</small>`],
    ...(download && download.phase !== "Done" ? [["Download", download.progress] as const] : []),
    ["Operation", operation ? operationText(operation) : "none"],
    ...(rollout === undefined ? [] : [["Rollout", rollout] as const]),
  ])}`;
}

const operationText = ({ type, phase, from, to, startTime, deadline, message }: Operation): Html =>
  html`<b>${type}</b> ${phase}: ${sideText(from)} to ${sideText(to)}, since ${timeOf(startTime)}, by ${timeOf(deadline)}${message ? `; ${message}` : ""}`;

function placementOf(deployment: MoEDeployment, placement: PlacementView | undefined): Html {
  const { phase, policy, mode, imbalancePercent, boundPercent, triggerPercent, reason, last, ...state } = placementState(
    deployment,
    placement?.status,
  );
  const { plan, underWay } = placement ?? {};
  const pairs: (readonly [string, Part])[] = [
    ["Imbalance", html`${percent(imbalancePercent)} <small>bound ${percent(boundPercent)}, trigger ${triggerPercent}%</small>`],
    ["Epoch", html`${figure(plan?.epoch ?? state.epoch)} <small>${phase ?? ""}</small>`],
    ["Policy", html`${policy} <small>${mode}</small>`],
  ];
  if (underWay) {
    const byPhase = Map.groupBy(underWay.phases.values(), (one) => one);
    const layers = [...byPhase].map(([at, of]) => `${of.length} ${at}`).join(", ");
    pairs.push(["Under way", `${underWay.kind}: ${underWay.moves} moves; layers: ${layers}`]);
  }
  if (last) pairs.push(["Last rebalance", html`${timeOf(last.time)}: ${moveText(last)}`]);
  if (reason) pairs.push(["Plan", reason]);
  return facts(pairs);
}

/** Changes only with the plan's layers, since a reader may be choosing one. */
function layersOf({ metadata: { namespace, name } }: MoEDeployment, layers: readonly LayerLoad[], chosen: number | undefined): Html {
  if (layers.length === 0) return nothing("no plan yet");
  const numbers = layers.map(({ layer }) => layer);
  const options = numbers.map(
    (layer) => html`<option value="${layer}"${layer === chosen ? html` selected` : undefined}>layer ${layer}</option>`,
  );
  const at = chosen === undefined ? -1 : numbers.indexOf(chosen);
  const step = (to: number | undefined, text: string): Html =>
    to === undefined
      ? html``
      : html`<a class="button" id="step-${text}" href="${linkTo("deployment", { namespace, name, layer: String(to) })}">${text}</a>`;
  return html`<form class="choose" method="get" action="./deployment"><input type="hidden" name="namespace" value="${namespace}"><input type="hidden" name="name" value="${name}">
<label for="layer">Layer</label> <select id="layer" name="layer"><option value="">the least even</option>${options}</select>
<button id="show">Show</button> ${step(at > 0 ? numbers[at - 1] : undefined, "previous")} ${step(at < 0 ? numbers[0] : numbers[at + 1], at < 0 ? "first" : "next")}</form>`;
}

/** Percent at full height. */
const unevenScale = 50;

function unevenOf(layers: readonly LayerLoad[], drawn: number | undefined, boundPercent: number | undefined): Html {
  const known = layers.filter(({ imbalancePercent }) => imbalancePercent !== undefined);
  if (known.length === 0) return nothing("how even the layers are is known after the first windows of load");
  const worst = known.reduce((a, b) => ((b.imbalancePercent ?? 0) > (a.imbalancePercent ?? 0) ? b : a));
  const scale = Math.max(unevenScale, (worst.imbalancePercent ?? 0) - 100);
  const bars = layers.map(({ layer, imbalancePercent = 100, phase }, i) => {
    const tall = Math.min(30, Math.max(0.5, (30 * (imbalancePercent - 100)) / scale));
    return html`<rect class="${layer === drawn ? "shown" : phase === undefined ? "still" : "moving"}" x="${i + 0.1}" y="${30 - tall}" width="0.8" height="${tall}"/>`;
  });
  const text = `Imbalance of each of ${layers.length} layers as expected: layer ${worst.layer} is least even with ${percent(worst.imbalancePercent)}`;
  return html`<figure class="chart"><figcaption><b>Layers</b> expected imbalance; least even is layer ${worst.layer} with ${percent(worst.imbalancePercent)}, bound ${percent(boundPercent)}</figcaption>
<svg class="uneven" viewBox="0 0 ${layers.length} 30" preserveAspectRatio="none" role="img" aria-label="${text}">${bars}</svg></figure>`;
}

/** Percent of the mean at full width. */
const loadScale = 200;

interface RankRow extends RankState {
  readonly requests: number | undefined;
  readonly queuedTokens: number | undefined;
  readonly kvUsePercent: number | undefined;
}

const rankColumns = (boundPercent: number | undefined): readonly Column<RankRow>[] => [
  ["Rank", ({ rank }) => rank, "number"],
  ["Pod", ({ pod, node }) => html`${pod}<br><small>${node ?? "no node yet"}</small>`],
  ["State", ({ state }) => html`<span class="state ${state}">${state}</span>`],
  ["Load", ({ loadPercent }) => html`${bar(loadPercent, loadScale, boundPercent)} ${percent(loadPercent)}`],
  ["Speed", ({ speedPercent }) => percent(speedPercent), "number"],
  [
    "Experts",
    ({ hostedBytes, budgetBytes }) =>
      html`${bar(hostedBytes, budgetBytes || 1, undefined)} ${bytes(hostedBytes)} <small>of ${bytes(budgetBytes)}</small>`,
  ],
  ["Requests", ({ requests }) => figure(requests), "number"],
  ["Queued tokens", ({ queuedTokens }) => figure(queuedTokens), "number"],
  ["KV", ({ kvUsePercent }) => percent(kvUsePercent), "number"],
  ["Epoch", ({ epoch }) => figure(epoch), "number"],
];

function rankRows({ ranks, status }: PlacementView): readonly RankRow[] {
  const live = ranks.map(({ rank, pod, node, state, activeRequests, queuedTokens, kv }) => {
    const kvUsePercent = kv && kv.blocks > 0 ? Math.round((100 * kv.used) / kv.blocks) : undefined;
    return { rank, pod, node, state, requests: activeRequests, queuedTokens, kvUsePercent };
  });
  const rows = rankStates(live, status?.ranks);
  return rows.length <= ranksMax ? rows : rows.toSorted((a, b) => (b.loadPercent ?? 0) - (a.loadPercent ?? 0));
}

function ranksOf(placement: PlacementView | undefined, boundPercent: number | undefined): Html {
  const rows = placement ? rankRows(placement) : [];
  if (rows.length === 0) return nothing("this operator has not reached a rank yet");
  const caption = "Ranks; load is over the mean in the worst layer, the line is the bound";
  const shown = table(caption, rankColumns(boundPercent), rows.slice(0, ranksMax));
  return html`${shown}${rows.length > ranksMax ? nothing(`${rows.length - ranksMax} more ranks, less busy than these`) : undefined}`;
}

function decisionsOf(decisions: readonly PastDecision[]): Html {
  const items = decisions.map(({ at, times, reason, message, numbers }) => {
    const figures = Object.entries(numbers).map(([name, value]) => html`<span>${name} <b>${figure(value)}</b></span> `);
    return html`<li>${timeOf(new Date(at).toISOString())} <b>${reason}</b>${times > 1 ? html` <small>${times} times, last:</small>` : undefined} ${message}<div class="figures">${figures}</div></li>\n`;
  });
  return log(items, "none since this operator leads");
}

function movesOf(moves: readonly PastMove[]): Html {
  const items = moves.map(({ at, epoch, layer, expert, rank, from }) => {
    const source = from.length === 0 ? "the store" : `rank ${from.join(", ")}`;
    return html`<li>${timeOf(new Date(at).toISOString())} layer ${layer}, expert ${expert}: ${source} to <b>rank ${rank}</b> <small>epoch ${epoch}</small></li>\n`;
  });
  return log(items, "none since this operator leads");
}

type Panel = readonly [title: string, unit: string, floor: number, ...curves: readonly (readonly [label: string, series: SeriesName])[]];

const panels: readonly Panel[] = [
  ["Imbalance", "%", 100, ["measured", "imbalancePercent"], ["bound", "boundPercent"]],
  ["Tokens a second", "", 0, ["generated", "tokensPerSecond"]],
  ["Time between tokens", " ms", 0, ["mean at ranks", "gapMs"]],
  ["Requests inside", "", 0, ["at ranks", "requests"]],
  ["Requests a second", "", 0, ["ended at ranks", "requestsPerSecond"]],
  ["Requests that fail", "%", 0, ["of those", "failedPercent"]],
  ["Prompt tokens that wait", "", 0, ["at ranks", "queuedTokens"]],
  ["KV memory in use", "%", 0, ["of all ranks", "kvUsePercent"]],
  ["Ranks", "", 0, ["serving", "ranks"]],
];

function hourOf(series: Series | undefined): Html {
  if (!series) return nothing("nothing is kept yet");
  const minutes = Math.max(1, Math.round((series.values.ranks.length * bucketMs) / 60_000));
  const drawn = panels.map(([title, unit, floor, ...curves]) =>
    chart({
      title,
      unit,
      floor,
      ends: [`${minutes} min ago`, "now"],
      curves: curves.map(([label, name], i) => ({ label, values: series.values[name], tone: i === 0 ? "a" : "b" })),
    }),
  );
  return html`<div class="charts">${drawn}</div>`;
}

const operationColumns: readonly Column<NonNullable<MoEDeployment["status"]["history"]>[number]>[] = [
  ["Operation", ({ type }) => type],
  ["Result", ({ result }) => result],
  ["What", ({ from, to }) => `${sideText(from)} to ${sideText(to)}`],
  ["Began", ({ startTime }) => timeOf(startTime)],
  ["Ended", ({ endTime }) => timeOf(endTime)],
  ["Message", ({ message }) => message ?? ""],
];

function operationsOf({ status: { operation, history = [] } }: MoEDeployment): Html {
  const now = operation ? html`<p>${operationText(operation)}</p>` : undefined;
  return html`${now}${history.length === 0 ? nothing("none has ended yet") : table("Operations, newest first", operationColumns, history)}`;
}
