// The sections of one deployment's page; the script draws the map. Pure.
import type { Operation } from "../../crds/operation.ts";
import { moveText, sideText } from "../views/deployment.ts";
import { bytes, figure, percent } from "../views/format.ts";
import { bar, chart } from "./chart.ts";
import { type Html, html, type Part } from "./html.ts";
import { bucketMs, type PastDecision, type PastMove, type Series, type SeriesName } from "./memory.ts";
import { conditionsTable, facts, markOf, nothing, type Sections, table } from "./sections.ts";
import { linkTo, timeOf } from "./units.ts";
import type { DeploymentView, PlacementSection, RankView } from "./view-deployment.ts";

export function deploymentSections(view: DeploymentView): Sections {
  return {
    head: headOf(view),
    placement: placementOf(view.placement),
    layers: layersOf(view),
    uneven: unevenOf(view),
    ranks: ranksOf(view),
    decisions: decisionsOf(view.decisions),
    moves: movesOf(view.moves),
    hour: hourOf(view.series),
    operations: operationsOf(view),
    conditions: conditionsTable(view.conditions),
  };
}

function headOf({ state, download }: DeploymentView): Html {
  const { health, modelUri, modelText = "not opened yet", operation, rollout } = state;
  return html`<p>${markOf(health)} ${health.message}</p>${facts([
    ["Model", html`${modelUri}<br><small>${modelText}</small>`],
    ...(download && download.phase !== "Done" ? [["Download", download.progress] as const] : []),
    ["Operation", operation ? operationText(operation) : "none"],
    ...(rollout === undefined ? [] : [["Rollout", rollout] as const]),
  ])}`;
}

const operationText = ({ type, phase, from, to, startTime, deadline, message }: Operation): Html =>
  html`<b>${type}</b> ${phase}: ${sideText(from)} to ${sideText(to)}, since ${timeOf(startTime)}, by ${timeOf(deadline)}${message ? `; ${message}` : ""}`;

function placementOf({
  epoch,
  phase,
  policy,
  mode,
  imbalancePercent,
  boundPercent,
  triggerPercent,
  reason,
  last,
  underWay,
}: PlacementSection): Html {
  const pairs: (readonly [string, Part])[] = [
    ["Imbalance", html`${percent(imbalancePercent)} <small>bound ${percent(boundPercent)}, trigger ${triggerPercent}%</small>`],
    ["Epoch", html`${figure(epoch)} <small>${phase ?? ""}</small>`],
    ["Policy", html`${policy} <small>${mode}</small>`],
  ];
  if (underWay) {
    const layers = underWay.layers.map(([at, count]) => `${count} ${at}`).join(", ");
    pairs.push(["Under way", `${underWay.kind}: ${underWay.moves} moves; layers: ${layers}`]);
  }
  if (last) {
    pairs.push(["Last rebalance", html`${timeOf(last.time)}: ${moveText(last)}`]);
  }
  if (reason) pairs.push(["Plan", reason]);
  return facts(pairs);
}

/** Changes only with the plan's layers, since a reader may be choosing one. */
function layersOf({ state: { namespace, name }, layers, chosen }: DeploymentView): Html {
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

function unevenOf({ layers, heat, placement }: DeploymentView): Html {
  const known = layers.filter(({ imbalancePercent }) => imbalancePercent !== undefined);
  if (known.length === 0) return nothing("how even the layers are is known after the first windows of load");
  const worst = known.reduce((a, b) => ((b.imbalancePercent ?? 0) > (a.imbalancePercent ?? 0) ? b : a));
  const scale = Math.max(unevenScale, (worst.imbalancePercent ?? 0) - 100);
  const bars = layers.map(({ layer, imbalancePercent = 100, phase }, i) => {
    const tall = Math.min(30, Math.max(0.5, (30 * (imbalancePercent - 100)) / scale));
    return html`<rect class="${layer === heat?.layer ? "shown" : phase === undefined ? "still" : "moving"}" x="${i + 0.1}" y="${30 - tall}" width="0.8" height="${tall}"/>`;
  });
  const text = `Imbalance of each of ${layers.length} layers as expected: layer ${worst.layer} is least even with ${percent(worst.imbalancePercent)}`;
  return html`<figure class="chart"><figcaption><b>Layers</b> expected imbalance; least even is layer ${worst.layer} with ${percent(worst.imbalancePercent)}, bound ${percent(placement.boundPercent)}</figcaption>
<svg class="uneven" viewBox="0 0 ${layers.length} 30" preserveAspectRatio="none" role="img" aria-label="${text}">${bars}</svg></figure>`;
}

/** Percent of the mean at full width. */
const loadScale = 200;

function ranksOf({ ranks, ranksInAll, placement }: DeploymentView): Html {
  if (ranks.length === 0) return nothing("this operator has not reached a rank yet");
  const rows = ranks.map((one: RankView): readonly Part[] => [
    one.rank,
    html`${one.pod}<br><small>${one.node ?? "no node yet"}</small>`,
    html`<span class="state ${one.state}">${one.state}</span>`,
    html`${bar(one.loadPercent, loadScale, placement.boundPercent)} ${percent(one.loadPercent)}`,
    percent(one.speedPercent),
    html`${bar(one.hostedBytes, one.budgetBytes || 1, undefined)} ${bytes(one.hostedBytes)} <small>of ${bytes(one.budgetBytes)}</small>`,
    figure(one.requests),
    figure(one.queuedTokens),
    percent(one.kvUsePercent),
    figure(one.epoch),
  ]);
  const columns = [
    { head: "Rank", numeric: true },
    { head: "Pod" },
    { head: "State" },
    { head: "Load" },
    { head: "Speed", numeric: true },
    { head: "Experts" },
    { head: "Requests", numeric: true },
    { head: "Queued tokens", numeric: true },
    { head: "KV", numeric: true },
    { head: "Epoch", numeric: true },
  ];
  const left = ranksInAll - ranks.length;
  const more = left > 0 ? html`<p class="none">${left} more ranks, less busy than these</p>` : undefined;
  return html`${table("Ranks; load is over the mean in the worst layer, the line is the bound", columns, rows)}${more}`;
}

function decisionsOf(decisions: readonly PastDecision[]): Html {
  if (decisions.length === 0) return nothing("none since this operator leads");
  const items = decisions.map(({ at, times, reason, message, numbers }) => {
    const figures = Object.entries(numbers).map(([name, value]) => html`<span>${name} <b>${figure(value)}</b></span> `);
    return html`<li>${timeOf(new Date(at).toISOString())} <b>${reason}</b>${times > 1 ? html` <small>${times} times, last:</small>` : undefined} ${message}<div class="figures">${figures}</div></li>\n`;
  });
  return html`<ol class="log">${items}</ol>`;
}

function movesOf(moves: readonly PastMove[]): Html {
  if (moves.length === 0) return nothing("none since this operator leads");
  const items = moves.map(({ at, epoch, layer, expert, rank, from }) => {
    const source = from.length === 0 ? "the store" : `rank ${from.join(", ")}`;
    return html`<li>${timeOf(new Date(at).toISOString())} layer ${layer}, expert ${expert}: ${source} to <b>rank ${rank}</b> <small>epoch ${epoch}</small></li>\n`;
  });
  return html`<ol class="log">${items}</ol>`;
}

interface Panel {
  readonly title: string;
  readonly unit: string;
  readonly floor: number;
  readonly curves: readonly (readonly [label: string, series: SeriesName])[];
}

const panels: readonly Panel[] = [
  {
    title: "Imbalance",
    unit: "%",
    floor: 100,
    curves: [
      ["measured", "imbalancePercent"],
      ["bound", "boundPercent"],
    ],
  },
  { title: "Tokens a second", unit: "", floor: 0, curves: [["generated", "tokensPerSecond"]] },
  { title: "Time between tokens", unit: " ms", floor: 0, curves: [["mean at ranks", "gapMs"]] },
  { title: "Requests inside", unit: "", floor: 0, curves: [["at ranks", "requests"]] },
  { title: "Requests a second", unit: "", floor: 0, curves: [["ended at ranks", "requestsPerSecond"]] },
  { title: "Requests that fail", unit: "%", floor: 0, curves: [["of those", "failedPercent"]] },
  { title: "Prompt tokens that wait", unit: "", floor: 0, curves: [["at ranks", "queuedTokens"]] },
  { title: "KV memory in use", unit: "%", floor: 0, curves: [["of all ranks", "kvUsePercent"]] },
  { title: "Ranks", unit: "", floor: 0, curves: [["serving", "ranks"]] },
];

function hourOf(series: Series | undefined): Html {
  if (!series) return nothing("nothing is kept yet");
  const minutes = Math.max(1, Math.round((series.values.ranks.length * bucketMs) / 60_000));
  const drawn = panels.map(({ title, unit, floor, curves }) =>
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

function operationsOf({ state: { operation }, history }: DeploymentView): Html {
  const rows = history.map(({ type, result, from, to, startTime, endTime, message }) => {
    return [type, result, `${sideText(from)} to ${sideText(to)}`, timeOf(startTime), timeOf(endTime), message ?? ""];
  });
  const columns = [{ head: "Operation" }, { head: "Result" }, { head: "What" }, { head: "Began" }, { head: "Ended" }, { head: "Message" }];
  const now = operation ? html`<p>${operationText(operation)}</p>` : undefined;
  return html`${now}${rows.length === 0 ? nothing("none has ended yet") : table("Operations, newest first", columns, rows)}`;
}
