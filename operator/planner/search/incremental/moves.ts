// The best single step for one layer, seen from its hottest ranks: add, relocate, replace a redundant replica, or swap.
import { type LayerState, none } from "../layer-state.ts";
import type { Arena } from "./arena.ts";
import { above, type Basin, basinOf, levelWith, meets, spillLevel } from "./bounds.ts";
import {
  beats,
  ceilingOf,
  type Evictions,
  expertReplicaCost,
  least,
  offer,
  type Redundant,
  type SearchWidth,
  type Step,
  spread,
  type View,
} from "./step.ts";

/** A replica occupies memory that another layer could use; relocation does not. */
const addPreference = 0.97;
const dropCost = 0.1;

export function bestStep(state: LayerState, arena: Arena, width: SearchWidth, evictions: Evictions | undefined): Step | undefined {
  const order = state.hottestFirst();
  const redundant = redundantExpertReplicas(state, arena);
  const before = state.phi();
  const uniformCost = arena.problem.input.moveCost === undefined;
  for (let i = 0; i < Math.min(width.hot, order.length); i++) {
    const hot = order[i] as number;
    if (state.normal(hot) <= 1 + least) break;
    const cold: number[] = [];
    for (let c = order.length - 1; c > i && cold.length < width.cold; c--) cold.push(order[c] as number);
    const experts = hotExperts(state, hot, width.experts);
    const basins = experts.map((e) => basinOf(state, e));
    const view: View = { state, arena, before, hot, cold, experts, basins, redundant, uniformCost, value: 0, step: undefined };
    addsAndRelocations(view, evictions);
    replacements(view);
    swaps(view);
    if (state.equal) drops(view);
    if (view.step !== undefined) return view.step;
  }
  return undefined;
}

function redundantExpertReplicas(state: LayerState, arena: Arena): Redundant[] {
  const expertReplicas: Redundant[] = [];
  const { minExpertReplicas } = arena.problem.input;
  for (let e = 0; e < state.hosts.length; e++) {
    if ((state.expertReplicas[e] as number) < 2 || (state.expertReplicas[e] as number) <= minExpertReplicas) continue;
    for (const rank of state.hosts[e] as number[])
      if (arena.mayDrop(state, e, rank)) expertReplicas.push({ expert: e, rank, spill: spillLevel(state, e, rank) });
  }
  return expertReplicas;
}

function hotExperts(state: LayerState, hot: number, count: number): number[] {
  const experts = (state.on[hot] as number[]).filter((e) => state.rowsOn(e, hot) > 0);
  experts.sort((a, b) => state.rowsOn(b, hot) - state.rowsOn(a, hot) || a - b);
  return experts.slice(0, count);
}

function addsAndRelocations(view: View, evictions: Evictions | undefined): void {
  const { state, arena } = view;
  for (const e of view.experts) {
    const hosts = state.hosts[e] as number[];
    for (const rank of view.cold) {
      if (hosts.includes(rank)) continue;
      if (arena.mayAdd(state, e, rank, undefined)) add(view, e, rank);
      else if (evictions && arena.mayReceive(state.layer, e, rank)) addByEviction(view, evictions, e, rank);
    }
  }
}

function priceOne(state: LayerState, expert: number, without: number, withRank: number): number {
  state.begin();
  state.take(expert);
  state.give(expert, without, withRank);
  return state.finish();
}

/** A: one more replica, or the hot rank's replica moves. Cost: one. */
function add(view: View, e: number, rank: number): void {
  const { state, arena, hot } = view;
  const hosts = state.hosts[e] as number[];
  const adds = [{ expert: e, rank }];
  const cost = expertReplicaCost(view, e, rank);
  const weight = addPreference * spread(view, e, rank);
  offer(view, { total: priceOne(state, e, none, rank), cost, weight }, () => ({
    kind: "add",
    changes: [{ expert: e, hosts: [...hosts, rank] }],
    adds,
    drops: [],
  }));
  if (!arena.mayLeave(state, e, hot)) return;
  offer(view, { total: priceOne(state, e, hot, rank), cost }, () => ({
    kind: "relocate",
    changes: [{ expert: e, hosts: hosts.map((g) => (g === hot ? rank : g)) }],
    adds,
    drops: [{ expert: e, rank: hot }],
  }));
}

/** R across layers: a replica of another layer makes way for such a replica. */
function addByEviction(view: View, evictions: Evictions, e: number, rank: number): void {
  const { state, arena, hot } = view;
  const hosts = state.hosts[e] as number[];
  const cost = expertReplicaCost(view, e, rank);
  const added = priceOne(state, e, none, rank);
  const moved = hosts.length === 1 && arena.mayLeave(state, e, hot) ? priceOne(state, e, hot, rank) : Number.POSITIVE_INFINITY;
  if (!beats(view, { total: added, cost, weight: addPreference }) && !beats(view, { total: moved, cost })) return;
  const evict = evictions(rank, arena.resident(state.layer, e) - arena.free(rank), state.layer);
  if (!evict) return;
  const adds = [{ expert: e, rank }];
  offer(view, { total: added, loss: evict.loss, cost, weight: addPreference }, () => ({
    kind: "replace",
    changes: [{ expert: e, hosts: [...hosts, rank] }],
    adds,
    drops: [],
    evict,
  }));
  offer(view, { total: moved, loss: evict.loss, cost }, () => ({
    kind: "relocate",
    changes: [{ expert: e, hosts: [rank] }],
    adds,
    drops: [{ expert: e, rank: hot }],
    evict,
  }));
}

/** R: a redundant replica of the layer makes way for an expert of the hot rank. Cost: one. */
function replacements(view: View): void {
  const { state, arena, hot } = view;
  const limit = state.normal(hot);
  for (const { expert: f, rank, spill } of view.redundant) {
    if (rank === hot) continue;
    const leaving = state.rowsOn(f, rank);
    if (state.normal(rank) - leaving * (state.scale[rank] as number) >= limit) continue;
    const fHosts = state.hosts[f] as number[];
    for (let i = 0; i < view.experts.length; i++) {
      const e = view.experts[i] as number;
      const hosts = state.hosts[e] as number[];
      if (e === f || hosts.includes(rank)) continue;
      const ceiling = ceilingOf(view, 1);
      const level = Math.max(spill, levelWith(state, view.basins[i] as Basin, rank, leaving));
      if (above(level, ceiling) && !meets(fHosts, rank, hosts)) continue;
      state.begin();
      state.take(f);
      state.take(e);
      state.give(f, rank, none);
      state.give(e, none, rank);
      const price = { total: state.finish(), cost: expertReplicaCost(view, e, rank), weight: spread(view, e, rank) };
      if (!beats(view, price) || !arena.mayAdd(state, e, rank, f)) continue;
      offer(view, price, () => ({
        kind: "replace",
        changes: [
          { expert: f, hosts: fHosts.filter((g) => g !== rank) },
          { expert: e, hosts: [...hosts, rank] },
        ],
        adds: [{ expert: e, rank }],
        drops: [{ expert: f, rank }],
      }));
    }
  }
}

/** S: an expert of the hot rank swaps with one of a cold rank. Cost: two. */
function swaps(view: View): void {
  const { state, arena, hot } = view;
  for (const e of view.experts) {
    if (!arena.mayLeave(state, e, hot)) continue;
    const hosts = state.hosts[e] as number[];
    const mine = state.rowsOn(e, hot);
    for (const rank of view.cold) if (hosts.length === 1 || !hosts.includes(rank)) swapsWith(view, e, rank, mine);
  }
}

/** Offers swaps with those experts on a cold rank that have fewer rows, but enough to keep the cold rank's new load low. */
function swapsWith(view: View, e: number, rank: number, mine: number): void {
  const { state, hot } = view;
  const on = state.on[rank] as number[];
  const fewest = mine - (state.normal(hot) * (1 + resplitSlack)) / (state.scale[rank] as number) + (state.load[rank] as number);
  for (let i = 0; i < on.length; i++) {
    const f = on[i] as number;
    const rows = state.expertReplicas[f] === 1 ? (state.demand[f] as number) : state.rowsOn(f, rank);
    if (rows < mine && rows > fewest) swap(view, { e, f, rank, shift: mine - rows });
  }
}

const resplitSlack = 0.02;

function swap(view: View, { e, f, rank, shift }: { e: number; f: number; rank: number; shift: number }): void {
  const { state, arena, hot } = view;
  const fHosts = state.hosts[f] as number[];
  if (fHosts.length > 1 && fHosts.includes(hot)) return;
  const hosts = state.hosts[e] as number[];
  const single = hosts.length === 1 && fHosts.length === 1;
  const onRank = ((state.load[rank] as number) + shift) * (state.scale[rank] as number);
  if (onRank >= state.normal(hot) * (single ? 1 : 1 + resplitSlack)) return;
  // Both ranks are known exactly for unreplicated experts.
  const onHot = ((state.load[hot] as number) - shift) * (state.scale[hot] as number);
  if (single && above(Math.max(onRank, onHot), ceilingOf(view, 2))) return;
  const cost = view.uniformCost ? 2 : expertReplicaCost(view, e, rank) + expertReplicaCost(view, f, hot);
  let total = state.shifted(hot, rank, shift);
  if (!single) {
    state.begin();
    state.take(e);
    state.take(f);
    state.give(f, rank, hot);
    state.give(e, hot, rank);
    total = Math.min(total, state.finish());
  }
  if (!beats(view, { total, cost })) return;
  if (!arena.mayLeave(state, f, rank) || !arena.mayAdd(state, e, rank, f) || !arena.mayAdd(state, f, hot, e)) return;
  offer(view, { total, cost }, () => ({
    kind: "swap",
    changes: [
      { expert: f, hosts: fHosts.map((g) => (g === rank ? hot : g)) },
      { expert: e, hosts: hosts.map((g) => (g === hot ? rank : g)) },
    ],
    adds: [
      { expert: e, rank },
      { expert: f, rank: hot },
    ],
    drops: [
      { expert: e, rank: hot },
      { expert: f, rank },
    ],
  }));
}

function drops(view: View): void {
  const { state, arena, hot } = view;
  for (const e of view.experts) {
    const hosts = state.hosts[e] as number[];
    if (hosts.length < 2 || !arena.mayDrop(state, e, hot)) continue;
    offer(view, { total: priceOne(state, e, hot, none), cost: dropCost }, () => ({
      kind: "drop",
      changes: [{ expert: e, hosts: hosts.filter((g) => g !== hot) }],
      adds: [],
      drops: [{ expert: e, rank: hot }],
    }));
  }
}
