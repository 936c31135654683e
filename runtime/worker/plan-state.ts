// The epoch machine of one worker, per layer: IDLE -> PREPARING -> READY -> COMMITTED -> DRAINED -> FREE (= IDLE).
import { AppError } from "../../crds/common.ts";
import type { LayerPlacement, LayerPlan, PlacementPlan } from "../../crds/plan.ts";
import { diffPlans } from "../placement/diff.ts";
import { hash32 } from "../placement/dispatch.ts";
import { type ExpertGrid, expertsIn } from "../placement/grid.ts";
import { receiveSchedule } from "../placement/receive.ts";

export type LayerPhase = "idle" | "preparing" | "ready" | "committed" | "drained";

interface LayerState {
  phase: LayerPhase;
  current: LayerPlacement | undefined;
  /** Set in PREPARING and READY. */
  next: LayerPlacement | undefined;
  /** The parent placement, still served; set in COMMITTED and DRAINED. */
  previous: LayerPlacement | undefined;
}

export interface PlanStateOptions extends ExpertGrid {
  readonly deploymentUid: string;
  readonly rank: number;
  readonly modelDigest: string;
}

export class PlanState {
  readonly #options: PlanStateOptions;
  readonly #layers: LayerState[];
  readonly #hosted = new WeakMap<LayerPlacement, readonly number[]>();
  #fence = { epoch: 0, hash: "" };
  #epoch = 0;
  #hash = "";
  #parentEpoch = 0;

  constructor(options: PlanStateOptions) {
    this.#options = options;
    this.#layers = Array.from({ length: options.layers }, () => ({
      phase: "idle",
      current: undefined,
      next: undefined,
      previous: undefined,
    }));
  }

  /** 0 before the first commit. */
  get epoch(): number {
    return this.#epoch;
  }
  get planHash(): string {
    return this.#hash;
  }
  get complete(): boolean {
    return this.#layers.every((layer) => layer.current !== undefined);
  }
  phase(layer: number): LayerPhase {
    return this.#at(layer).phase;
  }
  current(layer: number): LayerPlacement | undefined {
    return this.#layers[layer]?.current;
  }
  previous(layer: number): LayerPlacement | undefined {
    return this.#layers[layer]?.previous;
  }
  next(layer: number): LayerPlacement | undefined {
    return this.#layers[layer]?.next;
  }
  /** Newest first, with the parent until it is freed. */
  placements(layer: number): LayerPlacement[] {
    return [this.current(layer), this.previous(layer)].filter((placement) => placement !== undefined);
  }
  /** Other ranks that may hold the expert; each rank asks them in an order of its own. */
  sources(layer: number, expert: number): number[] {
    const { rank } = this.#options;
    const hosts = new Set(this.placements(layer).flatMap((placement) => placement.hosts[expert] ?? []));
    hosts.delete(rank);
    return [...hosts].sort((a, b) => hash32(rank, layer, expert, a) - hash32(rank, layer, expert, b));
  }
  loads(layers: readonly LayerPlacement[]): PlannedLoad[] {
    const sources = (layer: number, expert: number) => this.sources(layer, expert);
    return plannedLoads({ rank: this.#options.rank, layers, parent: (layer) => this.current(layer), sources });
  }
  /** Frames of older epochs are refused. -1 without a placement. */
  lowestEpochs(): number[] {
    return this.#layers.map(({ previous, current }) => (previous ?? current)?.epoch ?? -1);
  }

  /** 0 without a placement. */
  currentEpochs(): number[] {
    return this.#layers.map(({ current }) => current?.epoch ?? 0);
  }

  /** Undefined until every layer has a placement. */
  snapshot(): PlacementPlan | undefined {
    const layers = this.#layers.flatMap((state) => (state.current === undefined ? [] : [state.current]));
    if (layers.length < this.#layers.length) return undefined;
    const { deploymentUid, modelDigest } = this.#options;
    return { deploymentUid, modelDigest, epoch: this.#epoch, parentEpoch: this.#parentEpoch, planHash: this.#hash, layers };
  }

  /** Committed, parent (until released) and prepared placements. */
  wanted(layer: number): Set<number> {
    const { current, previous, next } = this.#at(layer);
    return new Set([current, previous, next].flatMap((placement) => this.#hostedBy(placement)));
  }
  planned(layer: number): readonly number[] {
    return this.#hostedBy(this.#at(layer).current);
  }

  hostsAny(): boolean {
    return this.#layers.some(({ current, previous }) => [current, previous].some((placement) => this.#hostedBy(placement).length > 0));
  }

  /** Returns the layers that need work and those that are already committed. */
  prepare(plan: PlacementPlan): { readonly start: LayerPlacement[]; readonly done: number[] } {
    this.#check(plan);
    this.#raiseFence(plan);
    const start: LayerPlacement[] = [];
    const done: number[] = [];
    for (const layer of plan.layers) {
      const state = this.#at(layer.layer);
      if (state.current !== undefined && state.current.epoch >= plan.epoch) {
        done.push(layer.layer);
        continue;
      }
      if (state.phase !== "ready" || state.next?.epoch !== plan.epoch) {
        // A new plan starts from the committed one, so an unreleased parent is dropped.
        state.previous = undefined;
        state.phase = "preparing";
        state.next = { ...layer, epoch: plan.epoch };
      }
      start.push({ ...layer, epoch: plan.epoch });
    }
    return { start, done };
  }

  /** PREPARING -> READY; false when it was aborted or replaced. */
  ready(layer: number, epoch: number): boolean {
    const state = this.#at(layer);
    if (state.next?.epoch !== epoch || (state.phase !== "preparing" && state.phase !== "ready")) return false;
    state.phase = "ready";
    return true;
  }

  failed(layer: number, epoch: number): void {
    if (this.#at(layer).next?.epoch === epoch) this.#toIdle(this.#at(layer));
  }

  /** Throws with the names of layers that are not ready. */
  commit(plan: PlacementPlan): { readonly committed: number[]; readonly refused: string } {
    this.#check(plan);
    this.#raiseFence(plan);
    const committed: number[] = [];
    const refused: number[] = [];
    for (const { layer } of plan.layers) {
      const state = this.#at(layer);
      if (state.current !== undefined && state.current.epoch >= plan.epoch) committed.push(layer);
      else if (state.phase === "ready" && state.next?.epoch === plan.epoch) {
        this.#install(state, state.next, plan);
        committed.push(layer);
      } else refused.push(layer);
    }
    return { committed, refused: refused.length === 0 ? "" : `layers ${refused.join(",")} are not ready for epoch ${plan.epoch}` };
  }

  /** Rolls forward only; returns the layers that changed. */
  adopt(plan: PlacementPlan): number[] {
    if (plan.deploymentUid !== this.#options.deploymentUid || plan.epoch < this.#epoch) return [];
    this.#check(plan, { fenced: false });
    if (plan.epoch === this.#epoch && this.#hash !== "" && plan.planHash !== this.#hash) {
      throw stale(`epoch ${plan.epoch} is known here with another hash`);
    }
    const changed: number[] = [];
    for (const layer of plan.layers) {
      const state = this.#at(layer.layer);
      if (state.current !== undefined && layer.epoch <= state.current.epoch) continue;
      if (state.next !== undefined && state.next.epoch > layer.epoch) {
        state.current = layer; // a restarted rank may prepare n while it adopts n-1
      } else this.#install(state, layer, plan);
      changed.push(layer.layer);
    }
    if (plan.epoch >= this.#fence.epoch) this.#raiseFence(plan);
    this.#setPlan(plan);
    return changed;
  }

  abort(epoch: number, layers: readonly number[]): number[] {
    const chosen = layers.length === 0 ? this.#layers.keys() : layers;
    const aborted: number[] = [];
    for (const layer of chosen) {
      const state = this.#at(layer);
      if (state.next?.epoch !== epoch) continue;
      this.#toIdle(state);
      aborted.push(layer);
    }
    return aborted;
  }

  /** COMMITTED -> DRAINED. */
  drained(layer: number): void {
    const state = this.#at(layer);
    if (state.phase === "committed") state.phase = "drained";
  }

  /** DRAINED -> FREE. Throws with the names of layers that are not drained. */
  release(epoch: number, layers: readonly number[], drainOnly = false): { readonly released: number[]; readonly pending: number[] } {
    const released: number[] = [];
    const pending: number[] = [];
    for (const layer of layers.length === 0 ? this.#layers.keys() : layers) {
      const state = this.#at(layer);
      const behind = (state.current?.epoch ?? 0) < epoch;
      if (behind && layers.length === 0) continue; // "all" means all that this epoch committed
      if (behind || (state.phase === "committed" && state.current?.epoch === epoch)) {
        pending.push(layer);
        continue;
      }
      if (!drainOnly && state.phase === "drained" && state.current?.epoch === epoch) this.#toIdle(state);
      released.push(layer);
    }
    return { released, pending };
  }

  #install(state: LayerState, layer: LayerPlacement, plan: PlacementPlan): void {
    state.previous = state.current;
    state.current = layer;
    state.next = undefined;
    state.phase = state.previous === undefined ? "idle" : "committed";
    if (plan.epoch > this.#epoch) this.#setPlan(plan);
  }

  #setPlan(plan: PlacementPlan): void {
    this.#epoch = plan.epoch;
    this.#hash = plan.planHash;
    this.#parentEpoch = plan.parentEpoch;
  }

  #toIdle(state: LayerState): void {
    state.phase = "idle";
    state.next = undefined;
    state.previous = undefined;
  }

  #raiseFence(plan: PlacementPlan): void {
    this.#fence = { epoch: plan.epoch, hash: plan.planHash };
  }

  #check(plan: PlacementPlan, { fenced = true } = {}): void {
    const { deploymentUid, modelDigest, layers } = this.#options;
    if (plan.deploymentUid !== deploymentUid) throw invalid(`plan.deploymentUid: ${plan.deploymentUid} is not this deployment`);
    if (plan.modelDigest !== modelDigest) throw invalid(`plan.modelDigest: ${plan.modelDigest} is not the model here (${modelDigest})`);
    if (plan.epoch < 1) throw invalid("plan.epoch: must be at least 1");
    for (const layer of plan.layers) {
      if (layer.layer >= layers) throw invalid(`plan.layers: layer ${layer.layer} of ${layers}`);
      const experts = expertsIn(this.#options, layer.layer);
      if (layer.hosts.length !== experts)
        throw invalid(`plan.layers: layer ${layer.layer} places ${layer.hosts.length} experts of ${experts}`);
    }
    if (!fenced) return;
    if (plan.epoch < this.#fence.epoch) throw stale(`epoch ${plan.epoch} is below ${this.#fence.epoch}`);
    if (plan.epoch === this.#fence.epoch && plan.planHash !== this.#fence.hash) {
      throw stale(`epoch ${plan.epoch} is known here with another hash`);
    }
  }

  #hostedBy(placement: LayerPlacement | undefined): readonly number[] {
    if (placement === undefined) return [];
    const known = this.#hosted.get(placement);
    if (known) return known;
    const { rank } = this.#options;
    const found = placement.hosts.flatMap((hosts, expert) => (hosts.includes(rank) ? [expert] : []));
    this.#hosted.set(placement, found);
    return found;
  }

  #at(layer: number): LayerState {
    const state = this.#layers[layer];
    if (state === undefined) throw invalid(`layer ${layer}: the model has ${this.#options.layers}`);
    return state;
  }
}

function invalid(message: string): AppError {
  return new AppError(message, { code: "InvalidPlan", operation: "accepting a plan" });
}

function stale(message: string): AppError {
  return new AppError(message, { code: "StalePlan", operation: "accepting a plan" });
}

export interface PlannedLoad {
  readonly layer: number;
  readonly expert: number;
  /** The scheduled one first; the store comes last. */
  readonly sources: readonly number[];
}

interface LoadsOptions {
  readonly rank: number;
  readonly layers: readonly LayerPlacement[];
  /** The committed placement; undefined before the first. */
  readonly parent: (layer: number) => LayerPlan | undefined;
  /** Every other rank that may hold the expert. */
  readonly sources: (layer: number, expert: number) => readonly number[];
}

const nothing: LayerPlan = { hosts: [], weights: [] };

/** The loads of a rank for a plan, in order. Experts of the parent placement come first: they are resident, or awaited. */
export function plannedLoads({ rank, layers, parent, sources }: LoadsOptions): PlannedLoad[] {
  const parents = layers.map(({ layer }) => parent(layer) ?? nothing);
  const { moves } = diffPlans(parents, layers, () => 0);
  const fetches = receiveSchedule(moves.map((move) => ({ ...move, layer: layers[move.layer]?.layer ?? move.layer })));
  const own = new Map(fetches.filter((fetch) => fetch.rank === rank).map((fetch) => [`${fetch.layer}.${fetch.expert}`, fetch]));
  return layers
    .flatMap(({ layer, hosts }) => hosts.flatMap((row, expert) => (row.includes(rank) ? [{ layer, expert }] : [])))
    .map(({ layer, expert }) => {
      const fetch = own.get(`${layer}.${expert}`);
      const others = sources(layer, expert).filter((source) => source !== fetch?.source);
      const first = fetch?.source === undefined ? [] : [fetch.source];
      return { layer, expert, sources: [...first, ...others], round: fetch?.round ?? -1 };
    })
    .sort((a, b) => a.round - b.round)
    .map(({ round: _, ...load }) => load);
}
