// The best single step for one layer: add a copy, relocate, replace a redundant copy, swap, or an ejection chain, seen
// from its hottest ranks. Priced by the decrease of the smooth maximum per copy made. Pure; the caller applies it.
import type { Arena, Copy } from "./arena.ts";
import type { HostChange, LayerState } from "./layer-state.ts";

export type MoveKind = "add" | "relocate" | "replace" | "swap" | "chain" | "drop";

export interface Step {
  readonly kind: MoveKind;
  readonly layer: number;
  readonly changes: readonly HostChange[];
  readonly adds: readonly Copy[];
  readonly drops: readonly Copy[];
  /** Decrease of the smooth maximum, less what an eviction in another layer costs. */
  readonly gain: number;
  /** Gain per unit of cost: what steps of all layers are compared by. */
  readonly value: number;
  /** A copy of another layer that must go first to make room. */
  readonly evict?: { readonly layer: number; readonly copy: Copy };
}

export interface SearchWidth {
  readonly hot: number;
  readonly cold: number;
  readonly experts: number;
  readonly chains: boolean;
}

export type Evictions = (rank: number, bytes: number, layer: number) => { layer: number; copy: Copy; loss: number } | undefined;

interface Best {
  step: Step | undefined;
  value: number;
}

/** A copy keeps memory busy that another layer could use; relocation does not. */
const addPreference = 0.97;
/** Second replica on one node adds no safety. */
const sameNodePreference = 0.95;
/** A free step (drop) is compared as if it cost this part of a copy. */
const dropCost = 0.1;
const chainCold = 6;
const chainExperts = 2;
const least = 1e-9;

export function bestStep(state: LayerState, arena: Arena, width: SearchWidth, evictions: Evictions | undefined): Step | undefined {
  const order = Array.from(state.load, (_, g) => g).sort((a, b) => state.normal(b) - state.normal(a) || a - b);
  const best: Best = { step: undefined, value: 0 };
  const before = state.phi();
  const redundant = redundantCopies(state, arena);
  for (let i = 0; i < Math.min(width.hot, order.length); i++) {
    const hot = order[i] as number;
    if (state.normal(hot) <= 1 + least) break;
    const cold = order
      .slice(i + 1)
      .reverse()
      .slice(0, width.cold);
    const experts = hotExperts(state, hot, width.experts);
    const view = { state, arena, before, hot, cold, experts, redundant, best };
    addsAndRelocations(view, evictions);
    replacements(view);
    swaps(view);
    if (state.equal) drops(view);
    if (best.step === undefined && width.chains) chains(view);
    if (best.step !== undefined) break;
  }
  return best.step;
}

interface View {
  readonly state: LayerState;
  readonly arena: Arena;
  readonly before: number;
  readonly hot: number;
  readonly cold: readonly number[];
  readonly experts: readonly number[];
  readonly redundant: readonly Copy[];
  readonly best: Best;
}

function redundantCopies(state: LayerState, arena: Arena): Copy[] {
  const copies: Copy[] = [];
  for (let e = 0; e < state.hosts.length; e++) {
    const hosts = state.hosts[e] as number[];
    if (hosts.length < 2 || hosts.length <= arena.problem.input.minCopies) continue;
    for (const rank of hosts) if (arena.mayDrop(state, e, rank)) copies.push({ expert: e, rank });
  }
  return copies;
}

function rowsOn(state: LayerState, expert: number, rank: number): number {
  const i = (state.hosts[expert] as number[]).indexOf(rank);
  return i < 0 ? 0 : ((state.rows[expert] as number[])[i] as number);
}

function hotExperts(state: LayerState, hot: number, count: number): number[] {
  const experts = (state.on[hot] as number[]).filter((e) => rowsOn(state, e, hot) > 0);
  experts.sort((a, b) => rowsOn(state, b, hot) - rowsOn(state, a, hot) || a - b);
  return experts.slice(0, count);
}

function offer(
  view: View,
  phi: number,
  loss: number,
  make: (gain: number) => Omit<Step, "gain" | "value" | "layer">,
  cost: number,
  weight = 1,
): void {
  const gain = view.before - phi - loss;
  const value = (gain * weight) / cost;
  if (gain <= least || value <= view.best.value) return;
  view.best.value = value;
  view.best.step = { layer: view.state.layer, gain, value, ...make(gain) };
}

function copyCost(view: View, expert: number, rank: number): number {
  const { moveCost } = view.arena.problem.input;
  if (!moveCost) return 1;
  const { ranks } = view.arena.problem;
  const sources = (view.state.hosts[expert] as number[]).map((g) => ranks[g]?.rank ?? g);
  return Math.max(least, moveCost(view.state.layer, expert, ranks[rank]?.rank ?? rank, sources));
}

function spread(view: View, expert: number, rank: number): number {
  const { node } = view.arena.problem;
  return (view.state.hosts[expert] as number[]).some((g) => node[g] === node[rank]) ? sameNodePreference : 1;
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

/** A: one more copy, or the hot rank's copy goes there. One copy either way. */
function add(view: View, e: number, rank: number): void {
  const { state, arena, hot } = view;
  const hosts = state.hosts[e] as number[];
  const adds = [{ expert: e, rank }];
  const cost = copyCost(view, e, rank);
  const added: HostChange[] = [{ expert: e, hosts: [...hosts, rank] }];
  const weight = addPreference * spread(view, e, rank);
  offer(view, state.price(added), 0, () => ({ kind: "add", changes: added, adds, drops: [] }), cost, weight);
  if (!arena.mayLeave(state, e, hot)) return;
  const moved: HostChange[] = [{ expert: e, hosts: hosts.map((g) => (g === hot ? rank : g)) }];
  offer(view, state.price(moved), 0, () => ({ kind: "relocate", changes: moved, adds, drops: [{ expert: e, rank: hot }] }), cost);
}

/** R across layers: a copy of another layer makes room on the rank. */
function addByEviction(view: View, evictions: Evictions, e: number, rank: number): void {
  const { state, arena } = view;
  const victim = evictions(rank, arena.resident(state.layer, e) - arena.free(rank), state.layer);
  if (!victim) return;
  const evict = { layer: victim.layer, copy: victim.copy };
  const changes: HostChange[] = [{ expert: e, hosts: [...(state.hosts[e] as number[]), rank] }];
  const make = () => ({ kind: "replace" as const, changes, adds: [{ expert: e, rank }], drops: [], evict });
  offer(view, state.price(changes), victim.loss, make, copyCost(view, e, rank), addPreference);
}

/** R: a redundant copy anywhere in the layer gives its place to an expert of the hot rank. One copy. */
function replacements(view: View): void {
  const { state, arena, hot } = view;
  const limit = state.normal(hot);
  for (const { expert: f, rank } of view.redundant) {
    if (rank === hot) continue;
    if (state.normal(rank) - rowsOn(state, f, rank) * (state.scale[rank] as number) >= limit) continue;
    const fHosts = (state.hosts[f] as number[]).filter((g) => g !== rank);
    for (const e of view.experts) {
      const hosts = state.hosts[e] as number[];
      if (e === f || hosts.includes(rank) || !arena.mayAdd(state, e, rank, f)) continue;
      const changes: HostChange[] = [
        { expert: f, hosts: fHosts },
        { expert: e, hosts: [...hosts, rank] },
      ];
      offer(
        view,
        state.price(changes),
        0,
        () => ({ kind: "replace", changes, adds: [{ expert: e, rank }], drops: [{ expert: f, rank }] }),
        copyCost(view, e, rank),
        spread(view, e, rank),
      );
    }
  }
}

/** S: an expert of the hot rank changes place with one of a cold rank. Two copies. */
function swaps(view: View): void {
  const { state, arena, hot } = view;
  for (const e of view.experts) {
    if (!arena.mayLeave(state, e, hot)) continue;
    for (const rank of view.cold) {
      if ((state.hosts[e] as number[]).includes(rank)) continue;
      for (const f of state.on[rank] as number[]) swap(view, e, f, rank);
    }
  }
}

function swap(view: View, e: number, f: number, rank: number): void {
  const { state, arena, hot } = view;
  const hosts = state.hosts[e] as number[];
  const fHosts = state.hosts[f] as number[];
  const shift = rowsOn(state, e, hot) - rowsOn(state, f, rank);
  if (shift <= 0 || fHosts.includes(hot)) return;
  const single = hosts.length === 1 && fHosts.length === 1;
  if (single && ((state.load[rank] as number) + shift) * (state.scale[rank] as number) >= state.normal(hot)) return;
  if (!arena.mayLeave(state, f, rank) || !arena.mayAdd(state, e, rank, f) || !arena.mayAdd(state, f, hot, e)) return;
  const changes = (): HostChange[] => [
    { expert: f, hosts: fHosts.map((g) => (g === rank ? hot : g)) },
    { expert: e, hosts: hosts.map((g) => (g === hot ? rank : g)) },
  ];
  const phi = single ? state.priceShift(hot, rank, shift) : state.price(changes());
  const make = () => ({
    kind: "swap" as const,
    changes: changes(),
    adds: [
      { expert: e, rank },
      { expert: f, rank: hot },
    ],
    drops: [
      { expert: e, rank: hot },
      { expert: f, rank },
    ],
  });
  offer(view, phi, 0, make, copyCost(view, e, rank) + copyCost(view, f, hot));
}

function drops(view: View): void {
  const { state, arena, hot } = view;
  for (const e of view.experts) {
    const hosts = state.hosts[e] as number[];
    if (hosts.length < 2 || !arena.mayDrop(state, e, hot)) continue;
    const changes = [{ expert: e, hosts: hosts.filter((g) => g !== hot) }];
    offer(view, state.price(changes), 0, () => ({ kind: "drop", changes, adds: [], drops: [{ expert: e, rank: hot }] }), dropCost);
  }
}

/** C: e gets a copy on a cold rank, whose f goes to a third rank, where a redundant d gives way. Two copies. */
function chains(view: View): void {
  const { state, hot } = view;
  for (const { expert: d, rank: third } of view.redundant) {
    if (third === hot) continue;
    for (const rank of view.cold.slice(0, chainCold)) {
      if (rank === third) continue;
      for (const f of state.on[rank] as number[]) ejections(view, { d, third, f, rank });
    }
  }
}

function ejections(view: View, chain: { d: number; third: number; f: number; rank: number }): void {
  const { state, arena, hot } = view;
  const { d, third, f, rank } = chain;
  const fHosts = state.hosts[f] as number[];
  const moved = rowsOn(state, f, rank) - rowsOn(state, d, third);
  if (f === d || fHosts.includes(third) || state.normal(third) + moved * (state.scale[third] as number) >= state.normal(hot)) return;
  if (!arena.mayLeave(state, f, rank) || !arena.mayAdd(state, f, third, d)) return;
  const dHosts = (state.hosts[d] as number[]).filter((g) => g !== third);
  for (const e of view.experts.slice(0, chainExperts)) {
    const hosts = state.hosts[e] as number[];
    if (e === f || e === d || hosts.includes(rank) || !arena.mayAdd(state, e, rank, f)) continue;
    const changes: HostChange[] = [
      { expert: d, hosts: dHosts },
      { expert: f, hosts: fHosts.map((g) => (g === rank ? third : g)) },
      { expert: e, hosts: [...hosts, rank] },
    ];
    const make = () => ({
      kind: "chain" as const,
      changes,
      adds: [
        { expert: e, rank },
        { expert: f, rank: third },
      ],
      drops: [
        { expert: f, rank },
        { expert: d, rank: third },
      ],
    });
    offer(view, state.price(changes), 0, make, copyCost(view, e, rank) + copyCost(view, f, third));
  }
}
