// The report of one plan: its status, the event of its end, and the last rebalance.
import type { PlacementFacts } from "../observed.ts";
import { reasonCharsMax } from "./plan-object.ts";
import type { PlanReport, Proposal } from "./proposal.ts";
import type { Outcome } from "./protocol-types.ts";

export interface Foreseen extends Pick<Proposal, "kind" | "reason"> {
  readonly predicted: Proposal["predicted"];
  readonly moves: number;
  readonly bytes: number;
}

export interface Figures {
  readonly outcome: Outcome;
  /** The committed epoch at the end; 0 for none. */
  readonly epoch: number;
  readonly moves: number;
  readonly bytes: number;
  readonly durationMs: number;
}

export function percent(ratio: number): number {
  return Math.round(Math.min(ratio, 1000) * 100);
}

export function planReport({ predicted, reason, moves, bytes }: Foreseen, reported: PlanReport): PlanReport {
  return {
    ...reported,
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
    reason: reported.reason ?? reason.slice(0, reasonCharsMax),
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

export function endText({ kind }: Foreseen, figures: Figures): { readonly reason: string; readonly message: string } {
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
