// The two questions around a plan: is one needed, and is the finished one worth its moves? Every answer has a PascalCase reason and
// numbers: DECISIONS.md 5 and 6.

import type { RebalancingMode } from "../../crds/names.ts";
import type { LayerPlan } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { bound, fastestOf, imbalance, jointBound } from "../../runtime/placement/imbalance.ts";
import { loadByWeights } from "../../runtime/placement/split.ts";
import type { PlanInput } from "./policy.ts";
import { type Hosts, layerDemand, toLayers, toProblem } from "./problem.ts";
import { type WorthOptions, worthNumbers, worthOf, worthText } from "./worth.ts";

type HoldReason =
  | "ModeOff"
  | "NotSynced"
  | "TelemetryStale"
  | "PartialRanks"
  | "TooFewTokens"
  | "Interval"
  | "Balanced"
  | "SingleRank"
  | "WithinNoise"
  | "NoBetterPlan"
  | "TransferNotWorth"
  | "Recommended"
  | "PlanFailed";

export type Numbers = Readonly<Record<string, number>>;
export type Decision =
  | { readonly act: true; readonly reason: "Imbalanced" | "RowsAway"; readonly message: string; readonly numbers: Numbers }
  | { readonly act: false; readonly reason: HoldReason; readonly message: string; readonly numbers: Numbers };

export interface Situation {
  readonly mode: RebalancingMode;
  readonly synced: boolean;
  readonly telemetryAgeMs: number;
  readonly staleAfterMs: number;
  readonly missingRanks: readonly number[];
  readonly activeRanks: number;
  /** The selections of the layer with the fewest, among layers with any. */
  readonly selectionsPerLayer: number;
  readonly minTokens: number;
  readonly sinceLastPlanMs: number;
  readonly intervalMs: number;
  readonly intervalFactor: number;
  /** The load has just changed (CUSUM): the interval does not delay a plan. */
  readonly alarm: boolean;
  /** The predicted max/mean of the worst layer under the committed plan. */
  readonly imbalance: number;
  readonly triggerPercent: number;
  readonly noise: number;
  readonly layers: number;
  /** True when the last plan brought it close to the trigger and the load has not changed: a little more is tolerated. */
  readonly settled: boolean;
}

/** Points above the trigger that a settled placement may drift. */
const settledPoints = 3;
const glaringSigmas = 5;
const noiseMax = 0.05;

export function whetherToPlan(s: Situation): Decision {
  if (s.mode === "Off") return hold("ModeOff", "rebalancing.mode is Off");
  if (s.activeRanks < 2) return hold("SingleRank", `${s.activeRanks} rank serves: nothing to balance`, { ranks: s.activeRanks });
  if (!s.synced) return hold("NotSynced", "not every rank runs the committed epoch yet");
  if (s.telemetryAgeMs > s.staleAfterMs) {
    return hold("TelemetryStale", `a rank's last load message is ${seconds(s.telemetryAgeMs)} old, at most ${seconds(s.staleAfterMs)}`, {
      ageMs: finite(s.telemetryAgeMs),
      staleAfterMs: s.staleAfterMs,
    });
  }
  if (s.missingRanks.length > 0) {
    return hold("PartialRanks", `ranks ${s.missingRanks.slice(0, 8).join(", ")} did not report in the window`, {
      missing: s.missingRanks.length,
      ranks: s.activeRanks,
    });
  }
  const settled = balanced(s);
  if (settled) return settled;
  if (s.sinceLastPlanMs < s.intervalMs && !s.alarm) {
    const why = s.intervalFactor > 1 ? `, ${s.intervalFactor} times the usual while the load holds still and no plan is better` : "";
    return hold("Interval", `last plan ${seconds(s.sinceLastPlanMs)} ago, at least ${seconds(s.intervalMs)} apart${why}`, {
      sinceMs: s.sinceLastPlanMs,
      intervalMs: s.intervalMs,
    });
  }
  const message = `worst layer at ${Math.round(s.imbalance * 100)}%, trigger ${s.triggerPercent}%`;
  const numbers = { imbalancePercent: Math.round(s.imbalance * 100), triggerPercent: s.triggerPercent };
  return { act: true, reason: "Imbalanced", message, numbers };
}

function balanced(s: Situation): Decision | undefined {
  // Such an imbalance is real even with half the counts, and after a change of load every second counts.
  const glaring = s.imbalance - s.triggerPercent / 100 > glaringSigmas * s.noise;
  const wanted = glaring ? s.minTokens / 2 : s.minTokens;
  if (s.selectionsPerLayer < wanted) {
    return hold("TooFewTokens", `${s.selectionsPerLayer} selections per layer, at least ${wanted} are needed`, {
      selections: s.selectionsPerLayer,
      wanted,
    });
  }
  const percent = Math.round(s.imbalance * 100);
  const numbers = { imbalancePercent: percent, triggerPercent: s.triggerPercent };
  if (s.imbalance * 100 < s.triggerPercent) return hold("Balanced", `worst layer at ${percent}%, trigger ${s.triggerPercent}%`, numbers);
  const noise = Math.min(s.noise * (s.settled ? worstSigmas(s.layers) : 1), noiseMax);
  if ((s.imbalance - noise) * 100 < s.triggerPercent + (s.settled ? settledPoints : 0)) {
    return hold("WithinNoise", `worst layer at ${percent}%, trigger ${s.triggerPercent}%, of which ${percentOf(noise)} may be chance`, {
      ...numbers,
      noisePercent: Math.round(noise * 100),
    });
  }
  return undefined;
}

/** Whether what was just planned is left alone: a plan that a glaring skew hastened rests on too few tokens. */
export function isSettled(s: Pick<Situation, "selectionsPerLayer" | "minTokens" | "imbalance" | "triggerPercent">): boolean {
  return s.selectionsPerLayer >= s.minTokens && s.imbalance * 100 < s.triggerPercent + settledPoints;
}

/** How far the worst of so many even layers stands out by chance: the expected maximum of normal draws, sqrt(2 ln n). */
function worstSigmas(layers: number): number {
  return Math.max(1, Math.sqrt(2 * Math.log(layers)));
}

function hold(reason: HoldReason, message: string, numbers: Numbers = {}): Decision {
  return { act: false, reason, message, numbers };
}

export function planFailed(message: string, numbers: Numbers = {}): Decision {
  return hold("PlanFailed", message, numbers);
}

export interface Judged {
  readonly decision: Decision;
  readonly moves: number;
  readonly bytes: number;
  readonly before: number;
  readonly after: number;
  readonly bound: number;
}

export interface JudgeOptions extends WorthOptions {
  readonly mode: RebalancingMode;
  readonly noise: number;
  /** The part of all rows that stay at their rank by a plan for them, which counts for it as evenness does not. */
  readonly kept?: number | undefined;
}

/** Gains of max/mean below this are not worth a new epoch. */
const leastGain = 0.02;
/** New weights without a move follow noise, so they need a larger gain. */
const weightsGain = 0.05;
/** The least mean gain that is worth a plan while the worst layer waits for memory or budget. */
const leastMeanGain = 0.01;

export function whetherToMove(input: PlanInput, layers: readonly LayerPlan[], options: JudgeOptions): Judged {
  const current = input.current ?? [];
  const { moves } = diffPlans(current, layers, (l, e) => input.shape.storedBytes[l * input.shape.experts + e] ?? 0);
  const bytes = moves.reduce((total, move) => total + move.bytes, 0);
  const ratiosBefore = predictedLayers(input, current);
  const ratiosAfter = predictedLayers(input, layers);
  const before = Math.max(1, ...ratiosBefore);
  const after = Math.max(1, ...ratiosAfter);
  const best = layerBoundOf(input);
  // Layer times add up, so the mean pays for the transfer; users see the worst layer.
  const meanBefore = meanOf(ratiosBefore);
  const meanAfter = meanOf(ratiosAfter);
  const worth = worthOf(input, moves, { before: meanBefore, after: meanAfter, kept: options.kept }, options);
  const numbers = {
    beforePercent: Math.round(before * 100),
    afterPercent: Math.round(after * 100),
    boundPercent: Math.round(finite(best) * 100),
    moves: moves.length,
    bytes,
    ...worthNumbers(worth),
  };
  const keepsRows = (options.kept ?? 0) > 0;
  // While the worst layer waits, moves must gain by themselves, without the gain of new weights.
  const meanGain =
    before - after < leastGain && current.length > 0 && !keepsRows ? meanOf(withNewWeights(input)) - meanAfter : meanBefore - meanAfter;
  const enough = Math.max(leastMeanGain, options.noise / 4);
  const judged = (decision: Decision): Judged => ({ decision, moves: moves.length, bytes, before, after, bound: best });
  const held = (reason: HoldReason, message: string): Judged => judged(hold(reason, message, numbers));
  const change = `${percentOf(before)} -> ${percentOf(after)} (bound ${percentOf(best)})`;
  if (before - after < leastGain && meanGain < enough && !keepsRows)
    return held("NoBetterPlan", `the best plan found gains too little: ${change}`);
  if (before - after < options.noise && before < 1 + 4 * options.noise && meanGain < enough && !keepsRows) {
    return held("WithinNoise", `${change} is within the noise of the window, ${percentOf(options.noise)}`);
  }
  if (!keepsRows && moves.length === 0 && before - after < Math.max(weightsGain, 2 * options.noise)) {
    return held("NoBetterPlan", `weights alone would give ${change}: too little for an epoch of its own`);
  }
  if (worth.gainSeconds <= worth.costSeconds) return held("TransferNotWorth", `${change} ${worthText(worth)}`);
  if (options.mode === "Recommend")
    return held("Recommended", `mode is Recommend: ${moves.length} moves would give ${change}; it ${worthText(worth)}`);
  return judged({
    act: true,
    reason: keepsRows ? "RowsAway" : "Imbalanced",
    message: `${change} with ${moves.length} moves, ${bytes} bytes: ${worthText(worth)}`,
    numbers,
  });
}

function withNewWeights(input: PlanInput): number[] {
  const problem = toProblem(input);
  return predictedLayers(input, toLayers(problem, problem.current as Hosts));
}

/** The worst layer's max/mean if the forecast is routed by the plan's weights; layers without load count as even. */
export function predictedWorst(input: PlanInput, layers: readonly LayerPlan[]): number {
  return Math.max(1, ...predictedLayers(input, layers));
}

/** max/mean of each layer, [layers], speed-weighted, on the same terms. */
export function predictedLayers(input: PlanInput, layers: readonly LayerPlan[]): number[] {
  const problem = toProblem({ ...input, current: layers });
  return layers.map((layer, l) => {
    return imbalance(loadByWeights(layerDemand(problem, l), problem.current?.[l] ?? [], layer.weights, problem.G), problem.speed);
  });
}

export function layerBoundOf(input: PlanInput): number {
  const { shape } = input;
  const active = input.ranks.filter((rank) => rank.state === "active");
  const problem = toProblem(input);
  const demands = Array.from({ length: shape.layers }, (_, l) => layerDemand(problem, l));
  if (active.length === 0) return Number.POSITIVE_INFINITY;
  const fastest = fastestOf(active.map((rank) => Math.max(0, rank.speed)));
  if (input.slotsPerRank !== undefined)
    return Math.max(...demands.map((demand) => bound(demand, active.length, active.length * (input.slotsPerRank ?? 0), fastest)));
  return jointBound(demands, active.length, Math.min(slotsOf(input), problem.total * active.length), fastest);
}

function slotsOf(input: PlanInput): number {
  const problem = toProblem(input);
  const unit = problem.staging;
  if (unit === 0) return Number.POSITIVE_INFINITY;
  return problem.capacity.reduce((slots, bytes) => slots + Math.max(0, Math.floor(bytes / unit + 1e-9)), 0);
}

function seconds(ms: number): string {
  return Number.isFinite(ms) ? `${(ms / 1000).toFixed(1)} s` : "never";
}

function percentOf(ratio: number): string {
  return Number.isFinite(ratio) ? `${Math.round(ratio * 100)}%` : "none";
}

function meanOf(ratios: readonly number[]): number {
  return ratios.length > 0 ? ratios.reduce((a, b) => a + b, 0) / ratios.length : 1;
}

function finite(value: number): number {
  return Number.isFinite(value) ? value : -1;
}
