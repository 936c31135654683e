// Keeps replica counts in proportion to load: the expert that needs a replica least gives its slot to the one with most rows per
// replica, the worst first.

import { type LayerState, none } from "../layer-state.ts";
import type { Arena, ExpertReplica } from "./arena.ts";

export interface ReconcileOptions {
  /** The part by which rows per replica must exceed those of the giver afterwards, per layer. */
  readonly margin: (layer: number) => number;
  readonly movesMax: number;
}

interface Exchange {
  readonly expert: number;
  readonly rank: number;
  readonly from: number;
  readonly excess: number;
}

const receiversMax = 4;

/** Returns the layer of every exchange. */
export function reconcile(states: readonly LayerState[], arena: Arena, options: ReconcileOptions): number[] {
  const next = states.map((state, l) => exchangeOf(state, arena, options.margin(l)));
  const made: number[] = [];
  while (made.length < options.movesMax && !arena.exhausted()) {
    let top = -1;
    for (let l = 0; l < next.length; l++) if ((next[l]?.excess ?? 0) > (next[top]?.excess ?? 0)) top = l;
    const exchange = next[top];
    const state = states[top];
    if (!exchange || !state) break;
    const { expert, rank, from } = exchange;
    if (arena.mayAdd(state, expert, rank, from)) {
      state.apply([
        { expert: from, hosts: (state.hosts[from] as number[]).filter((g) => g !== rank) },
        { expert, hosts: [...(state.hosts[expert] as number[]), rank] },
      ]);
      arena.record(state.layer, [{ expert, rank }], [{ expert: from, rank }]);
      made.push(top);
      next[top] = exchangeOf(state, arena, options.margin(top));
    } else next[top] = undefined;
  }
  return made;
}

function exchangeOf(state: LayerState, arena: Arena, margin: number): Exchange | undefined {
  const G = state.load.length;
  const perExpertReplica = (e: number): number => (state.demand[e] as number) / (state.expertReplicas[e] as number);
  const receivers = topReceivers(state, G, perExpertReplica);
  const donors = donorsOf(state, arena);
  for (const expert of receivers) {
    for (const { expert: from, after } of donors) {
      const excess = perExpertReplica(expert) / Math.max(1e-12, after * (1 + margin));
      if (excess <= 1) break;
      const rank = from === expert ? undefined : bestPlace(state, arena, expert, from);
      if (rank !== undefined) return { expert, rank, from, excess };
    }
  }
  return undefined;
}

function topReceivers(state: LayerState, ranks: number, perExpertReplica: (e: number) => number): number[] {
  const top: number[] = [];
  for (let e = 0; e < state.hosts.length; e++) {
    if ((state.expertReplicas[e] as number) >= ranks) continue;
    const value = perExpertReplica(e);
    if (top.length === receiversMax && value <= perExpertReplica(top[receiversMax - 1] as number)) continue;
    let i = top.length;
    while (i > 0 && perExpertReplica(top[i - 1] as number) < value) i--;
    top.splice(i, 0, e);
    if (top.length > receiversMax) top.pop();
  }
  return top;
}

function donorsOf(state: LayerState, arena: Arena): { expert: number; after: number }[] {
  const donors: { expert: number; after: number }[] = [];
  for (let e = 0; e < state.hosts.length; e++) {
    const expertReplicas = state.expertReplicas[e] as number;
    if (expertReplicas < 2 || expertReplicas <= arena.problem.input.minExpertReplicas) continue;
    donors.push({ expert: e, after: (state.demand[e] as number) / (expertReplicas - 1) });
  }
  return donors.sort((a, b) => a.after - b.after || a.expert - b.expert);
}

function bestPlace(state: LayerState, arena: Arena, expert: number, from: number): number | undefined {
  const hosts = state.hosts[expert] as number[];
  let best: ExpertReplica | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const rank of state.hosts[from] as number[]) {
    if (hosts.includes(rank) || !arena.mayDrop(state, from, rank) || !arena.mayAdd(state, expert, rank, from)) continue;
    state.begin();
    state.take(from);
    state.take(expert);
    state.give(from, rank, none);
    state.give(expert, none, rank);
    const total = state.finish();
    if (total >= least) continue;
    least = total;
    best = { expert, rank };
  }
  return best?.rank;
}
