// Replicas of other ranks' experts on one rank: brought layer by layer as far ahead as the setting lets them, and dropped behind it (spAG).

import { gather, piecesOf } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { chunkHosts, chunkIn, expertOf } from "../../placement/training/chunks.ts";
import type { SpreadName } from "../../placement/training/collectives.ts";
import type { Shape } from "./model-shape.ts";
import type { RankMemory } from "./rank-memory.ts";

interface TransferSettings {
  readonly transport: Transport;
  readonly memory: RankMemory;
  readonly shape: Shape;
  readonly node: readonly number[];
  readonly primaries: readonly (readonly number[])[];
  readonly spread: SpreadName;
}

interface TransferName {
  readonly what: string;
  readonly layer: number;
  readonly stamp: Stamp;
}

/** Replicas on their way to this rank, one layer after another. */
export class ReplicaTransfers {
  readonly #settings: TransferSettings;
  readonly #started = new Map<string, Promise<void>>();
  #last: Promise<void> = Promise.resolve();

  constructor(settings: TransferSettings) {
    this.#settings = settings;
  }

  /** Begins to bring a layer's replicas, behind those before; `what` names the frames, and once is enough. */
  start(what: string, layer: number, hosts: readonly (readonly number[])[], stamp: Stamp): void {
    const key = `${what} ${layer}`;
    if (this.#started.has(key)) return;
    this.#last = this.#last.then(() => this.#bring({ what, layer, stamp }, hosts));
    this.#last.catch(() => {}); // whoever awaits it gets the error; until then nobody may be there
    this.#started.set(key, this.#last);
  }

  async arrived(what: string, layer: number): Promise<void> {
    await this.#started.get(`${what} ${layer}`);
  }

  /** Done once nothing is under way: a step that is given up leaves nobody waiting for its frames. */
  async settled(): Promise<void> {
    await this.#last;
  }

  async #bring({ what, layer, stamp }: TransferName, hosts: readonly (readonly number[])[]): Promise<void> {
    const { transport, memory, shape, node, spread } = this.#settings;
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
      placement: { primaries: primaries, hosts: chunkHosts(hosts, primaries, slices), node },
      spread,
      memory: (chunk) => chunkIn(memory.parameters(layer, expertOf(chunk, slices)), chunk, slices),
    });
  }
}

export interface ReplicaOptions {
  readonly transfers: ReplicaTransfers;
  readonly memory: RankMemory;
  /** Hosts are chosen after the gate, and `place` says them. */
  readonly late: boolean;
  /** Replicas are dropped after forward, and come again for backward. */
  readonly again: boolean;
  /** Replicas stay for the accumulation steps that follow. */
  readonly stays: boolean;
  /** hosts[layer][expert] */
  readonly hosts: readonly (readonly (readonly number[])[])[];
  /** The stamp of a layer's frames, which follow from its hosts. */
  stampOf(layer: number, hosts: readonly (readonly number[])[]): Stamp;
}

/** The replicas that one accumulation step has in each layer. */
export class ExpertReplicas {
  readonly #options: ReplicaOptions;
  /** hosts[layer][expert] as the step has them by now. */
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

  /** Takes the hosts of a layer that were chosen by its own counts. */
  place(layer: number, hosts: readonly (readonly number[])[]): void {
    this.hosts[layer] = hosts;
    this.#start("copies", layer);
  }

  /** Done once a layer's experts are in memory for forward. */
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
