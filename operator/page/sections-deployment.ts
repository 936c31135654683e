// The page of one deployment; the script draws the map. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { PlacementView } from "../rebalance/status/placement-view.ts";
import { conditionTable, deploymentFacts, headOf, operationTable, placementFacts } from "../views/deployment.ts";
import { figure, percent } from "../views/format.ts";
import { type RankRow, rankStates, rankTable } from "../views/ranks.ts";
import { type Fact, facts, list, message, note, strong, time, type Value } from "../views/section.ts";
import { chart } from "./chart.ts";
import { type HeatView, heatView, type LayerLoad, layerLoads, leastEven } from "./heat.ts";
import { type Html, html } from "./html.ts";
import { bucketMs, type PastDecision, type PastMove, type Remembered, type Series, type SeriesName } from "./memory.ts";
import { nothing, type Sections, sectionHtml } from "./sections.ts";
import { linkTo } from "./units.ts";

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
  const { decisions = [], moves = [], series } = remembered ?? {};
  const { plan, status = {} } = placement ?? {};
  const planned = placementFacts(deployment, { status, ...(plan ? { spec: { epoch: plan.epoch, parentEpoch: plan.parentEpoch } } : {}) });
  const sections = {
    headline: headlineOf(deployment, series),
    use: useOf(deployment),
    head: html`${sectionHtml(message(...headOf(deployment)))}${sectionHtml(facts(...deploymentFacts(deployment)))}`,
    placement: sectionHtml(facts(...planned, ...underWayOf(placement))),
    layers: layersOf(deployment, layers, chosen),
    uneven: unevenOf(layers, heat?.layer, boundPercent),
    ranks: sectionHtml(rankTable(rankColumns, placement ? rankRows(placement, boundPercent) : [], ranksMax)),
    decisions: sectionHtml(list(decisions.map(decisionValue), "none since this operator leads")),
    moves: sectionHtml(list(moves.map(moveValue), "none since this operator leads")),
    hour: hourOf(series),
    operations: sectionHtml(operationTable(deployment)),
    conditions: sectionHtml(conditionTable(conditions)),
  };
  return { sections, ...(heat ? { heat } : {}) };
}

/** What a reader looks for first, as it is now. */
function headlineOf({ spec, status }: MoEDeployment, series: Series | undefined): Html {
  const latest = (name: SeriesName, unit = ""): string => {
    const value = series?.values[name].at(-1);
    return value === undefined ? "-" : `${figure(value)}${unit}`;
  };
  const all: readonly Fact[] = [
    ["Ranks that serve", status.ready ?? `-/${spec.replicas}`],
    ["Tokens a second", latest("tokensPerSecond")],
    ["First token", latest("firstTokenMs", " ms")],
    ["Between tokens", latest("gapMs", " ms")],
    ["Requests inside", latest("requests")],
    ["Requests a second", latest("requestsPerSecond")],
    ["KV memory in use", latest("kvUsePercent", "%")],
  ];
  return html`<div class="headline">${sectionHtml(facts(...all))}</div>`;
}

/** Commands to copy: a request, and all that is known. */
function useOf({ metadata: { namespace, name }, spec, status }: MoEDeployment): Html {
  const port = spec.service.port;
  const [scheme] = status.address?.url.split("://") ?? [];
  const key = spec.gateway.apiKeySecretRef || spec.gateway.jwt ? ` -H "authorization: Bearer $KEY"` : "";
  const body = JSON.stringify({ model: spec.model.servedName ?? name, messages: [{ role: "user", content: "Hello" }] });
  return html`<p>A request, and all that is known of this deployment (a click selects a line):</p>
<pre tabindex="0">kubectl -n ${namespace} port-forward service/${name} ${port}:${port}</pre>
<pre tabindex="0">curl ${scheme ?? "http"}://localhost:${port}/v1/chat/completions -H 'content-type: application/json'${key} -d '${body}'</pre>
<pre tabindex="0">enodia status ${name} -n ${namespace}</pre>`;
}

function underWayOf({ underWay }: Partial<PlacementView> = {}): readonly Fact[] {
  if (!underWay) return [];
  const byPhase = Map.groupBy(underWay.phases.values(), (one) => one);
  const layers = [...byPhase].map(([at, of]) => `${of.length} ${at}`).join(", ");
  return [["Under way", `${underWay.kind}: ${underWay.moves} moves; layers: ${layers}`]];
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

const rankColumns = [
  "rank",
  "pod",
  "node",
  "state",
  "load",
  "speed",
  "expertBytes",
  "budget",
  "active",
  "queuedTokens",
  "kv",
  "epoch",
] as const;

function rankRows({ ranks, status }: PlacementView, boundPercent: number | undefined): readonly RankRow[] {
  const live = ranks.map(({ rank, pod, node, state, activeRequests, queuedTokens, kv }) => {
    const kvPercent = kv && kv.blocks > 0 ? Math.round((100 * kv.used) / kv.blocks) : undefined;
    return { rank, pod, node, state, active: activeRequests, queuedTokens, kvPercent, boundPercent };
  });
  const rows = rankStates(live, status?.ranks);
  return rows.length <= ranksMax ? rows : rows.toSorted((a, b) => (b.loadPercent ?? 0) - (a.loadPercent ?? 0));
}

/** The message has the numbers. */
const decisionValue = ({ at, times, reason, message }: PastDecision): Value => [
  time(new Date(at).toISOString()),
  strong(reason),
  times > 1 ? note(`${times} times, last:`) : undefined,
  message,
];

const moveValue = ({ at, epoch, layer, expert, rank, from }: PastMove): Value => {
  const source = from.length === 0 ? "the store" : `rank ${from.join(", ")}`;
  const moved = `layer ${layer}, expert ${expert}: ${source} to`;
  return [time(new Date(at).toISOString()), moved, strong(`rank ${rank}`), note(`epoch ${epoch}`)];
};

type Panel = readonly [title: string, unit: string, floor: number, ...curves: readonly (readonly [label: string, series: SeriesName])[]];

const panels: readonly Panel[] = [
  ["Imbalance", "%", 100, ["measured", "imbalancePercent"], ["bound", "boundPercent"]],
  ["Tokens a second", "", 0, ["generated", "tokensPerSecond"]],
  ["Time to the first token", " ms", 0, ["mean at ranks", "firstTokenMs"]],
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
