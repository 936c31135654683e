// The tables of the benchmarks over ranks: what was measured in rounds, beside the one rank with the same CPUs, or beside the quiet value.
// Pure.
import { median, ratioOf, round } from "../speed-rows.ts";

/** What a case gave in one round. */
export interface RankFigures {
  readonly tokensPerSecond: number;
  /** Of all ranks together, for each token. */
  readonly bytesPerToken: number;
  /** Tokens of all ranks that an expert computes at once. */
  readonly rowsAtOnce: number;
  readonly cpuMsPerToken: number;
  /** Of the engine threads. */
  readonly denseMsPerToken: number;
  readonly expertsMsPerToken: number;
  readonly awaitedMsPerToken: number;
}

export interface RankRow {
  readonly ranks: string;
  readonly case: string;
  readonly tokensPerSecond: number;
  readonly perStream: number;
  /** To the one rank that has the CPUs of all, the median of the rounds. */
  readonly ratio: number | "-";
  readonly least: number | "-";
  readonly ok: boolean | "-";
  readonly kilobytesPerToken: number;
  readonly rowsAtOnce: number;
  /** CPU time, and of it computing what is not experts, and experts. */
  readonly cpuMsPerToken: number;
  readonly denseMsPerToken: number;
  readonly expertsMsPerToken: number;
  /** From the routing of rows to the answers of all experts: what is above the computing of them is the wire, and waiting for turns. */
  readonly awaitedMsPerToken: number;
}

export interface RankCase {
  readonly ranks: string;
  readonly name: string;
  readonly streams: number;
  readonly least: number | undefined;
  /** One a round. */
  readonly figures: readonly RankFigures[];
  /** The same case on one rank, of the same rounds; empty where this is it. */
  readonly beside: readonly RankFigures[];
}

export function rankRow({ ranks, name, streams, least, figures, beside }: RankCase): RankRow {
  const rates = figures.map((each) => each.tokensPerSecond);
  const ratio =
    beside.length > 0
      ? ratioOf(
          rates,
          beside.map((each) => each.tokensPerSecond),
        )
      : undefined;
  const rate = median(rates);
  const middle = (of: (each: RankFigures) => number): number => round(median(figures.map(of)), 2);
  return {
    ranks,
    case: name,
    tokensPerSecond: round(rate),
    perStream: round(rate / streams),
    ratio: ratio === undefined ? "-" : round(ratio, 2),
    least: ratio === undefined ? "-" : (least ?? "-"),
    ok: ratio === undefined || least === undefined ? "-" : ratio >= least,
    kilobytesPerToken: middle((each) => each.bytesPerToken / 1000),
    rowsAtOnce: middle((each) => each.rowsAtOnce),
    cpuMsPerToken: middle((each) => each.cpuMsPerToken),
    denseMsPerToken: middle((each) => each.denseMsPerToken),
    expertsMsPerToken: middle((each) => each.expertsMsPerToken),
    awaitedMsPerToken: middle((each) => each.awaitedMsPerToken),
  };
}

export interface DisturbedRow {
  readonly case: string;
  readonly quietMs: number;
  readonly disturbedMs: number;
  /** The median of the rounds. */
  readonly ratio: number;
  readonly most: number | "-";
  readonly ok: boolean | "-";
}

/** A time that something else makes longer; `most` undefined: a figure without a verdict. */
export function disturbedRow(
  name: string,
  most: number | undefined,
  rounds: readonly { readonly quiet: number; readonly disturbed: number }[],
): DisturbedRow {
  const [quiet, disturbed] = [rounds.map((each) => each.quiet), rounds.map((each) => each.disturbed)];
  const ratio = ratioOf(disturbed, quiet);
  return {
    case: name,
    quietMs: round(median(quiet), 2),
    disturbedMs: round(median(disturbed), 2),
    ratio: round(ratio, 2),
    most: most ?? "-",
    ok: most === undefined ? "-" : ratio <= most,
  };
}
