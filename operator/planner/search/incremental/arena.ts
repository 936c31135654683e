// The account of a plan during the search: bytes per rank, budget, dwell. It allows and books additions and drops of replicas.
import { keepsFloor } from "../../expert-replicas.ts";
import { expertReplicaKey } from "../../policy.ts";
import { type Hosts, type Problem, usedBytes } from "../../problem.ts";
import type { HostChange, LayerState } from "../layer-state.ts";

export interface ExpertReplica {
  readonly expert: number;
  readonly rank: number;
}

const slack = 1e-6;

export class Arena {
  readonly problem: Problem;
  readonly used: Float64Array;
  moves = 0;
  bytes = 0;
  readonly #freeAtStart: Float64Array;
  /** Bytes added per (layer, rank): old and new replicas of a layer coexist until it is freed. */
  readonly #incoming: Float64Array;
  readonly #arrivals: Int32Array;

  constructor(problem: Problem, hosts: Hosts) {
    this.problem = problem;
    this.used = usedBytes(problem, hosts);
    this.#freeAtStart = this.used.map((used, g) => Math.max(0, (problem.capacity[g] as number) - used));
    this.#incoming = new Float64Array(problem.L * problem.G);
    this.#arrivals = new Int32Array(problem.G);
  }

  resident(layer: number, expert: number): number {
    return this.problem.input.shape.residentBytes[layer * this.problem.E + expert] as number;
  }

  #stored(layer: number, expert: number): number {
    return this.problem.input.shape.storedBytes[layer * this.problem.E + expert] as number;
  }

  /** May `rank` take this expert when `freed` leaves it? */
  mayAdd(state: LayerState, expert: number, rank: number, freed: number | undefined): boolean {
    const { problem } = this;
    if ((state.on[rank] as number[]).length - (freed === undefined ? 0 : 1) >= problem.slotCap) return false;
    const bytes = this.resident(state.layer, expert);
    const back = freed === undefined ? 0 : this.resident(state.layer, freed);
    if ((this.used[rank] as number) + bytes - back > (problem.capacity[rank] as number) + slack) return false;
    return this.mayReceive(state.layer, expert, rank);
  }

  mayReceive(layer: number, expert: number, rank: number): boolean {
    const { problem } = this;
    const { budget, recent } = problem.input;
    if ((problem.speed[rank] as number) <= 0) return false;
    const bytes = this.resident(layer, expert);
    const already = this.#incoming[layer * problem.G + rank] as number;
    if (already > 0 && already + bytes > problem.staging + (this.#freeAtStart[rank] as number) + slack) return false;
    const stored = this.#stored(layer, expert);
    if (this.moves + 1 > budget.maxMoves || this.bytes + stored > budget.maxBytes) return false;
    if ((this.#arrivals[rank] as number) + 1 > budget.maxMovesPerRank) return false;
    return !recent?.dropped.has(this.#key(layer, expert, rank));
  }

  /** True if moves and bytes suffice for all replicas of a step. */
  affords(layer: number, adds: readonly ExpertReplica[]): boolean {
    const { maxMoves, maxBytes } = this.problem.input.budget;
    if (this.moves + adds.length > maxMoves) return false;
    return (
      maxBytes === Number.POSITIVE_INFINITY || adds.reduce((sum, { expert }) => sum + this.#stored(layer, expert), this.bytes) <= maxBytes
    );
  }

  exhausted(): boolean {
    return this.moves >= this.problem.input.budget.maxMoves || this.bytes >= this.problem.input.budget.maxBytes;
  }

  mayDrop(state: LayerState, expert: number, rank: number): boolean {
    const hosts = state.hosts[expert] as number[];
    const { minExpertReplicas } = this.problem.input;
    if (hosts.length <= minExpertReplicas || !this.mayLeave(state, expert, rank)) return false;
    return minExpertReplicas <= 1 || this.keepsFloor(state, [{ expert, hosts: hosts.filter((g) => g !== rank) }]);
  }

  /** True if the changed experts keep the replicas and nodes of the floor. */
  keepsFloor(state: LayerState, changes: readonly HostChange[]): boolean {
    return changes.every(({ expert, hosts }) => keepsFloor(this.problem, state.hosts[expert] as number[], hosts));
  }

  mayLeave(state: LayerState, expert: number, rank: number): boolean {
    return !this.problem.input.recent?.added.has(this.#key(state.layer, expert, rank));
  }

  free(rank: number): number {
    return (this.problem.capacity[rank] as number) - (this.used[rank] as number);
  }

  record(layer: number, adds: readonly ExpertReplica[], drops: readonly ExpertReplica[]): void {
    for (const { expert, rank } of adds) {
      const bytes = this.resident(layer, expert);
      const stored = this.#stored(layer, expert);
      this.used[rank] = (this.used[rank] as number) + bytes;
      this.#incoming[layer * this.problem.G + rank] = (this.#incoming[layer * this.problem.G + rank] as number) + bytes;
      this.#arrivals[rank] = (this.#arrivals[rank] as number) + 1;
      this.moves++;
      this.bytes += stored;
    }
    for (const { expert, rank } of drops) this.used[rank] = (this.used[rank] as number) - this.resident(layer, expert);
  }

  /** Replaces a layer's hosts if every rank that gets more has the bytes. Moves are not counted. */
  replaces(layer: number, from: Hosts[number], to: Hosts[number]): boolean {
    const more = new Float64Array(this.problem.G);
    const count = (hosts: Hosts[number], sign: number): void => {
      hosts.forEach((row, e) => {
        for (const g of row) more[g] = (more[g] as number) + sign * this.resident(layer, e);
      });
    };
    count(to, 1);
    count(from, -1);
    if (more.some((bytes, g) => bytes > slack && bytes > this.free(g) + slack)) return false;
    more.forEach((bytes, g) => {
      this.used[g] = (this.used[g] as number) + bytes;
    });
    return true;
  }

  #key(layer: number, expert: number, rank: number): number {
    return expertReplicaKey(this.problem.input, layer, expert, this.problem.ranks[rank]?.rank ?? rank);
  }
}
