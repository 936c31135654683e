// The table of training over ranks: what each planner reaches on a workload, beside expert parallelism and the best of the others. Pure.
import { median, ratioOf, round } from "../speed-rows.ts";
import type { Took } from "./child.ts";

/** One planner's round: steps that all ranks made together. */
export interface RoundFigures {
  readonly tokensPerSecond: number;
  readonly cpuMsPerStep: number;
  /** Milliseconds of a step, the mean of the ranks. */
  readonly copiesMs: number;
  readonly sumsMs: number;
  readonly dispatchMs: number;
  readonly computeMs: number;
  readonly meetingMs: number;
  readonly hostMs: number;
  /** Of all ranks. */
  readonly megabytesPerStep: number;
  /** Payloads of copies and of sums to what the laws say. */
  readonly toLaw: number;
  /** Bytes on the cards to those of payloads. */
  readonly cardToPayload: number;
  readonly imbalance: number;
}

export interface Round {
  /** By rank. */
  readonly took: readonly Took[];
  readonly cardBytes: number;
  readonly tokens: number;
  readonly steps: number;
}

export function roundFigures({ took, cardBytes, tokens, steps }: Round): RoundFigures {
  const mean = (of: (each: Took) => number): number => took.reduce((sum, each) => sum + of(each), 0) / took.length / steps;
  const sentOf = (each: Took, names: readonly string[]): number => names.reduce((sum, name) => sum + (each.sent[name] ?? 0), 0);
  const payload = took.reduce((sum, each) => sum + sentOf(each, Object.keys(each.sent)), 0);
  const lawful = took.reduce((sum, each) => sum + sentOf(each, ["copies", "sums"]), 0);
  const law = (took[0]?.law.copies ?? 0) + (took[0]?.law.sums ?? 0);
  return {
    tokensPerSecond: (1000 * tokens) / Math.max(...took.map(({ ms }) => ms)),
    cpuMsPerStep: took.length * mean(({ cpuMs }) => cpuMs),
    computeMs: mean(({ times }) => times.compute),
    copiesMs: mean(({ times }) => times.spAG),
    sumsMs: mean(({ times }) => times.spRS),
    dispatchMs: mean(({ times }) => times.dispatch),
    meetingMs: mean(({ times }) => times.meeting),
    hostMs: mean(({ times }) => times.host),
    megabytesPerStep: payload / steps / 1e6,
    toLaw: law === 0 ? (lawful === 0 ? 1 : Number.POSITIVE_INFINITY) : lawful / law,
    cardToPayload: cardBytes / payload,
    imbalance: imbalanceOf(took.map(({ rows }) => rows)),
  };
}

/** The busiest rank's rows to the mean, on the mean of steps and layers: rows[rank][step][layer]. */
function imbalanceOf(rows: readonly (readonly (readonly number[])[])[]): number {
  const worst = (rows[0] ?? []).flatMap((layers, step) =>
    layers.map((_, layer) => {
      const each = rows.map((rank) => rank[step]?.[layer] ?? 0);
      return (each.length * Math.max(...each)) / each.reduce((a, b) => a + b, 0);
    }),
  );
  return worst.reduce((a, b) => a + b, 0) / worst.length;
}

export interface TrainingRow {
  readonly workload: string;
  readonly planner: string;
  readonly tokensPerSecond: number;
  /** To expert parallelism, and to the best of the planners, each the median of the rounds. */
  readonly toEp: number;
  readonly toBest: number;
  readonly toTorch: number | "-";
  /** Of what a row says of `auto`; "-" for the others. */
  readonly least: string;
  readonly ok: boolean | "-";
  /** The busiest rank's rows to the mean. */
  readonly imbalance: number;
  /** Milliseconds of a step that a rank computes, that copies and sums show, that it waits for rows and for all ranks, and the rest. */
  readonly compute: number;
  readonly copies: number;
  readonly sums: number;
  readonly dispatch: number;
  readonly meeting: number;
  readonly host: number;
  readonly cpuMs: number;
  readonly megabytes: number;
  readonly toLaw: number;
  readonly cardToPayload: number | "-";
}

export interface Case {
  readonly workload: string;
  readonly planner: string;
  /** One a round. */
  readonly figures: readonly RoundFigures[];
  /** Of expert parallelism, in the same rounds. */
  readonly ep: readonly RoundFigures[];
  /** Of all planners. */
  readonly all: readonly (readonly RoundFigures[])[];
  /** Tokens/s of the peer in the same rounds, if it is there. */
  readonly peer: readonly number[];
}

const rates = (figures: readonly RoundFigures[]): number[] => figures.map((each) => each.tokensPerSecond);

/** What `auto` must reach: to expert parallelism where the load is skewed, nearly that where it is even, and nearly the best of all. */
const least = { skewed: 1.35, balanced: 0.95, best: 0.97 };
/** To torch's expert parallelism. */
const leastOfTorch = { skewed: 1.3, balanced: 0.9 };

const isJudged = (workload: string): workload is "skewed" | "balanced" => workload === "skewed" || workload === "balanced";

export function trainingRow({ workload, planner, figures, ep, all, peer }: Case): TrainingRow {
  const toEp = ep.length === 0 ? Number.NaN : ratioOf(rates(figures), rates(ep));
  const best = all.reduce((most, each) => (median(rates(each)) > median(rates(most)) ? each : most), figures);
  const toBest = ratioOf(rates(figures), rates(best));
  const middle = (of: (each: RoundFigures) => number, digits = 0): number => round(median(figures.map(of)), digits);
  const toTorch = peer.length === 0 ? undefined : ratioOf(rates(figures), peer);
  const limits: { readonly of: string; readonly ratio: number; readonly least: number }[] = [];
  if (planner === "auto" && all.length > 2) limits.push({ of: "best", ratio: toBest, least: least.best });
  if (planner === "auto" && isJudged(workload)) {
    if (ep.length > 0) limits.push({ of: "ep", ratio: toEp, least: least[workload] });
    if (toTorch !== undefined) limits.push({ of: "torch", ratio: toTorch, least: leastOfTorch[workload] });
  }
  const card = middle((each) => each.cardToPayload, 3);
  return {
    workload,
    planner,
    tokensPerSecond: middle((each) => each.tokensPerSecond),
    toEp: round(toEp, 2),
    toBest: round(toBest, 2),
    toTorch: toTorch === undefined ? "-" : round(toTorch, 2),
    least: limits.map((limit) => `${limit.least} of ${limit.of}`).join(", ") || "-",
    ok: limits.length === 0 ? "-" : limits.every((limit) => limit.ratio >= limit.least),
    imbalance: middle((each) => each.imbalance, 2),
    compute: middle((each) => each.computeMs),
    copies: middle((each) => each.copiesMs),
    sums: middle((each) => each.sumsMs),
    dispatch: middle((each) => each.dispatchMs),
    meeting: middle((each) => each.meetingMs),
    host: middle((each) => each.hostMs),
    cpuMs: middle((each) => each.cpuMsPerStep),
    megabytes: middle((each) => each.megabytesPerStep, 1),
    toLaw: middle((each) => each.toLaw, 3),
    cardToPayload: Number.isNaN(card) ? "-" : card,
  };
}
