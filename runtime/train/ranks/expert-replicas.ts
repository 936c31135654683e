// Replicas of other ranks' experts on one rank: gathered ahead layer by layer, and dropped after use (spAG).

import { gather, piecesOf } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { chunkHosts, chunkIn, expertOf } from "../../placement/training/chunks.ts";
import type { Shape } from "./model-shape.ts";
import type { RankMemory } from "./rank-memory.ts";

interface TransferSettings {
  readonly transport: Transport;
  readonly memory: RankMemory;
  readonly shape: Shape;
  readonly node: readonly number[];
  readonly primaries: readonly (readonly number[])[];
}

interface TransferName {
  readonly what: string;
  readonly layer: number;
  readonly stamp: Stamp;
}

export class ReplicaTransfers {
  readonly #settings: TransferSettings;
  readonly #started = new Map<string, Promise<void>>();
  #last: Promise<void> = Promise.resolve();

  constructor(settings: TransferSettings) {
    this.#settings = settings;
  }

  /** Begins to gather a layer's replicas after earlier ones, once; `what` names the frames. */
  start(what: string, layer: number, hosts: readonly (readonly number[])[], stamp: Stamp): void {
    const key = `${what} ${layer}`;
    if (this.#started.has(key)) return;
    this.#last = this.#last.then(() => this.#bring({ what, layer, stamp }, hosts));
    this.#last.catch(() => {}); // Whoever awaits it gets the error; until then nobody may.
    this.#started.set(key, this.#last);
  }

  async arrived(what: string, layer: number): Promise<void> {
    await this.#started.get(`${what} ${layer}`);
  }

  /** Resolves once nothing is in progress, so that an abandoned step leaves nobody waiting for its frames. */
  async settled(): Promise<void> {
    await this.#last;
  }

  async #bring({ what, layer, stamp }: TransferName, hosts: readonly (readonly number[])[]): Promise<void> {
    const { transport, memory, shape, node } = this.#settings;
    const { slices } = shape;
    const primaries = this.#settings.primaries[layer] ?? [];
    for (const [expert, row] of hosts.entries())
      if (row.includes(transport.rank) && !memory.owns(layer, expert)) memory.addReplica(layer, expert);
    await gather({
      transport,
      stamp,
      layer,
      pieces: piecesOf((shape.experts[layer]?.[0]?.to ?? 0) / slices),
      what,
      placement: { primaries, hosts: chunkHosts(hosts, primaries, slices), node },
      memory: (chunk) => chunkIn(memory.parameters(layer, expertOf(chunk, slices)), chunk, slices),
    });
  }
}

export interface ReplicaOptions {
  readonly transfers: ReplicaTransfers;
  readonly memory: RankMemory;
  /** Hosts are chosen after the gate and set by `place`. */
  readonly late: boolean;
  /** Replicas are dropped after forward and gathered again for backward. */
  readonly again: boolean;
  readonly stays: boolean;
  readonly hosts: readonly (readonly (readonly number[])[])[];
  stampOf(layer: number, hosts: readonly (readonly number[])[]): Stamp;
}

export class ExpertReplicas {
  readonly #options: ReplicaOptions;
  readonly hosts: (readonly (readonly number[])[])[];

  constructor(options: ReplicaOptions) {
    this.#options = options;
    this.hosts = [...options.hosts];
  }

  stamp(layer: number): Stamp {
    return this.#options.stampOf(layer, this.hosts[layer] ?? []);
  }

  beforeForward(layer: number): void {
    const { late, again } = this.#options;
    const end = again ? Math.min(layer + 2, this.hosts.length) : this.hosts.length;
    for (let next = layer; !late && next < end; next++) this.#start("copies", next);
  }

  place(layer: number, hosts: readonly (readonly number[])[]): void {
    this.hosts[layer] = hosts;
    this.#start("copies", layer);
  }

  /** Resolves once a layer's experts are in memory for forward. */
  ready(layer: number): Promise<void> {
    return this.#options.transfers.arrived("copies", layer);
  }

  afterForward(layer: number): void {
    if (this.#options.again) this.#options.memory.dropReplicas(layer);
  }

  async beforeBackward(layer: number): Promise<void> {
    for (let next = layer; this.#options.again && next >= Math.max(0, layer - 1); next--) this.#start("copies again", next);
    await this.#options.transfers.arrived("copies again", layer);
  }

  afterBackward(layer: number): void {
    if (!this.#options.stays) this.#options.memory.dropReplicas(layer);
  }

  #start(what: string, layer: number): void {
    this.#options.transfers.start(what, layer, this.hosts[layer] ?? [], this.stamp(layer));
  }
}
