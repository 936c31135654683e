// Computes ExpertPlacement.status and writes it when it has changed.
import { AppError } from "../../../crds/common.ts";
import { decisionNumbersMax, type ExpertPlacementStatus } from "../../../crds/expert-placement.ts";
import type { Log } from "../../../runtime/observe/log.ts";
import type { RebalanceView } from "../../deployment/ports.ts";
import type { Ref } from "../../kube/kube.ts";
import type { RankSpec } from "../../planner/policy.ts";
import type { Decision } from "../../planner/replan.ts";
import { backoffMs } from "../backoff.ts";
import { currentByRank } from "../members.ts";
import type { LoadSnapshot, Observed, Outlook, RankView } from "../observed.ts";
import type { Clock, PlacementStore } from "../ports.ts";
import { reasonCharsMax } from "../rollout/plan-object.ts";
import { percent } from "../rollout/plan-report.ts";
import type { PlanReport } from "../rollout/proposal.ts";
import { recommendedMax } from "./decision-events.ts";
import { changeKey, type Progress, rebalanceView } from "./view.ts";

export interface PlacementStatusInput {
  readonly report: PlanReport | undefined;
  readonly running: boolean;
  readonly views: readonly RankView[];
  readonly speeds: readonly Pick<RankSpec, "rank" | "speed">[];
  readonly load: LoadSnapshot | undefined;
  readonly recommended: readonly string[];
}

export function placementStatus(input: PlacementStatusInput): ExpertPlacementStatus | undefined {
  const { report, running } = input;
  const { decision, measured, phases = [], outlook } = input.load ?? {};
  if (!report) return undefined;
  const status: ExpertPlacementStatus = {
    ...report,
    ...(running || !(report.measured || measured) ? {} : { measured: { ...report.measured, ...measuredOf(input.load) } }),
    ...(phases.length > 0
      ? { phases: phases.map(({ phase, selections, worst }) => ({ phase, selections, imbalancePercent: percent(worst) })) }
      : {}),
    ranks: rankStatuses(input),
    ...(decision ? { decision: decisionStatus(decision) } : {}),
    ...(outlook ? { forecast: forecastStatus(outlook) } : {}),
  };
  return running || decision?.reason !== "Recommended" ? status : { ...status, ...recommendation(decision, input.recommended) };
}

function decisionStatus({ reason, message, numbers }: Decision): NonNullable<ExpertPlacementStatus["decision"]> {
  // JSON turns such a number into null, and the object could not be read any more.
  const finite = Object.entries(numbers).filter(([, value]) => Number.isFinite(value));
  const cut = message.slice(0, reasonCharsMax);
  // An apply that removes all entries of a map makes it null, which the API server refuses.
  return finite.length === 0
    ? { reason, message: cut }
    : { reason, message: cut, numbers: Object.fromEntries(finite.slice(0, decisionNumbersMax)) };
}

function forecastStatus({ arm, error, noiseFloor, change, changed, windows }: Outlook): NonNullable<ExpertPlacementStatus["forecast"]> {
  return {
    newestWeightPercent: percent(arm),
    errorPermille: permille(error),
    noisePermille: permille(noiseFloor),
    changePermille: permille(change),
    changed,
    windows,
  };
}

function permille(part: number): number {
  return Math.round(1000 * Math.min(1, Math.max(0, part)));
}

function measuredOf({ measured, bound }: Partial<LoadSnapshot> = {}): NonNullable<ExpertPlacementStatus["measured"]> {
  return {
    ...(measured ? { imbalancePercent: percent(measured.worst) } : {}),
    ...(bound !== undefined && Number.isFinite(bound) ? { boundPercent: percent(bound) } : {}),
  };
}

type RankStatus = NonNullable<ExpertPlacementStatus["ranks"]>[number];

function rankStatuses({ views, load, speeds }: PlacementStatusInput): RankStatus[] {
  const loads = new Map((load?.measured?.ranks ?? []).map((each) => [each.rank, each.load]));
  const known = new Map(speeds.map((each) => [each.rank, each.speed]));
  return currentByRank(views).map((view) => rankStatus(view, loads.get(view.rank), view.usable ? known.get(view.rank) : undefined));
}

function rankStatus(view: RankView, load: number | undefined, speed: number | undefined): RankStatus {
  const description = view.report?.description;
  const status = view.report?.status;
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
    ...(speed === undefined ? {} : { speedPercent: percent(speed) }),
  };
}

/** The status in mode Recommend: the plan that Auto would carry out, under a phase of its own. */
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

/** A change of phase or epoch is written at once. */
const changesEveryMs = 5_000;
/** An unchanged status is written this often, so that a deleted object is noticed and figures are fresh. */
const aliveEveryMs = 60_000;
const firstPauseMs = 1_000;
const longestPauseMs = 60_000;

export interface StatusWriterPorts {
  readonly store: Pick<PlacementStore, "writeStatus">;
  readonly clock: Clock;
  readonly log: Log;
  readonly onGone: () => void;
}

/** Writes changed statuses, one at a time; the newest wins. */
export class PlacementStatusWriter {
  readonly #ports: StatusWriterPorts;
  #writing = false;
  #failures = 0;
  #notBefore = 0;
  #writtenAt = Number.NEGATIVE_INFINITY;
  #writtenPhase = "";
  #written: ExpertPlacementStatus | undefined;

  constructor(ports: StatusWriterPorts) {
    this.#ports = ports;
  }

  /** Takes the current status; call it at any rate. A later call repeats a failed write. */
  offer(ref: Ref, status: ExpertPlacementStatus): void {
    const now = this.#ports.clock.now();
    if (this.#writing || now < this.#notBefore) return;
    const phase = `${status.phase} ${status.committedEpoch}`;
    const every = phase === this.#writtenPhase ? changesEveryMs : 0;
    if (now - this.#writtenAt < every || (now - this.#writtenAt < aliveEveryMs && sayTheSame(this.#written, status))) return;
    this.#writing = true;
    this.#ports.store.writeStatus(ref, status).then(
      () => {
        this.#writing = false;
        this.#failures = 0;
        this.#writtenAt = now;
        this.#writtenPhase = phase;
        this.#written = status;
      },
      (caught) => this.#failed(ref, AppError.from(caught)),
    );
  }

  #failed(ref: Ref, error: AppError): void {
    this.#writing = false;
    const pause = backoffMs(++this.#failures, firstPauseMs, longestPauseMs);
    this.#notBefore = this.#ports.clock.now() + pause;
    this.#ports.log.warn({ err: error, deployment: ref.name, pauseMs: pause }, "the status of the ExpertPlacement could not be written");
    if (error.code === "NotFound") this.#ports.onGone();
  }
}

const steps: readonly (readonly [suffix: string, step: number])[] = [
  ["Percent", 5],
  ["Permille", 50],
];
/** Fields that only explain a verdict, and counts of the last window. */
const grounds: ReadonlySet<string> = new Set(["message", "numbers", "selections", "windows"]);

/** True where two statuses differ only in figures within a step. */
export function sayTheSame(before: unknown, after: unknown, field = ""): boolean {
  if (Object.is(before, after) || grounds.has(field)) return true;
  if (typeof before === "number" && typeof after === "number") return Math.abs(before - after) < stepOf(field);
  if (typeof before !== "object" || typeof after !== "object" || !before || !after) return false;
  const [old, now] = [before as Readonly<Record<string, unknown>>, after as Readonly<Record<string, unknown>>];
  return [...new Set([...Object.keys(old), ...Object.keys(now)])].every((key) => sayTheSame(old[key], now[key], key));
}

function stepOf(field: string): number {
  return steps.find(([suffix]) => field.endsWith(suffix))?.[1] ?? 0;
}

interface ReporterPorts extends StatusWriterPorts {
  onChange(ref: Ref): void;
}

interface Reported extends Progress, Pick<PlacementStatusInput, "recommended"> {
  readonly report: PlanReport | undefined;
}

export class Reporter {
  readonly #ports: ReporterPorts;
  readonly #status: PlacementStatusWriter;
  #current: RebalanceView | undefined;
  #currentKey = "";
  #placement: ExpertPlacementStatus | undefined;

  constructor(ports: ReporterPorts) {
    this.#ports = ports;
    this.#status = new PlacementStatusWriter(ports);
  }

  get current(): RebalanceView | undefined {
    return this.#current;
  }

  get placement(): ExpertPlacementStatus | undefined {
    return this.#placement;
  }

  report(seen: Observed, reported: Reported): void {
    const { report, lastRebalance, committed, stored } = seen.placement;
    const { rollout, load, recommended } = reported;
    const running = rollout !== undefined;
    const speeds = seen.ranks;
    const status = placementStatus({ report: reported.report ?? report, running, views: seen.views, speeds, load, recommended });
    this.#placement = status;
    // The first plan has a report before its object exists.
    if (status && stored) this.#status.offer(seen.world.ref, status);
    this.#current = rebalanceView({ ...seen, ...reported, lastRebalance, epoch: committed?.epoch });
    const key = changeKey(this.#current);
    if (key === this.#currentKey) return;
    this.#currentKey = key;
    this.#ports.onChange(seen.world.ref);
  }
}
