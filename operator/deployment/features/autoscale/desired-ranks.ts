// The desired number of ranks and its reason: the first check in order that decides wins. Pure.
import type { Autoscale, AutoscaleMetricName } from "../../../../crds/autoscale.ts";
import type { Operation } from "../../../../crds/operation.ts";
import { parseDuration } from "../../../../crds/quantity.ts";
import type { Reckoned } from "../../core/capacity.ts";
import type { History, RecommendedRanks } from "../../core/memory.ts";
import type { GatewayView, Verdict } from "../../core/world.ts";
import { metrics, type ServingRank } from "./metric-values.ts";
import { asking, type Rest, restOf } from "./zero.ts";

export interface AutoscaleInput {
  readonly spec: Autoscale;
  readonly replicas: number;
  readonly suspended: boolean;
  readonly serving: readonly ServingRank[];
  readonly gateways: readonly GatewayView[];
  readonly availableSince: number | undefined;
  readonly floor: Reckoned | undefined;
  /** The sum of spec.roles. */
  readonly inRoles?: number;
  readonly operation: Operation["type"] | undefined;
  readonly lastScale: LastScale | undefined;
  readonly history: History;
  readonly now: number;
}

export interface LastScale {
  readonly time: string;
  readonly from: number;
  readonly to: number;
}

export interface Decision {
  readonly verdict: Verdict;
  readonly to: number;
  readonly measured: readonly Measured[];
  readonly history: History;
  readonly againInMs: number | undefined;
}

interface Range {
  readonly low: number;
  readonly lowWhy: string;
  readonly high: number;
}

/** Growth may never come, so that a shrink does not wait for it. */
const yielding: readonly (Operation["type"] | undefined)[] = [undefined, "Start", "Grow", "Rebalance"];
const ranksShown = 8;

export function decide(input: AutoscaleInput): Decision {
  const { spec, replicas, suspended, serving, now } = input;
  const idle = (reason: string, message: string): Decision => ({
    verdict: { status: "False", reason, message },
    to: replicas,
    measured: [],
    history: [],
    againInMs: undefined,
  });
  if (suspended) return idle("Suspended", "spec.suspend is true: nothing is scaled");
  const range = rangeOf(input);
  if (replicas === 0) {
    const isOurs = input.lastScale?.to === 0;
    if (!isOurs) return idle("ScaledToZero", "replicas is 0, which turns the autoscaler off");
    return { ...idle("", ""), ...atZero(input, range), againInMs: askMs };
  }
  const rest = restOf(input);
  const measurement = measure(spec, serving, replicas);
  const asked = measurement.type === "measured" ? Math.max(...measurement.metrics.map(({ ranks }) => ranks)) : undefined;
  const history = asked === undefined ? input.history : remembered(input.history, { at: now, ranks: asked }, keepMs(spec));
  const measured = measurement.type === "measured" ? measurement.metrics : [];
  if (rest.type === "idle") return { ...toZero(input, rest), measured, history, againInMs: askMs };
  const choice = outOfRange(input, range) ?? (asked === undefined ? undefined : chosen({ ...input, history }, range, asked));
  const verdict = measurement.type === "measured" ? (choice?.verdict ?? active("AtTarget", "")) : unmeasured(measurement, choice?.to);
  const unknown = rest.type === "unknown" ? rest.why : "";
  const message = [figures(measured), verdict.message, unknown].filter((text) => text !== "").join("; ");
  return { verdict: { ...verdict, message }, to: choice?.to ?? replicas, measured, history, againInMs: askMs };
}

export function figures(measured: readonly Measured[]): string {
  return measured.map(({ name, value, target }) => `${name} ${twoDigits(value)}/${target}${metrics[name].unit}`).join(", ");
}

/** Two digits change the status seldom. */
export function twoDigits(value: number): number {
  return Math.round(Number(value.toPrecision(2)));
}

const active = (reason: string, message: string): Verdict => ({ status: "True", reason, message });

function rangeOf({ spec, floor, inRoles = 0 }: AutoscaleInput): Range {
  const high = spec.max;
  const least = floor?.count ?? 0;
  if (inRoles > Math.max(least, spec.min)) return { low: inRoles, lowWhy: "spec.roles names as many", high };
  // Where even the maximum cannot hold all experts, the floor does not apply.
  if (least > spec.min) return { low: Math.min(least, high), lowWhy: `as many hold all experts: ${floor?.reason ?? ""}`, high };
  return { low: spec.min, lowWhy: "elasticity.autoscale.min", high };
}

/** The other metrics lag. */
function toZero({ spec, replicas, operation }: AutoscaleInput, { since }: Extract<Rest, { type: "idle" }>): Choice {
  if (!yielding.includes(operation)) return { to: replicas, verdict: waits(operation, 0) };
  const message = `no request since ${since}, for ${spec.scaleToZero?.idleAfter}: replicas ${replicas} -> 0`;
  return { to: 0, verdict: active("ScalingToZero", message) };
}

/** The first request sets the minimum again. */
function atZero({ spec, gateways, lastScale, now }: AutoscaleInput, { low, lowWhy }: Range): Choice {
  const set = (why: string): Choice => ({ to: low, verdict: active("Waking", `replicas 0 -> ${low}: ${why}`) });
  if (!spec.scaleToZero || !lastScale) return set(`${lowWhy}; elasticity.autoscale.scaleToZero is left out`);
  const asks = asking(gateways, lastScale.time, now);
  if (asks) return set(`gateway ${asks.name} ${asks.wantsRanks ? "has requests that wait for ranks, or has started" : "had a request"}`);
  return { to: 0, verdict: active("ScaledToZero", `at zero since ${lastScale.time}; ${low} ranks come with the first request`) };
}

interface Choice {
  readonly to: number;
  readonly verdict: Verdict;
}

/** This works during an outage of telemetry, too. */
function outOfRange(input: AutoscaleInput, { low, lowWhy, high }: Range): Choice | undefined {
  const { replicas, operation } = input;
  if (replicas > high && !yielding.includes(operation)) return { to: replicas, verdict: waits(operation, high) };
  if (replicas > high) return { to: high, verdict: active("TooManyReplicas", `replicas ${replicas} -> ${high}, elasticity.autoscale.max`) };
  if (replicas < low) return { to: low, verdict: active("TooFewReplicas", `replicas ${replicas} -> ${low}: ${lowWhy}`) };
  return undefined;
}

function chosen(input: AutoscaleInput, range: Range, asked: number): Choice {
  const { spec, replicas, history, now } = input;
  const { scaleUp, scaleDown } = spec.behaviour;
  const upSpan = over(history, windowOf(scaleUp, "scaleUp"), { at: now, ranks: asked });
  const downSpan = over(history, windowOf(scaleDown, "scaleDown"), { at: now, ranks: asked });
  const up = Math.min(upSpan.least, range.high);
  const down = Math.max(downSpan.most, range.low);
  if (up > replicas && upSpan.whole) return step(input, Math.min(up, replicas + scaleUp.maxRanks), "scaleUp");
  if (down < replicas && downSpan.whole) return step(input, Math.max(down, replicas - scaleDown.maxRanks), "scaleDown");
  return { to: replicas, verdict: stays(input, range, asked) };
}

function stays({ spec, replicas }: AutoscaleInput, { low, lowWhy, high }: Range, asked: number): Verdict {
  if (asked > high && replicas === high)
    return active("AtMaximum", `${asked} ranks are asked for, elasticity.autoscale.max is ${high}: raise it for more`);
  if (asked > replicas)
    return active("Stabilizing", `${asked} ranks are asked for, and not yet for ${spec.behaviour.scaleUp.stabilizationWindow}`);
  if (asked < low && replicas === low) return active("AtMinimum", `${replicas} ranks are the least: ${lowWhy}`);
  if (asked < replicas)
    return active("Stabilizing", `${asked} ranks would do, and have not yet done for ${spec.behaviour.scaleDown.stabilizationWindow}`);
  return active("AtTarget", `${replicas} ranks are as many as are asked for`);
}

function step({ spec, replicas, operation, lastScale, now }: AutoscaleInput, to: number, direction: "scaleUp" | "scaleDown"): Choice {
  if (to < replicas && !yielding.includes(operation)) return { to: replicas, verdict: waits(operation, to) };
  const { period } = spec.behaviour[direction];
  const last = lastScale && (direction === "scaleUp") === lastScale.to > lastScale.from ? Date.parse(lastScale.time) : undefined;
  // A time in the future comes from a clock that was ahead.
  if (last !== undefined && now >= last && now - last < parseDuration(period, `spec.elasticity.autoscale.behaviour.${direction}.period`))
    return { to: replicas, verdict: active("StepLimit", `${to} ranks are next, ${period} after the last step`) };
  return { to, verdict: active(to > replicas ? "ScalingUp" : "ScalingDown", `replicas ${replicas} -> ${to}`) };
}

function waits(operation: AutoscaleInput["operation"], to: number): Verdict {
  return active("OperationUnderWay", `${to} ranks are next, after the operation under way: ${operation}`);
}

function unmeasured(measurement: Exclude<Measurement, { type: "measured" }>, to: number | undefined): Verdict {
  const meanwhile = to === undefined ? "nothing is scaled" : "the range alone counts";
  if (measurement.type === "nobody") return { status: "Unknown", reason: "NoRanks", message: `no rank serves: ${meanwhile}` };
  const who = `ranks ${measurement.ranks.slice(0, ranksShown).join(", ")}${measurement.ranks.length > ranksShown ? " and more" : ""}`;
  if (measurement.type === "measuring")
    return { status: "Unknown", reason: "Measuring", message: `${who} are heard for too short a time: ${meanwhile}` };
  const { metric } = measurement;
  const message = metric
    ? `${who} do not report ${metric}: ${meanwhile}`
    : `${who} are ready and not heard, and what is not known is no reason to scale: ${meanwhile}`;
  return { status: "False", reason: "SignalsMissing", message };
}

function windowOf({ stabilizationWindow }: { readonly stabilizationWindow: string }, direction: string): number {
  return parseDuration(stabilizationWindow, `spec.elasticity.autoscale.behaviour.${direction}.stabilizationWindow`);
}

function keepMs({ behaviour: { scaleUp, scaleDown } }: Autoscale): number {
  return Math.max(windowOf(scaleUp, "scaleUp"), windowOf(scaleDown, "scaleDown"));
}

export interface Measured {
  readonly name: AutoscaleMetricName;
  readonly value: number;
  readonly target: number;
  readonly ranks: number;
}

type Measurement =
  | { readonly type: "measured"; readonly metrics: readonly Measured[] }
  /** Ranks with too short a history. */
  | { readonly type: "measuring"; readonly ranks: readonly number[] }
  /** Ranks that do not report this metric, or anything. */
  | { readonly type: "missing"; readonly ranks: readonly number[]; readonly metric: AutoscaleMetricName | undefined }
  | { readonly type: "nobody" };

/** A shorter mean says little of bursts. */
const spanMin = 10_000;
/** Relative distance from the target that changes nothing. */
const tolerance = 0.1;
/** Tolerance for the last bits of a sum. */
const rounding = 1e-9;

function measure(spec: Autoscale, serving: readonly ServingRank[], replicas: number): Measurement {
  if (serving.length === 0) return { type: "nobody" };
  const silent = serving.filter(({ signals }) => signals === undefined);
  if (silent.length > 0) return { type: "missing", ranks: silent.map(({ rank }) => rank), metric: undefined };
  const heard = serving.flatMap(({ rank, signals }) => (signals ? [{ rank, signals }] : []));
  const fresh = heard.filter(({ signals }) => signals.spanMs < spanMin);
  if (fresh.length > 0) return { type: "measuring", ranks: fresh.map(({ rank }) => rank) };
  const found: Measured[] = [];
  for (const { name, target } of spec.metrics) {
    const { of } = metrics[name];
    const without = heard.filter(({ signals }) => !Number.isFinite(of(signals)));
    if (without.length > 0) return { type: "missing", ranks: without.map(({ rank }) => rank), metric: name };
    const total = heard.reduce((sum, { signals }) => sum + (of(signals) ?? 0), 0);
    found.push({ name, value: total / heard.length, target, ranks: asked(total, target, replicas) });
  }
  return { type: "measured", metrics: found };
}

/** The total counts, so that ranks that are still starting do not lower the result. */
function asked(total: number, target: number, replicas: number): number {
  if (Math.abs(total / (target * replicas) - 1) <= tolerance) return replicas;
  return Math.ceil(total / target - rounding);
}

export const askMs = 5_000;
/** After a longer gap the history starts anew. */
const gapMax = 60_000;
/** One hour, the longest window. */
const entriesMax = 3_600_000 / askMs + 2;

/** Keeps one entry older than `keepMs`, so that a window can be whole. */
export function remembered(history: History, now: RecommendedRanks, keepMs: number): History {
  const last = history.at(-1);
  if (last && last.at - now.at > askMs) return [now]; // the clock was set back, so that the age of the others is unknown
  if (last && now.at - last.at < askMs) return history;
  if (last && now.at - last.at > gapMax) return [now];
  const old = history.findLastIndex(({ at }) => now.at - at >= keepMs);
  return [...history.slice(Math.max(0, old)), now].slice(-entriesMax);
}

interface Span {
  readonly least: number;
  readonly most: number;
  /** False while the history is shorter than the window. */
  readonly whole: boolean;
}

function over(history: History, windowMs: number, { at: now, ranks }: RecommendedRanks): Span {
  const inside = history.filter(({ at }) => now - at <= windowMs).map((one) => one.ranks);
  const first = history[0]?.at ?? now;
  return { least: Math.min(ranks, ...inside), most: Math.max(ranks, ...inside), whole: now - first >= windowMs };
}
