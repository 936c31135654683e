// The incremental search over all layers: it repeatedly takes the step with the highest gain per cost, until nothing is worth its cost
// or the budget is spent. Ties go to the lower layer.
import { type Hosts, layerDemand, type Problem } from "../../problem.ts";
import { LayerState } from "../layer-state.ts";
import { Arena } from "./arena.ts";
import { LossTable } from "./losses.ts";
import { bestStep } from "./moves.ts";
import { reconcile } from "./replica-counts.ts";
import type { Evictions, MoveKind, SearchWidth, Step } from "./step.ts";

export interface ImproveOptions {
  readonly theta: number;
  /** The search enters a layer only above this max/mean, and leaves it at `leave`. */
  readonly enter: number;
  readonly leave: number;
  readonly width: SearchWidth;
  readonly stepsMax: number;
  readonly reconcileAt?: number;
}

/** The part of a limited budget that corrected counts may take. */
const reconcilePart = 0.1;
/** The least gain of a layer in standard deviations of a rank's load, since the hottest of many ranks is an extreme. */
const layerNoises = 3;
const noiseDeviations = 4;

export interface Improved {
  readonly hosts: Hosts;
  readonly states: readonly LayerState[];
  readonly steps: Readonly<Record<MoveKind, number>>;
  readonly limited: boolean;
}

function makeStates(problem: Problem, hosts: Hosts): LayerState[] {
  const equal = problem.input.split === "equal";
  return hosts.map(
    (rows, layer) => new LayerState({ layer, demand: layerDemand(problem, layer), hosts: rows, speed: problem.speed, equal }),
  );
}

/** Steps from `hosts` within budget, memory and dwell; a layer that gains less than its noise is rolled back. */
export function improve(problem: Problem, hosts: Hosts, options: ImproveOptions): Improved {
  const arena = new Arena(problem, hosts);
  const states = makeStates(problem, hosts);
  const worstAtStart = states.map((state) => state.worst());
  const steps: Record<MoveKind, number> = { add: 0, relocate: 0, replace: 0, swap: 0, drop: 0, reconcile: 0 };
  const best = new Array<Step | undefined>(states.length).fill(undefined);
  const reconciled = setCountsRight(problem, states, arena, options);
  steps.reconcile = reconciled.length;
  const losses = new LossTable(states, arena);
  const evictions: Evictions | undefined = problem.slotCap === Number.POSITIVE_INFINITY ? losses.cheapest : undefined;
  const find = (l: number, threshold: number): void => {
    const state = states[l] as LayerState;
    const floor = 1 + 2 * (problem.input.noise?.[l] ?? 0);
    best[l] = state.worst() > Math.max(threshold, floor) ? bestStep(state, arena, options.width, evictions) : undefined;
  };
  for (let l = 0; l < states.length; l++) find(l, options.enter);
  // Layers that share corrections or space are rolled back together.
  const entangled = new Set(reconciled);
  let limited = false;
  for (let n = 0; n < options.stepsMax; n++) {
    const l = highest(best);
    const step = best[l];
    if (!step || step.value < options.theta) break;
    if (arena.exhausted()) {
      limited = true;
      break;
    }
    if (!arena.affords(l, step.adds)) {
      limited = true;
      best[l] = undefined;
      continue;
    }
    if (stillAllowed(step, states, arena, losses)) {
      steps[step.kind]++;
      take(step, states, arena);
      if (step.evict) entangled.add(l).add(step.evict.layer);
      losses.forget(l);
      if (step.evict) {
        losses.forget(step.evict.layer);
        find(step.evict.layer, options.leave);
      }
    }
    find(l, options.leave);
  }
  return { hosts: withoutNoise(arena, { hosts, worst: worstAtStart }, states, entangled), states, steps, limited };
}

function setCountsRight(problem: Problem, states: readonly LayerState[], arena: Arena, options: ImproveOptions): readonly number[] {
  const at = options.reconcileAt;
  if (at === undefined) return [];
  const { maxMoves } = problem.input.budget;
  const movesMax = Number.isFinite(maxMoves) ? Math.floor(maxMoves * reconcilePart) : Number.POSITIVE_INFINITY;
  return reconcile(states, arena, { margin: (l) => at + countNoise(problem, l), movesMax });
}

/** Rolls back layers that gain less than their noise, unless another layer uses the space. */
function withoutNoise(
  arena: Arena,
  before: { readonly hosts: Hosts; readonly worst: readonly number[] },
  states: readonly LayerState[],
  entangled: ReadonlySet<number>,
): Hosts {
  const hosts = states.map((state) => state.hosts);
  const { noise } = arena.problem.input;
  if (!noise) return hosts;
  const gain = (l: number): number => (before.worst[l] as number) - (states[l] as LayerState).worst();
  let open = states.flatMap((_, l) => (!entangled.has(l) && gain(l) < layerNoises * (noise[l] ?? 0) ? [l] : []));
  for (let stuck = -1; open.length > 0 && open.length !== stuck; ) {
    stuck = open.length;
    open = open.filter((l) => {
      const back = before.hosts[l] as number[][];
      if (!arena.replaces(l, hosts[l] as number[][], back)) return true;
      hosts[l] = back;
      return false;
    });
  }
  return hosts;
}

function countNoise(problem: Problem, layer: number): number {
  return noiseDeviations * (problem.input.noise?.[layer] ?? 0) * Math.sqrt(Math.max(1, problem.E / problem.G));
}

function highest(best: readonly (Step | undefined)[]): number {
  let top = 0;
  for (let l = 1; l < best.length; l++) if ((best[l]?.value ?? 0) > (best[top]?.value ?? 0)) top = l;
  return top;
}

/** Other layers may have taken bytes, budget or the replica to evict since the step was priced. */
function stillAllowed(step: Step, states: readonly LayerState[], arena: Arena, losses: LossTable): boolean {
  const state = states[step.layer] as LayerState;
  const { evict } = step;
  if (evict) {
    return step.adds.every(({ expert, rank }) => {
      if (arena.mayAdd(state, expert, rank, undefined)) return false;
      const short = arena.resident(step.layer, expert) - arena.free(rank);
      const victim = losses.cheapest(rank, short, step.layer);
      if (!victim || victim.expertReplica.expert !== evict.expertReplica.expert || victim.layer !== evict.layer || victim.loss > evict.loss)
        return false;
      return arena.mayReceive(step.layer, expert, rank);
    });
  }
  return step.adds.every((add) => arena.mayAdd(state, add.expert, add.rank, step.drops.find((drop) => drop.rank === add.rank)?.expert));
}

function take(step: Step, states: readonly LayerState[], arena: Arena): void {
  if (step.evict) {
    const { layer, expertReplica } = step.evict;
    const other = states[layer] as LayerState;
    other.apply([
      { expert: expertReplica.expert, hosts: (other.hosts[expertReplica.expert] as number[]).filter((g) => g !== expertReplica.rank) },
    ]);
    arena.record(layer, [], [expertReplica]);
  }
  (states[step.layer] as LayerState).apply(step.changes);
  arena.record(step.layer, step.adds, step.drops);
}
