// A wave: lanes of all ranks that pass forward and backward together. It knows who holds which expert meanwhile, brings copies in time for
// each layer and drops them behind it, deals rows to hosts, and says when to stop.
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { type Blocks, dealBlocks } from "../../placement/training/blocks.ts";
import type { Interval } from "../../placement/training/lanes.ts";
import { type LayerLoads, loadsOf } from "../../placement/training/spread.ts";
import type { Copies } from "./expert-replicas.ts";
import type { RankMemory } from "./rank-memory.ts";
import type { Fssdp, Planning, RankFacts } from "./step-plan.ts";

/** What ends passes between two of their parts, once the run is to stop. */
export class PassStopped extends Error {}

export interface WaveOptions {
  readonly transport: Transport;
  readonly stamp: Stamp;
  readonly facts: RankFacts;
  readonly fssdp: Fssdp;
  readonly planning: Planning;
  readonly memory: RankMemory;
  readonly copies: Copies;
  /** Lanes of each rank, counted from the wave's first. */
  readonly intervals: readonly Interval[];
  /** The wave's first lane in the step. */
  readonly first: number;
  /** Primaries have sums of waves before. */
  readonly carried: boolean;
  /** Copies are left for the waves that follow. */
  readonly leaves: boolean;
  /** hosts[layer][expert]; planners that wait for counts fill it in. */
  readonly hosts: number[][][];
  stopped(): boolean;
  /** A layer's gradients are complete at their primaries; none are before the last wave. */
  readonly complete: ((layer: number) => void) | undefined;
  /** The stamp of frames that follow from hosts that were chosen late. */
  lateStamp(layer: number, hosts: readonly (readonly number[])[]): Stamp;
}

/** Who computes a layer's rows, and the stamp of the frames that follow from it. */
export interface Dealt {
  readonly blocks: Blocks;
  readonly stamp: Stamp;
}

export class Wave {
  readonly #options: WaveOptions;
  readonly #again: boolean;
  /** hosts[layer][expert] that the wave had. */
  readonly hosts: number[][][];
  /** Who computed the rows of each layer's experts; none of a layer that has none. */
  readonly blocks: Blocks[];
  /** Rows of ranks in each layer; undefined of one without experts. */
  readonly loads: (LayerLoads | undefined)[];
  #toPrimary: Promise<void> = Promise.resolve();

  constructor(options: WaveOptions) {
    this.#options = options;
    this.hosts = [...options.hosts];
    this.blocks = options.hosts.map(() => []);
    this.loads = options.hosts.map(() => undefined);
    this.#again = options.fssdp.rematerialize === "AfterForward";
  }

  get transport(): Transport {
    return this.#options.transport;
  }

  get stamp(): Stamp {
    return this.#options.stamp;
  }

  get intervals(): readonly Interval[] {
    return this.#options.intervals;
  }

  get carried(): boolean {
    return this.#options.carried;
  }

  get primaries(): readonly (readonly number[])[] {
    return this.#options.planning.primaries;
  }

  /** The lane, in the step, of this rank's own one of that place. */
  lane(own: number): number {
    return this.#options.first + this.#begin + own;
  }

  /** The place among this rank's own of a lane of the wave. */
  own(lane: number): number {
    return lane - this.#begin;
  }

  get #begin(): number {
    return this.intervals[this.transport.rank]?.from ?? 0;
  }

  /** Throws PassStopped where the run is to stop; only a rank without others may end by itself. */
  ask(): void {
    if (this.transport.ranks === 1 && this.#options.stopped()) this.stop();
  }

  /** Among ranks a stop is agreed on with a layer's counts. */
  wantsStop(): boolean {
    return this.transport.ranks > 1 && this.#options.stopped();
  }

  stop(): never {
    throw new PassStopped();
  }

  beforeForward(layer: number): void {
    const ahead = this.#again ? layer + 2 : this.hosts.length;
    for (let next = layer; !this.#options.planning.late && next < Math.min(ahead, this.hosts.length); next++) this.#bring("copies", next);
  }

  afterForward(layer: number): void {
    if (this.#again) this.#options.memory.dropCopies(layer);
  }

  /** Deals a layer's rows to hosts, once the experts' parameters are in their memory. */
  async deal(layer: number, rows: readonly Int32Array[]): Promise<Dealt> {
    const { planning, copies, fssdp, facts } = this.#options;
    if (planning.late) {
      this.hosts[layer] = planning.hostsAfter(layer, columnSums(rows));
      this.#bring("copies", layer);
    }
    await copies.arrived("copies", layer);
    const problem = { rows, hosts: this.hosts[layer] ?? [], intervals: this.intervals, speed: Float64Array.from(facts.speed) };
    const blocks = dealBlocks(fssdp.dispatch, problem);
    this.blocks[layer] = blocks;
    this.loads[layer] = loadsOf({ rows, blocks, primaries: this.primaries[layer] ?? [], ranks: facts.speed.length });
    return { blocks, stamp: this.#stampOf(layer) };
  }

  /** Has a layer's sums go to primaries behind what is computed next. Those of the layer before are there then: of two layers sums are held. */
  async sendToPrimaries(layer: number, reduce: () => Promise<void>): Promise<void> {
    await this.#toPrimary;
    this.#toPrimary = reduce().then(() => this.#options.complete?.(layer));
    this.#toPrimary.catch(() => {}); // whoever awaits it is told
  }

  /** Done once all sums are primary. */
  async allAtPrimaries(): Promise<void> {
    await this.#toPrimary;
  }

  async beforeBackward(layer: number): Promise<void> {
    for (let next = layer; this.#again && next >= Math.max(0, layer - 1); next--) this.#bring("copies again", next);
    await this.#options.copies.arrived("copies again", layer);
  }

  afterBackward(layer: number): void {
    if (!this.#options.leaves) this.#options.memory.dropCopies(layer);
  }

  #stampOf(layer: number): Stamp {
    const { planning, stamp, lateStamp } = this.#options;
    return planning.late ? lateStamp(layer, this.hosts[layer] ?? []) : stamp;
  }

  #bring(what: string, layer: number): void {
    this.#options.copies.start(what, layer, this.hosts[layer] ?? [], this.#stampOf(layer));
  }
}

export function columnSums(counts: readonly ArrayLike<number>[]): Float64Array {
  const sums = new Float64Array(counts[0]?.length ?? 0);
  for (const row of counts) for (let e = 0; e < sums.length; e++) sums[e] = (sums[e] as number) + (row[e] as number);
  return sums;
}
