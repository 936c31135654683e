// The stores of one rank in a world: what it owns, and what it shadows for another rank. A shadow gets the owner's gradients, complete,
// before either of them says a norm, and makes the same update, so it has the same bits.
import type { Stamp, Transport } from "../../net/collectives/transport.ts";
import { shadowsOf } from "../../placement/training/shadows.ts";
import { type AskedOptimizer, openState, sharedBy } from "../optimizers/open.ts";
import { ownedFloats, type Shape } from "./model-shape.ts";
import { RankMemory } from "./rank-memory.ts";
import { UnitState } from "./unit-state.ts";

export class RankStores {
  readonly memory: RankMemory;
  /** Undefined where nothing is shadowed. */
  readonly shadow: UnitState | undefined;
  readonly #rank: number;
  /** The rank that shadows each. */
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

  /** Makes room for units as they live with these primaries. */
  place(primaries: readonly (readonly number[])[]): void {
    this.memory.place(primaries, this.#rank);
    this.shadow?.place(primaries, this.shadowed);
  }

  /** Takes dense parameters for the state, once they were changed. */
  keepDense(): void {
    for (const store of this.all) store.keepDense(this.memory.dense);
  }

  /** The rank that this one shadows; -1 for none. */
  get shadowed(): number {
    return this.#shadows.indexOf(this.#rank);
  }

  /** Who holds the state of what a rank owns. */
  holders(primary: number): number[] {
    const shadow = this.#shadows[primary];
    return shadow === undefined ? [primary] : [primary, shadow];
  }

  /** The store of what that rank owns, here: this rank's own, or its shadow's. */
  of(primary: number): UnitState {
    return primary === this.#rank ? this.memory : (this.shadow as UnitState);
  }

  /**
   * Begins to bring what this rank shadows the gradients of a layer's experts, complete as the owner's are, and to send its own; of the
   * dense part where no layer is given. It goes on beside the passes of other layers.
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
    both.catch(() => {}); // whoever awaits it is told; until then nobody may be there
    this.#coming.push(both);
  }

  /** Done once all gradients that were begun are here. */
  async gradientsArrived(): Promise<void> {
    await Promise.all(this.#coming.splice(0));
  }
}

interface ShadowedLayer {
  readonly layer: number;
  /** Of its chunks. */
  readonly primaries: readonly number[];
}

/** What a rank owns of a layer, or of the dense part, in the store that has it. */
function gradientsOf(store: UnitState, primary: number, layer: number, primaries: readonly number[]): (readonly [number, Float32Array])[] {
  if (layer < 0) return [[0, store.ownDense("g")]];
  return primaries.flatMap((owner, chunk) => (owner === primary ? [[chunk, store.ownChunk(layer, chunk, "g")] as const] : []));
}
