// The load state of one deployment: it closes windows, forecasts, asks the two questions of planner/decide.ts and stores the
// answers.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import type { PlacementPlan } from "../../../crds/plan.ts";
import { parseDuration, parseQuantity } from "../../../crds/quantity.ts";
import type { LoadWindow } from "../../../crds/telemetry.ts";
import { diffPlans } from "../../../runtime/placement/diff.ts";
import { gainPerMove, planNoise } from "../../planner/defaults.ts";
import { policies } from "../../planner/index.ts";
import { type Forecast, Forecaster } from "../../planner/load/forecast.ts";
import { windowsMin } from "../../planner/load/lifetime.ts";
import { Speeds } from "../../planner/load/speeds.ts";
import { movesAllowed, Pace, type PhaseLoad, phaseLoads, ReshardAge, timingOf } from "../../planner/load/timing.ts";
import {
  type Accepted,
  type ClosedWindow,
  type ExpectedRank,
  LoadWindows,
  type MeasuredImbalance,
  ServedRows,
} from "../../planner/load/windows.ts";
import { expertReplicaKey, type ModelShape, type PlacementPolicy, type PlanInput, type PlanOutput } from "../../planner/policy.ts";
import {
  type Decision,
  isSettled,
  type Judged,
  layerBoundOf,
  planFailed,
  predictedLayers,
  predictedWorst,
  whetherToMove,
  whetherToPlan,
} from "../../planner/replan.ts";
import { isOversubscribed } from "../../planner/served.ts";
import type { LoadSnapshot, Observed, Outlook } from "../observed.ts";
import { PathRates } from "./rates.ts";
import { TierLoads, type TierLook } from "./tier-loads.ts";

/** For this many windows a plan's expert replicas are not rolled back, unless the load has changed. */
const dwellWindows = 3;
/** Selections per layer below which a window is ignored. */
const windowRowsMin = 200;
/** A window of slow traffic is stretched until it holds this many selections per layer, up to a multiple of its length. */
const windowRows = 1000;
const stretchMax = 4;
const measuredRows = 10_000;
/** A layer that is so even may give it up for rows that stay at their rank: half of what the trigger allows, and at most this max/mean. */
const evenToMost = 1.05;
/** The part of what the trigger allows that the load may use when a plan for such rows is made. */
const nearMargin = 0.9;
/** Decisions in a row that the load is even, before such a plan. */
const evenForLeast = 12;
/** Each search doubles the intervals until the next, up to this; a change of load begins anew. */
const nearWaitMost = 32;

type Trigger = MoEDeploymentSpec["rebalancing"]["trigger"];
export type LoadFacts = Pick<Observed, "spec" | "synced" | "expected" | "ranks" | "hardware" | "plan"> & Partial<Pick<Observed, "topK">>;

export class LoadState {
  readonly windows: LoadWindows;
  readonly rates = new PathRates();
  readonly speeds = new Speeds();
  #lastPlanAt = Number.NEGATIVE_INFINITY;
  #nearAt = Number.NEGATIVE_INFINITY;
  /** Intervals until a plan for rows on the wire is looked for again. */
  #nearWait = 1;
  /** Decisions in a row that the load is even. */
  #evenFor = 0;
  readonly #shape: ModelShape;
  #decision: Decision | undefined;
  #measured: MeasuredImbalance | undefined;
  #bound: number | undefined;
  #window: ClosedWindow | undefined;
  #phases: readonly PhaseLoad[] = [];
  readonly #since: number;
  readonly #forecaster: Forecaster;
  #forecast: Forecast | undefined;
  readonly #pace = new Pace();
  #predicted: number | undefined;
  #judged: Judged | undefined;
  /** Selections per layer that the forecast rests on; slow traffic needs several windows for the same certainty. */
  #evidence = 0;
  readonly #served = new ServedRows();
  #settled = false;
  #noise: Float64Array | undefined;
  readonly #resharded = new ReshardAge();
  readonly #tierLoads = new TierLoads();
  #tiers: { readonly plan: PlacementPlan | undefined; readonly look: TierLook | undefined } | undefined;
  #history: { windows: number; added: number[]; dropped: number[] }[] = [];

  constructor(shape: ModelShape, deploymentUid: string, now: number) {
    this.#shape = shape;
    this.#since = now;
    this.windows = new LoadWindows({ layers: shape.layers, experts: shape.experts, deploymentUid, now });
    this.#forecaster = new Forecaster(shape.layers, shape.experts);
  }

  accept(window: LoadWindow, expected: readonly ExpectedRank[], now: number): Accepted {
    const accepted = this.windows.accept(window, expected, now);
    if (accepted.ok) this.speeds.take(window);
    return accepted;
  }

  /** The age of the oldest last message. A rank that was never heard is as old as this state. */
  ageMs(expected: readonly ExpectedRank[], now: number): number {
    return Math.min(this.windows.ageMs(expected, now), now - this.#since);
  }

  /** Closes the window when it is due; true when there is something new to decide on. */
  closeIfDue(facts: LoadFacts, now: number): boolean {
    const { window } = facts.spec.rebalancing.trigger;
    const windowMs = parseDuration(window, "spec.rebalancing.trigger.window");
    const openMs = now - this.windows.openSince;
    if (this.#tiers?.plan !== facts.plan) this.#lookAtTiers(facts);
    if (openMs < windowMs) return false;
    const wanted = Math.min(facts.spec.rebalancing.trigger.minTokens, windowRows);
    if (this.windows.openSelections() < wanted && openMs < windowMs * stretchMax) return false;
    const closed = this.windows.close(facts.expected, now);
    this.speeds.close(facts.hardware);
    this.#window = closed;
    this.#tierLoads.observe(closed, facts.topK ?? 0);
    this.#lookAtTiers(facts);
    if (closed.missing.length > 0 || closed.selections === 0) return true;
    const least = leastOf(closed.perLayer);
    if (least >= Math.min(wanted, windowRowsMin)) {
      this.#forecast = this.#forecaster.observe(closed.routed);
      const { alarm } = this.#forecast;
      this.#pace.observe(this.#forecast);
      if (alarm) {
        this.#evidence = 0;
        this.#settled = false;
        this.#resharded.forget();
        this.#served.clear();
        this.windows.forgetSources();
        this.#nearWait = 1;
      }
      this.#evidence += least;
      // After a change of load, expert replicas that were dropped before may be needed again.
      this.#history = alarm ? [] : this.#history.filter((plan) => ++plan.windows <= dwellWindows);
      this.#noise = this.#forecaster.layerNoise(closed.perLayer, Math.max(1, facts.expected.length));
      this.#bound = layerBoundOf(this.input(facts));
      this.#phases = facts.plan ? phaseLoads(this.input(facts), closed, windowRowsMin) : [];
    }
    this.#served.add(closed, measuredRows);
    this.#measured = this.#served.measure(wanted);
    return true;
  }

  #lookAtTiers(facts: LoadFacts): void {
    const { plan, topK = 0 } = facts;
    this.#tiers = { plan, look: isOversubscribed(facts.ranks) ? this.#tierLoads.look(this.input(facts), topK) : undefined };
  }

  ask(facts: LoadFacts, now: number): Decision {
    const { rebalancing, telemetry } = facts.spec;
    const closed = this.#window;
    const { intervalFactor } = this.#pace;
    this.#predicted = facts.plan && this.#forecast ? predictedWorst(this.input(facts), facts.plan.layers) : undefined;
    const decision = whetherToPlan({
      mode: rebalancing.mode,
      synced: facts.synced && facts.plan !== undefined,
      telemetryAgeMs: this.windows.ageMs(facts.expected, now),
      staleAfterMs: parseDuration(telemetry.staleAfter, "spec.telemetry.staleAfter"),
      missingRanks: closed?.missing ?? [],
      activeRanks: facts.expected.length,
      selectionsPerLayer: Math.round(this.#evidence),
      minTokens: rebalancing.trigger.minTokens,
      sinceLastPlanMs: now - this.#lastPlanAt,
      intervalMs: parseDuration(rebalancing.interval, "spec.rebalancing.interval") * intervalFactor,
      intervalFactor,
      alarm: this.#pace.changed,
      imbalance: this.#predicted ?? 1,
      triggerPercent: rebalancing.trigger.imbalancePercent,
      settled: this.#settled,
      noise: facts.plan && this.#forecast ? worstNoise(this.input(facts), this.#noise) : 0,
      layers: this.#shape.layers,
    });
    if (decision.reason !== "Interval") this.#evenFor = decision.reason === "Balanced" ? this.#evenFor + 1 : 0;
    // A recommendation stands until the next plan is made.
    if (decision.reason !== "Interval" || this.#decision?.reason !== "Recommended") this.#decision = decision;
    return decision;
  }

  /**
   * The input of a plan for rows that leave their rank and need not; undefined unless the load has been even for long, with a margin,
   * so that such plans and those for evenness do not undo each other.
   */
  near(facts: LoadFacts, now: number): PlanInput | undefined {
    const { mode, policy, trigger, interval } = facts.spec.rebalancing;
    const allowed = trigger.imbalancePercent / 100 - 1;
    const wait = this.#nearWait * parseDuration(interval, "spec.rebalancing.interval");
    const isWanted = mode === "Auto" && !isOversubscribed(facts.ranks) && (policies[policy] as PlacementPolicy).keepsNear === true;
    this.windows.countSources(isWanted);
    if (!isWanted || this.#evenFor < evenForLeast || now - Math.max(this.#lastPlanAt, this.#nearAt) < wait) return undefined;
    if ((this.#predicted ?? 1) > 1 + nearMargin * allowed) return undefined;
    const sources = this.windows.sources(facts.expected);
    if (!sources) return undefined;
    [this.#nearAt, this.#nearWait] = [now, Math.min(nearWaitMost, 2 * this.#nearWait)];
    return { ...this.input(facts), near: { sources, evenTo: Math.min(1 + allowed / 2, evenToMost) } };
  }

  judge(input: PlanInput, output: PlanOutput, spec: MoEDeploymentSpec, now: number): Judged {
    const { layers, kept } = output;
    const windowMs = parseDuration(spec.rebalancing.trigger.window, "spec.rebalancing.trigger.window");
    const judged = whetherToMove(input, layers, {
      mode: spec.rebalancing.mode,
      noise: worstNoise(input, this.#noise),
      rates: this.rates.rates(transferLimit(spec), now),
      limit: transferLimit(spec),
      lifetimeSeconds: ((this.#forecast?.lifetime ?? windowsMin) * windowMs) / 1000,
      kept,
    });
    // A load that is even stays so when no plan for rows on the wire is worth it.
    if (input.near && !judged.decision.act) return judged;
    this.#lastPlanAt = now;
    if (judged.decision.act && !input.near) this.#resharded.planned(this.#forecast?.windows ?? 0, output);
    this.#decision = judged.decision;
    this.#judged = judged;
    this.#pace.judged(judged.decision);
    return judged;
  }

  failed(message: string): Decision {
    this.#decision = planFailed(message, this.#decision?.numbers);
    return this.#decision;
  }

  get expected(): Float64Array | undefined {
    return this.#forecast?.load;
  }

  snapshot(): LoadSnapshot {
    return {
      decision: this.#decision,
      measured: this.#measured,
      bound: this.#bound,
      phases: this.#phases,
      predicted: this.#predicted,
      judged: this.#judged,
      tiers: this.#tiers?.look,
      outlook: this.#outlook(),
    };
  }

  #outlook(): Outlook | undefined {
    if (!this.#forecast) return undefined;
    const { arm, error, change, noiseFloor, windows } = this.#forecast;
    return { arm, error, change, noiseFloor, windows, changed: this.#pace.changed };
  }

  /** The planner's input with the forecast as its load, or with even load where none is known or `even` is set. */
  input(facts: LoadFacts, options: { readonly even?: boolean } = {}): PlanInput {
    const { budget } = facts.spec.rebalancing;
    const timing = this.#timing(facts);
    const load = options.even || !this.#forecast ? new Float64Array(this.#shape.layers * this.#shape.experts).fill(1) : this.#forecast.load;
    return {
      shape: this.#shape,
      ranks: facts.ranks,
      load,
      current: facts.plan?.layers,
      budget: {
        maxMoves: movesAllowed(budget.maxMoves, this.#pace.changed),
        maxMovesPerRank: budget.maxMovesPerRank ?? Infinity,
        maxBytes: budget.maxBytes === undefined ? Infinity : parseQuantity(budget.maxBytes, "spec.rebalancing.budget.maxBytes"),
      },
      minExpertReplicas: facts.spec.experts.minExpertReplicas,
      split: "weighted",
      effort: "quality",
      gainPerMove,
      recent: { added: new Set(this.#history.flatMap((h) => h.added)), dropped: new Set(this.#history.flatMap((h) => h.dropped)) },
      ...(timing ? { timing } : {}),
      ...this.#resharded.input(this.#forecast?.windows ?? 0),
      ...(this.#noise && !options.even ? { noise: planNoise(this.#noise) } : {}),
    };
  }

  #timing({ spec, ranks }: LoadFacts): PlanInput["timing"] {
    if (!this.#window || !this.#forecast) return undefined;
    const windowMs = parseDuration(spec.rebalancing.trigger.window, "spec.rebalancing.trigger.window");
    const rates = this.rates.rates(transferLimit(spec), this.#window.end);
    return timingOf(this.#window, { layers: this.#shape.layers, ranks, rates, windowMs, windows: this.#forecast.lifetime });
  }

  /** A plan was committed: its expert replicas stay for some windows, and the open window is void. */
  committed(input: PlanInput, layers: PlacementPlan["layers"], now: number, trigger: Trigger): void {
    // Policies may take back at once what was given for rows on the wire.
    if (input.current && !input.near) {
      const diff = diffPlans(input.current, layers, () => 0);
      this.#settled = isSettled({
        selectionsPerLayer: this.#evidence,
        minTokens: trigger.minTokens,
        imbalance: predictedWorst(input, layers),
        triggerPercent: trigger.imbalancePercent,
      });
      const key = (expertReplica: { layer: number; expert: number; rank: number }): number =>
        expertReplicaKey(input, expertReplica.layer, expertReplica.expert, expertReplica.rank);
      this.#history.push({ windows: 0, added: diff.moves.map(key), dropped: diff.drops.map(key) });
    }
    this.#lastPlanAt = now;
    this.restart(now, input);
  }

  restart(now: number, { near }: Pick<PlanInput, "near"> = {}): void {
    this.windows.reset(now);
    if (!near) this.windows.forgetSources();
    this.speeds.drop();
    this.#served.clear();
    this.#tierLoads.restart();
    this.#measured = undefined;
    this.#phases = [];
  }

  forgetHistory(): void {
    this.#history = [];
    this.#resharded.forget();
    this.#pace.forget();
  }
}

/** Bytes per second that each receiver may take while experts move for balance. */
export function transferLimit({ rebalancing: { budget } }: MoEDeploymentSpec): number {
  return parseQuantity(budget.maxTransferBytesPerSecond, "spec.rebalancing.budget.maxTransferBytesPerSecond");
}

function leastOf(perLayer: Float64Array): number {
  let least = Number.POSITIVE_INFINITY;
  for (const count of perLayer) if (count > 0) least = Math.min(least, count);
  return Number.isFinite(least) ? least : 0;
}

function worstNoise(input: PlanInput, noise: Float64Array | undefined): number {
  if (!noise || !input.current) return 0;
  const ratios = predictedLayers(input, input.current);
  let worst = 0;
  for (let l = 1; l < ratios.length; l++) if ((ratios[l] ?? 0) > (ratios[worst] ?? 0)) worst = l;
  return noise[worst] ?? 0;
}
