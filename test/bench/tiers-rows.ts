// The table of ranks whose memory holds a part of their experts: what was measured beside what the operator foresees, and llama.cpp. Pure.
import type { PlacementPlan } from "../../crds/plan.ts";
import type { ModelShape } from "../../operator/planner/policy.ts";
import { forecastTiers } from "../../operator/planner/tiers.ts";
import { sum } from "../../runtime/placement/imbalance.ts";
import { median, round } from "./speed-rows.ts";

/** Of a case in one round; loads and times are for each token. */
export interface TierFigures {
  readonly rate: number;
  readonly loads: number;
  readonly megabytes: number;
  /** Time in which tokens wait for loads of the rank where it is longest. */
  readonly stallMs: number;
  readonly foreseen: Foreseen;
  /** Memory of a rank without page cache, and its limit; NaN without one. */
  readonly ownBytes: number;
  readonly limitBytes: number;
  readonly sameText: boolean;
  readonly peer: number | undefined;
}

interface Foreseen {
  readonly loads: number;
  readonly stallMs: number;
  /** What a token waits, where ranks load at the same time. */
  readonly waitMs: number;
}

interface ForecastOf {
  readonly shape: ModelShape;
  readonly plan: PlacementPlan;
  readonly topK: number;
  /** Memory for experts of each rank. */
  readonly memoryBytes: number;
  readonly ranks: number;
  /** Tokens that a rank computes at once. */
  readonly together: number;
  /** Rows that chose each expert. */
  readonly routed: Float64Array;
  readonly bytesPerSecond: number | undefined;
}

/** The chance that one of so many tokens chooses each expert, as far as they choose by themselves. */
function chancesOf(shape: ModelShape, routed: Float64Array, topK: number, together: number): Float64Array {
  const rowsIn = (layer: number): number => sum(routed.subarray(layer * shape.experts, (layer + 1) * shape.experts));
  const rows = Array.from({ length: shape.layers }, (_, layer) => rowsIn(layer));
  return routed.map((each, cell) => {
    const chance = Math.min(1, (each * topK) / Math.max(1, rows[Math.floor(cell / shape.experts)] as number));
    return 1 - (1 - chance) ** together;
  });
}

/** The operator's forecast for each token. It is of one token at a time: several that share loads are one that chooses more experts. */
export function foreseen({ shape, plan, topK, memoryBytes, ranks, together, routed, bytesPerSecond }: ForecastOf): Foreseen {
  const load = chancesOf(shape, routed, topK, together);
  const chosen = sum(load) / plan.layers.length;
  const specs = Array.from({ length: ranks }, (_, rank) => {
    return { rank, speed: 1, budgetBytes: memoryBytes, zone: "", node: `${rank}`, state: "active" as const };
  });
  const forecast = forecastTiers({ shape, ranks: specs, load, layers: plan.layers, topK: chosen, bytesPerSecond });
  const ms = (seconds: number | undefined): number => (1000 * (seconds ?? 0)) / together;
  return { loads: forecast.loadsPerToken / together, stallMs: ms(forecast.loadSeconds), waitMs: ms(forecast.stallSeconds) };
}

/** Of llama.cpp's tokens/s, on one rank with memory for half. */
const least = { percent: 50, ratio: 1.5 };
/** Measured to foreseen. */
const within = { from: 0.7, to: 1.3 };

interface TierCase {
  readonly ranks: number;
  readonly percent: number;
  readonly prefetch: string;
  readonly streams: number;
  /** One a round. */
  readonly figures: readonly TierFigures[];
  /** The same with memory for all experts; empty where that was not asked for. */
  readonly all: readonly TierFigures[];
}

export function tierRow({ ranks, percent, prefetch, streams, figures, all }: TierCase) {
  const middle = (of: (each: TierFigures) => number): number => median(figures.map(of));
  const ratio = (value: number, to: number): number | "-" => (value > 0 && to > 0 ? round(value / to, 2) : "-");
  const rate = middle((each) => each.rate);
  const [allRate, waitMs] = [median(all.map((each) => each.rate)), middle((each) => each.foreseen.waitMs)];
  const alone = streams === 1; // of several the forecast is a guess
  const foreseenRate = allRate > 0 && percent < 100 ? 1000 / (1000 / allRate + waitMs) : 0;
  const [stallMs, foreseenMs] = [middle((each) => each.stallMs), middle((each) => each.foreseen.stallMs)];
  const ofForeseen = [ratio(rate, foreseenRate), ratio(stallMs, foreseenMs)] as const;
  const peers = figures.flatMap(({ peer }) => peer ?? []);
  const toPeer = ratio(rate, median(peers));
  const judged = toPeer !== "-" && percent === least.percent && alone;
  const [ownBytes, limitBytes] = [Math.max(...figures.map((each) => each.ownBytes)), middle((each) => each.limitBytes)];
  const sameText = figures.every((each) => each.sameText);
  const near = !alone || ofForeseen.every((each) => each === "-" || (each >= within.from && each <= within.to));
  return {
    ...{ ranks, memory: `${percent}%`, prefetch, streams, tokensPerSecond: round(rate, 2), ofAll: ratio(rate, allRate) },
    ...{ foreseen: foreseenRate > 0 ? round(foreseenRate, 2) : "-", ofForeseen: ofForeseen[0] },
    ...{
      loadsPerToken: round(
        middle((each) => each.loads),
        2,
      ),
      foreseenLoads: round(
        middle((each) => each.foreseen.loads),
        2,
      ),
    },
    ...{ megabytesPerToken: round(middle((each) => each.megabytes)), stallMs: round(stallMs), foreseenMs: round(foreseenMs) },
    ...{ ofForeseenMs: ofForeseen[1], ownMegabytes: megabytes(ownBytes), limitMegabytes: megabytes(limitBytes), sameText },
    ...{ llamaCpp: peers.length > 0 ? round(median(peers), 2) : "-", ratio: toPeer, least: judged ? least.ratio : "-" },
    ok: sameText && near && !(ownBytes > limitBytes) && (!judged || toPeer >= least.ratio),
  };
}

const megabytes = (bytes: number): number | "-" => (Number.isNaN(bytes) ? "-" : Math.round(bytes / 1e6));
