// The stores of one rank in a world: what it owns, and what it shadows for another rank. A shadow gets the owner's complete gradients
// before either sends a norm, and makes the same update.
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { shadowsOf } from "../../placement/training/shadows.ts";
import { type AskedOptimizer, openState, sharedBy } from "../optimizers/open.ts";
import { ownedFloats, type Shape } from "./model-shape.ts";
import { RankMemory } from "./rank-memory.ts";
import { UnitState } from "./unit-state.ts";

export class RankStores {
  readonly memory: RankMemory;
  readonly shadow: UnitState | undefined;
  readonly #rank: number;
  readonly #shadows: readonly number[];
  readonly #coming: Promise<unknown>[] = [];

  private constructor(rank: number, shadows: readonly number[], memory: RankMemory, shadow: UnitState | undefined) {
    this.#rank = rank;
    this.#shadows = shadows;
    this.memory = memory;
    this.shadow = shadow;
  }

  /** `node` of each rank; without it nothing is shadowed. */
  static async open(
    asked: AskedOptimizer,
    shape: Shape,
    { rank, ranks }: Pick<Transport, "rank" | "ranks">,
    node: readonly number[] = [],
  ): Promise<RankStores> {
    const shadows = shadowsOf(node);
    const own = sharedBy(asked, shadows.length > 0 ? 2 : 1);
    const memory = new RankMemory(shape, rank, await openState(own, ownedFloats(shape, rank, ranks)));
    if (shadows.length === 0) return new RankStores(rank, shadows, memory, undefined);
    try {
      const shadowed = shadows.indexOf(rank);
      const shadow = new UnitState(shape, shadowed, await openState(own, ownedFloats(shape, shadowed, ranks)));
      return new RankStores(rank, shadows, memory, shadow);
    } catch (caught) {
      memory.close();
      throw caught;
    }
  }

  get all(): readonly UnitState[] {
    return this.shadow === undefined ? [this.memory] : [this.memory, this.shadow];
  }

  place(primaries: readonly (readonly number[])[]): void {
    this.memory.place(primaries, this.#rank);
    this.shadow?.place(primaries, this.shadowed);
  }

  keepDense(): void {
    for (const store of this.all) store.keepDense(this.memory.dense);
  }

  /** The rank that this one shadows; -1 for none. */
  get shadowed(): number {
    return this.#shadows.indexOf(this.#rank);
  }

  /** The ranks that hold the state of what a rank owns. */
  holders(primary: number): number[] {
    const shadow = this.#shadows[primary];
    return shadow === undefined ? [primary] : [primary, shadow];
  }

  of(primary: number): UnitState {
    return primary === this.#rank ? this.memory : (this.shadow as UnitState);
  }

  /**
   * Begins the exchange of a layer's complete gradients with the shadow and the shadowed rank; the dense part where no layer is given.
   * It runs beside the passes of other layers.
   */
  startGradients(transport: Transport, stamp: Stamp, { layer, primaries }: ShadowedLayer = { layer: -1, primaries: [] }): void {
    const { shadow } = this;
    if (shadow === undefined) return;
    const to = this.#shadows[this.#rank] as number;
    const name = (chunk: number) => ({ what: "shadow sums", layer, chunk, piece: 0 });
    const send = async (): Promise<void> => {
      for (const [chunk, g] of gradientsOf(this.memory, this.#rank, layer, primaries)) await transport.send(to, stamp, name(chunk), g);
    };
    const receive = async (): Promise<void> => {
      for (const [chunk, g] of gradientsOf(shadow, this.shadowed, layer, primaries))
        g.set((await transport.receive(this.shadowed, stamp, { ...name(chunk), length: g.length })) as Float32Array);
    };
    const both = Promise.all([send(), receive()]);
    both.catch(() => {}); // The failure reaches whoever awaits it; until then nobody may.
    this.#coming.push(both);
  }

  async gradientsArrived(): Promise<void> {
    await Promise.all(this.#coming.splice(0));
  }
}

interface ShadowedLayer {
  readonly layer: number;
  readonly primaries: readonly number[];
}

function gradientsOf(store: UnitState, primary: number, layer: number, primaries: readonly number[]): (readonly [number, Float32Array])[] {
  if (layer < 0) return [[0, store.ownDense("g")]];
  return primaries.flatMap((owner, chunk) => (owner === primary ? [[chunk, store.ownChunk(layer, chunk, "g")] as const] : []));
}
