// The table of the benchmark of failover: pauses of streams whose worker was killed, beside quiet prefills of as many tokens. Pure.
import { median, ratioOf, round } from "./speed-rows.ts";

/** Milliseconds of one round. */
export interface Loss {
  /** Between the last token of the first worker and the first one of the other. */
  readonly pause: number;
  /** Parts of it, as the gateway tells them: until the loss is known, until the other worker computes, until its first token. */
  readonly detection: number;
  readonly failover: number;
  readonly prefill: number;
  /** The same prefill when nothing else runs. */
  readonly quietPrefill: number;
  /** The tokens are those of an unbroken run. */
  readonly sameText: boolean;
}

export interface FailoverRow {
  readonly case: string;
  readonly pauseMs: number;
  readonly detectionMs: number;
  readonly failoverMs: number;
  readonly prefillMs: number;
  readonly quietPrefillMs: number;
  /** What is left of the pause after the detection, to the quiet prefill: the median of the rounds. */
  readonly ratio: number;
  readonly most: number;
  /** Rounds whose text is that of an unbroken run. */
  readonly sameText: string;
  readonly ok: boolean;
}

const most = 1.2;

export function failoverRow(name: string, losses: readonly Loss[]): FailoverRow {
  const middle = (part: Exclude<keyof Loss, "sameText">): number => round(median(losses.map((each) => each[part])));
  const ratio = ratioOf(
    losses.map(({ pause, detection }) => pause - detection),
    losses.map(({ quietPrefill }) => quietPrefill),
  );
  const same = losses.filter(({ sameText }) => sameText).length;
  return {
    ...{ case: name, pauseMs: middle("pause"), detectionMs: middle("detection"), failoverMs: middle("failover") },
    ...{ prefillMs: middle("prefill"), quietPrefillMs: middle("quietPrefill"), ratio: round(ratio, 2), most },
    ...{ sameText: `${same} of ${losses.length}`, ok: ratio <= most && same === losses.length },
  };
}
