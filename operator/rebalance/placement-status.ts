// ExpertPlacement.status as it should read now, and its writer. What a plan says of itself (PlanReport) comes from the
// running rollout or from the last one; ranks and the measured balance are of this moment.
import type { ExpertPlacementStatus } from "../../crds/expert-placement.ts";
import type { Ref } from "../kube/kube.ts";
import type { Decision } from "../planner/decide.ts";
import type { MeasuredImbalance } from "../planner/load.ts";
import type { PhaseLoad } from "../planner/phases.ts";
import { currentByRank, type RankView } from "./members.ts";
import type { Clock, PlacementStore } from "./ports.ts";

export type PlanReport = Pick<
  ExpertPlacementStatus,
  "phase" | "committedEpoch" | "layersCommitted" | "deadline" | "predicted" | "measured" | "reason"
>;

export interface PlacementStatusInput {
  /** Undefined until a plan was written. */
  readonly report: PlanReport | undefined;
  readonly running: boolean;
  readonly views: readonly RankView[];
  readonly measured: MeasuredImbalance | undefined;
  /** As a ratio. */
  readonly bound: number | undefined;
  readonly phases: readonly PhaseLoad[];
  readonly decision: Decision | undefined;
  /** Moves of the plan that mode Recommend holds back, as text. */
  readonly recommended: readonly string[];
}

/** Moves named in a recommendation; a longer one is cut. */
export const recommendedMax = 256;
const reasonCharsMax = 1024;

export function placementStatus(input: PlacementStatusInput): ExpertPlacementStatus | undefined {
  const { report, running, decision } = input;
  if (!report) return undefined;
  const status: ExpertPlacementStatus = {
    ...report,
    ...(running || !(report.measured || input.measured) ? {} : { measured: { ...report.measured, ...measuredOf(input) } }),
    ...(input.phases.length > 0
      ? { phases: input.phases.map(({ phase, selections, worst }) => ({ phase, selections, imbalancePercent: percent(worst) })) }
      : {}),
    ranks: currentByRank(input.views).map((view) => rankStatus(view, input.measured)),
    ...(decision ? { decision: { reason: decision.reason, message: decision.message.slice(0, reasonCharsMax) } } : {}),
  };
  return running || decision?.reason !== "Recommended" ? status : { ...status, ...recommendation(decision, input.recommended) };
}

function measuredOf({ measured, bound }: PlacementStatusInput): NonNullable<ExpertPlacementStatus["measured"]> {
  return {
    ...(measured ? { imbalancePercent: percent(measured.worst) } : {}),
    ...(bound !== undefined && Number.isFinite(bound) ? { boundPercent: percent(bound) } : {}),
  };
}

function rankStatus(view: RankView, measured: MeasuredImbalance | undefined): NonNullable<ExpertPlacementStatus["ranks"]>[number] {
  const description = view.link?.description;
  const status = view.link?.status;
  const load = measured?.ranks.find((each) => each.rank === view.rank)?.load;
  return {
    rank: view.rank,
    state: view.state,
    ...(description
      ? {
          bootId: description.bootId,
          budgetBytes: description.budgetBytes,
          denseBytes: description.denseBytes,
          kvBytes: description.kvBytes,
        }
      : {}),
    ...(status ? { epoch: status.epoch, hostedBytes: status.hostedBytes } : {}),
    ...(load === undefined ? {} : { loadPercent: percent(load) }),
  };
}

/** Mode Recommend: what would be done, under a phase of its own. The plan that holds stays in spec. */
function recommendation(decision: Decision, moves: readonly string[]): Partial<ExpertPlacementStatus> {
  const { afterPercent, boundPercent, moves: count, bytes } = decision.numbers;
  return {
    phase: "Recommended",
    predicted: {
      ...(afterPercent === undefined ? {} : { imbalancePercent: afterPercent }),
      ...(boundPercent === undefined || boundPercent < 0 ? {} : { boundPercent }),
      ...(count === undefined ? {} : { moves: count }),
      ...(bytes === undefined ? {} : { bytes }),
    },
    recommended: moves.slice(0, recommendedMax),
    reason: decision.message.slice(0, reasonCharsMax),
  };
}

export function percent(ratio: number): number {
  return Math.round(Math.min(ratio, 1000) * 100);
}

/** Figures alone are written this seldom; a change of phase or epoch at once. */
const figuresEveryMs = 5_000;
/** After a write that failed. */
const retryMs = 1_000;

/** Writes the status whenever it has changed; one write at a time, the newest status wins. */
export class PlacementStatusWriter {
  private readonly store: PlacementStore;
  private readonly clock: Clock;
  private writing = false;
  private notBefore = 0;
  private writtenAt = Number.NEGATIVE_INFINITY;
  private writtenPhase = "";
  private written = "";

  constructor(store: PlacementStore, clock: Clock) {
    this.store = store;
    this.clock = clock;
  }

  /** Called with what should be there, as often as one likes. A failed write is made again by a later call. */
  offer(ref: Ref, status: ExpertPlacementStatus): void {
    const now = this.clock.now();
    if (this.writing || now < this.notBefore) return;
    const text = JSON.stringify(status);
    if (text === this.written) return;
    const phase = `${status.phase} ${status.committedEpoch}`;
    if (phase === this.writtenPhase && now - this.writtenAt < figuresEveryMs) return;
    this.writing = true;
    this.store.writeStatus(ref, status).then(
      () => {
        this.writing = false;
        this.writtenAt = now;
        this.writtenPhase = phase;
        this.written = text;
      },
      () => {
        this.writing = false;
        this.notBefore = this.clock.now() + retryMs;
      },
    );
  }
}
