// The words and figures of one plan: what it says of itself in the status while it is carried out and when it has ended, in the event
// of its end, and as the last rebalance. The rollout gives the facts; this decides nothing. Pure.
import type { PlacementFacts } from "../observed.ts";
import { reasonCharsMax } from "./plan-object.ts";
import type { PlanReport, Proposal } from "./proposal.ts";
import type { Outcome } from "./protocol-types.ts";

/** What is foreseen of the whole plan at its start. */
export interface Foreseen extends Pick<Proposal, "kind" | "reason"> {
  readonly predicted: Proposal["predicted"];
  readonly moves: number;
  /** Stored bytes that move. */
  readonly bytes: number;
}

/** What it came to. */
export interface Figures {
  readonly outcome: Outcome;
  /** Of what is committed at the end. */
  readonly epoch: number;
  readonly moves: number;
  readonly bytes: number;
  readonly durationMs: number;
}

export function percent(ratio: number): number {
  return Math.round(Math.min(ratio, 1000) * 100);
}

/** `said`: what is known at this moment. */
export function planReport({ predicted, reason, moves, bytes }: Foreseen, said: PlanReport): PlanReport {
  return {
    ...said,
    ...(predicted
      ? {
          predicted: {
            imbalancePercent: percent(predicted.after),
            boundPercent: percent(predicted.bound),
            moves,
            bytes,
          },
        }
      : {}),
    reason: said.reason ?? reason.slice(0, reasonCharsMax),
  };
}

export function settledReason(outcome: Outcome): string {
  const aborted = outcome.result === "superseded" ? [] : outcome.aborted;
  return `settled after ${aborted.length} layers kept their parent: ${aborted[0]?.reason ?? ""}`.slice(0, reasonCharsMax);
}

export function lastRebalance({ predicted }: Foreseen, figures: Figures, now: number): NonNullable<PlacementFacts["lastRebalance"]> {
  const { outcome, moves, bytes, durationMs } = figures;
  const partly = outcome.result === "committed" && outcome.aborted.length > 0;
  return {
    time: new Date(now).toISOString(),
    result: outcome.result === "aborted" ? "Aborted" : partly ? "PartlyCommitted" : "Committed",
    moves,
    bytes,
    durationMs: Math.round(durationMs),
    ...(predicted
      ? { imbalanceBeforePercent: Math.round(predicted.before * 100), imbalanceAfterPercent: Math.round(predicted.after * 100) }
      : {}),
  };
}

/** The event of a plan that has ended. */
export function endWords({ kind }: Foreseen, figures: Figures): { readonly reason: string; readonly message: string } {
  const { outcome, epoch, moves, bytes, durationMs } = figures;
  const aborted = outcome.result === "superseded" ? [] : outcome.aborted;
  const late = outcome.result === "committed" ? outcome.unreleased : [];
  const [first] = aborted;
  const [behind] = late;
  const text = first
    ? `${aborted.length} layers kept their parent: layer ${first.layer}: ${first.reason}`
    : `${moves} moves, ${bytes} bytes in ${Math.round(durationMs)} ms`;
  const rest = behind ? `; ${late.length} layers are not released: layer ${behind.layer}: ${behind.reason}` : "";
  return {
    reason: outcome.result === "aborted" ? "RebalanceAborted" : "PlacementCommitted",
    message: `${kind}, epoch ${epoch}: ${text}${rest}`,
  };
}
