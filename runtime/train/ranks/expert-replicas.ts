// Copies of one step on one rank: spAG of layers in their order, as far ahead as the setting lets them, and dropped when no longer needed.
import { gather, piecesOf } from "../../net/collectives/collectives.ts";
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { chunkHosts, chunkIn, expertOf } from "../../placement/training/chunks.ts";
import type { SpreadName } from "../../placement/training/collectives.ts";
import type { Shape } from "./model-shape.ts";
import type { RankMemory } from "./rank-memory.ts";

interface CopySettings {
  readonly transport: Transport;
  readonly memory: RankMemory;
  readonly shape: Shape;
  readonly node: readonly number[];
  readonly primaries: readonly (readonly number[])[];
  readonly spread: SpreadName;
}

interface CopyName {
  readonly what: string;
  readonly layer: number;
  readonly stamp: Stamp;
}

export class Copies {
  readonly #settings: CopySettings;
  readonly #coming = new Map<string, Promise<void>>();
  #last: Promise<void> = Promise.resolve();

  constructor(settings: CopySettings) {
    this.#settings = settings;
  }

  /** Begins to bring a layer's copies, behind those that came before it; `what` names the frames, and once is enough. */
  start(what: string, layer: number, hosts: readonly (readonly number[])[], stamp: Stamp): void {
    const key = `${what} ${layer}`;
    if (this.#coming.has(key)) return;
    this.#last = this.#last.then(() => this.#bring({ what, layer, stamp }, hosts));
    this.#last.catch(() => {}); // whoever awaits it is told; until then nobody may be there
    this.#coming.set(key, this.#last);
  }

  /** Done once the layer's copies are in memory. */
  async arrived(what: string, layer: number): Promise<void> {
    await this.#coming.get(`${what} ${layer}`);
  }

  /** Done once nothing is under way: a step that is given up leaves nobody waiting for its frames. */
  async settled(): Promise<void> {
    await this.#last;
  }

  async #bring({ what, layer, stamp }: CopyName, hosts: readonly (readonly number[])[]): Promise<void> {
    const { transport, memory, shape, node, spread } = this.#settings;
    const { slices } = shape;
    const primaries = this.#settings.primaries[layer] ?? [];
    for (const [expert, row] of hosts.entries())
      if (row.includes(transport.rank) && !memory.owns(layer, expert)) memory.addCopy(layer, expert);
    await gather({
      transport,
      stamp,
      layer,
      pieces: piecesOf((shape.experts[layer]?.[0]?.to ?? 0) / slices),
      what,
      placement: { primaries, hosts: chunkHosts(hosts, primaries, slices), node },
      spread,
      memory: (chunk) => chunkIn(memory.parameters(layer, expertOf(chunk, slices)), chunk, slices),
    });
  }
}
