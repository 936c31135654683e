// The incremental search over all layers: repeatedly the step with the highest gain per cost anywhere, until nothing is
// worth its cost or the budget is spent. Pure and deterministic; ties go to the lower layer.
import { type Hosts, layerDemand, type Problem } from "../../problem.ts";
import { LayerState } from "../layer-state.ts";
import { Arena } from "./arena.ts";
import { LossTable } from "./losses.ts";
import { bestStep } from "./moves.ts";
import { reconcile } from "./replica-counts.ts";
import type { Evictions, MoveKind, SearchWidth, Step } from "./step.ts";

export interface ImproveOptions {
  /** Least gain of max/mean per expert replica. */
  readonly theta: number;
  /** Layers at or below this max/mean are left alone. */
  readonly enter: number;
  /** A layer that is being worked on stops here. */
  readonly leave: number;
  readonly width: SearchWidth;
  readonly stepsMax: number;
  /** Part by which a replica count must be out of proportion to be set right; unset = never. */
  readonly reconcileAt?: number;
}

/** Counts may take this part of a limited budget: the moves that even out the forecast come from the rest. */
const reconcilePart = 0.1;
/** A layer must gain this many standard deviations of a rank's load: the hottest of many ranks is an extreme. */
const layerNoises = 3;
/** Standard deviations of sampling noise that a disproportion must exceed. */
const noiseDeviations = 4;

export interface Improved {
  readonly hosts: Hosts;
  readonly states: readonly LayerState[];
  readonly steps: Readonly<Record<MoveKind, number>>;
  /** Bytes or budget stopped a step that was worth it. */
  readonly limited: boolean;
}

/** One search state per layer, split as the input asks. */
function makeStates(problem: Problem, hosts: Hosts): LayerState[] {
  const equal = problem.input.split === "equal";
  return hosts.map(
    (rows, layer) => new LayerState({ layer, demand: layerDemand(problem, layer), hosts: rows, speed: problem.speed, equal }),
  );
}

/** Steps from `hosts` within budget, memory and dwell; a layer that ends within its noise goes back to what it was. */
export function improve(problem: Problem, hosts: Hosts, options: ImproveOptions): Improved {
  const arena = new Arena(problem, hosts);
  const states = makeStates(problem, hosts);
  const worstAtStart = states.map((state) => state.worst());
  const steps: Record<MoveKind, number> = { add: 0, relocate: 0, replace: 0, swap: 0, chain: 0, drop: 0, reconcile: 0 };
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
  // Layers whose counts were set right, or that gave or took each other's room: they stand or fall together.
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

/**
 * A layer that gains less than its noise goes back to what it was: the next window would undo it. Not where another layer has
 * taken the room that it left, as long as that one stays.
 */
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

/** Relative noise of an expert with the rows of one slot, from the noise of a rank's load: a rank sums more rows. */
function countNoise(problem: Problem, layer: number): number {
  return noiseDeviations * (problem.input.noise?.[layer] ?? 0) * Math.sqrt(Math.max(1, problem.E / problem.G));
}

function highest(best: readonly (Step | undefined)[]): number {
  let top = 0;
  for (let l = 1; l < best.length; l++) if ((best[l]?.value ?? 0) > (best[top]?.value ?? 0)) top = l;
  return top;
}

/** The accounts may have changed since the step was priced: other layers took bytes, budget or the expert replica that was to make room. */
function stillAllowed(step: Step, states: readonly LayerState[], arena: Arena, losses: LossTable): boolean {
  const state = states[step.layer] as LayerState;
  const { evict } = step;
  if (evict) {
    return step.adds.every(({ expert, rank }) => {
      // There is room by now, and nothing needs to go.
      if (arena.mayAdd(state, expert, rank, undefined)) return false;
      const short = arena.resident(step.layer, expert) - arena.free(rank);
      const victim = losses.cheapest(rank, short, step.layer);
      // Priced anew when another expert replica would do, or this one has become dearer.
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
