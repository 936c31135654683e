// The loss by dropping each redundant replica; the cheapest on a rank makes space for another layer. Changed layers are priced anew
// lazily.

import { type LayerState, none, root } from "../layer-state.ts";
import type { Arena } from "./arena.ts";
import type { Eviction, Evictions } from "./step.ts";

export class LossTable {
  readonly #states: readonly LayerState[];
  readonly #arena: Arena;
  readonly #stale = new Set<number>();
  readonly #byRank: Eviction[][];

  constructor(states: readonly LayerState[], arena: Arena) {
    this.#states = states;
    this.#arena = arena;
    this.#byRank = Array.from({ length: arena.problem.G }, () => []);
    for (let l = 0; l < states.length; l++) this.#stale.add(l);
  }

  forget(layer: number): void {
    this.#stale.add(layer);
  }

  readonly cheapest: Evictions = (rank, bytes, layer) => {
    if (this.#stale.size > 0) this.#refresh();
    for (const entry of this.#byRank[rank] as Eviction[]) {
      if (entry.layer !== layer && this.#arena.resident(entry.layer, entry.expertReplica.expert) >= bytes) return entry;
    }
    return undefined;
  };

  #refresh(): void {
    const ranks = new Set<number>();
    for (let g = 0; g < this.#byRank.length; g++) {
      const list = this.#byRank[g] as Eviction[];
      const kept = list.filter((entry) => !this.#stale.has(entry.layer));
      if (kept.length < list.length) this.#byRank[g] = kept;
    }
    for (const layer of this.#stale) {
      for (const entry of this.#lossesOf(layer)) {
        (this.#byRank[entry.expertReplica.rank] as Eviction[]).push(entry);
        ranks.add(entry.expertReplica.rank);
      }
    }
    for (const g of ranks)
      (this.#byRank[g] as Eviction[]).sort(
        (a, b) => a.loss - b.loss || a.layer - b.layer || a.expertReplica.expert - b.expertReplica.expert,
      );
    this.#stale.clear();
  }

  #lossesOf(layer: number): Eviction[] {
    const state = this.#states[layer] as LayerState;
    const before = state.phi();
    const list: Eviction[] = [];
    state.hosts.forEach((hosts, expert) => {
      if (hosts.length < 2) return;
      for (const rank of hosts) {
        if (!this.#arena.mayDrop(state, expert, rank)) continue;
        state.begin();
        state.take(expert);
        state.give(expert, rank, none);
        list.push({ layer, expertReplica: { expert, rank }, loss: Math.max(0, root(state.finish()) - before) });
      }
    });
    return list;
  }
}
