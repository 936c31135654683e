// Computes ExpertPlacement.status and writes it when it has changed.
import { AppError } from "../../../crds/common.ts";
import { decisionNumbersMax, type ExpertPlacementStatus, expertPlacementStatusSchema } from "../../../crds/expert-placement.ts";
import type { Log } from "../../../runtime/observe/log.ts";
import type { RebalanceView } from "../../deployment/ports.ts";
import { type Ref, resources } from "../../kube/kube.ts";
import { type StatusKind, StatusWriter } from "../../kube/status-writer.ts";
import type { RankSpec } from "../../planner/policy.ts";
import type { Decision } from "../../planner/replan.ts";
import { backoffMs } from "../backoff.ts";
import { currentByRank } from "../members.ts";
import type { LoadSnapshot, Observed, Outlook, RankView } from "../observed.ts";
import type { Clock, PlacementStore, StoredPlacement } from "../ports.ts";
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
  return currentByRank(views).map((view) => ({
    ...rankStatus(view, loads.get(view.rank), view.usable ? known.get(view.rank) : undefined),
    ...loadBytes(load?.tiers, view.rank),
  }));
}

function loadBytes(tiers: LoadSnapshot["tiers"], rank: number): Partial<RankStatus> {
  const predicted = tiers?.forecast.ranks.get(rank);
  const measured = tiers?.measured?.bytes.get(rank);
  return {
    ...(predicted ? { servedBytes: predicted.servedBytes, predictedLoadBytes: Math.round(predicted.bytesPerToken) } : {}),
    ...(measured === undefined ? {} : { measuredLoadBytes: Math.round(measured) }),
  };
}

function rankStatus(view: RankView, load: number | undefined, speed: number | undefined): RankStatus {
  const description = view.report?.description;
  const status = view.report?.status;
  return {
    rank: view.rank,
    state: view.state,
    ...(view.role ? { role: view.role } : {}),
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

/** A change of phase or epoch is written at once, another one this often. */
const changesEveryMs = 5_000;
/** An unchanged status is written this often, so that a deleted object is noticed and figures are fresh. */
const aliveEveryMs = 60_000;
const firstPauseMs = 1_000;
const longestPauseMs = 60_000;

const placementKind: StatusKind<ExpertPlacementStatus> = {
  resource: resources.expertPlacements,
  manager: "enodia-rebalance", // the plan's
  read: (status) => expertPlacementStatusSchema.safeParse(status ?? {}).data,
  hard: ({ phase, committedEpoch }) => [phase, committedEpoch],
  softMs: (after, before) => (sayTheSame(before, after) ? aliveEveryMs : changesEveryMs),
  repeats: true,
  events: () => [],
};

const steps: readonly (readonly [suffix: string, step: number])[] = [
  ["Percent", 5],
  ["Permille", 50],
];
/** Fields that only explain a verdict, and figures that change with every window. */
const grounds: ReadonlySet<string> = new Set(["message", "numbers", "selections", "windows", "predictedLoadBytes", "measuredLoadBytes"]);

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

interface ReporterPorts {
  onChange(ref: Ref): void;
  readonly store: Pick<PlacementStore, "applyStatus">;
  readonly clock: Clock;
  readonly log: Log;
  readonly onGone: () => void;
}

interface Reported extends Progress, Pick<PlacementStatusInput, "recommended"> {
  readonly report: PlanReport | undefined;
}

export class Reporter {
  readonly #ports: ReporterPorts;
  readonly #writer: StatusWriter<ExpertPlacementStatus>;
  #failures = 0;
  /** Infinite during a write. */
  #notBefore = 0;
  #current: RebalanceView | undefined;
  #currentKey = "";
  #placement: ExpertPlacementStatus | undefined;

  constructor(ports: ReporterPorts) {
    const { store: kube, clock } = ports;
    this.#ports = ports;
    this.#writer = new StatusWriter(placementKind, { kube, event: () => {}, now: () => new Date(clock.now()), ticks: () => clock.now() });
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
    if (status && stored) this.offer(seen.world.ref, stored, status);
    this.#current = rebalanceView({ ...seen, ...reported, lastRebalance, epoch: committed?.epoch });
    const key = changeKey(this.#current);
    if (key === this.#currentKey) return;
    this.#currentKey = key;
    this.#ports.onChange(seen.world.ref);
  }

  /** Takes the current status, at any rate; one is written at a time, the newest. A later call repeats a failed write. */
  offer(ref: Ref, { uid, status: before }: Pick<StoredPlacement, "uid" | "status">, status: ExpertPlacementStatus): void {
    if (this.#ports.clock.now() < this.#notBefore) return;
    this.#notBefore = Number.POSITIVE_INFINITY;
    this.#writer.write({ metadata: { ...ref, uid }, status: before }, status).then(
      () => {
        this.#failures = 0;
        this.#notBefore = 0;
      },
      (caught) => this.#failed(ref, AppError.from(caught)),
    );
  }

  #failed(ref: Ref, error: AppError): void {
    const pause = backoffMs(++this.#failures, firstPauseMs, longestPauseMs);
    this.#notBefore = this.#ports.clock.now() + pause;
    this.#ports.log.warn({ err: error, deployment: ref.name, pauseMs: pause }, "the status of the ExpertPlacement could not be written");
    // A conflict: an object of another uid has its name.
    if (error.code === "NotFound" || error.code === "Conflict") this.#ports.onGone();
  }
}
