// Layers as training runs them: a lane's rows forward, what is kept of them, and backward, which computes the rest again. Rows of an
// expert are those of a lane, in token order; outputs and gradients are added in the order of a token's gates, as serving adds them.
import { addAll } from "../comm/collectives.ts";
import type { TrainableExpert, TrainableSegment, WeightViews } from "../compute/training.ts";
import { floats, type Gradients, ints, type Values } from "../kernels/kernel.ts";
import type { MoeLayer, Tensor } from "../kernels/segment.ts";
import { widthBehind, widthInto } from "../kernels/widths.ts";
import { addPlaces, gathered, type PlaceShape, placesByExpert, scatter } from "./rows.ts";

/** What backward is given of a lane. */
export type Kept = Values;

export interface LayerPass {
  forward(x: Float32Array): Promise<{ readonly y: Float32Array; readonly kept: Kept }>;
  /** `beside`: gradients of values that were kept, by name, which other losses than the last layer's give. */
  backward(kept: Kept, dy: Float32Array, beside: Gradients): Promise<Float32Array>;
  /** Rows that each expert had since the counts were taken last; empty for a layer without experts. */
  takeCounts(): readonly number[];
}

interface UnitViews {
  readonly weights: WeightViews;
  readonly sums: WeightViews;
}

/** Backward adds a lane's gradient to the scratch array, zero before: in place, products of many rows would have other bits. */
interface ExpertViews extends UnitViews {
  readonly scratch: Float32Array;
  /** Where the gradients of lanes are added. */
  readonly gradient: Float32Array;
}

export class DenseLayerPass implements LayerPass {
  readonly #block: TrainableSegment;
  readonly #dense: UnitViews;
  readonly #hidden: number;

  constructor(block: TrainableSegment, dense: UnitViews, hidden: number) {
    this.#block = block;
    this.#dense = dense;
    this.#hidden = hidden;
  }

  async forward(x: Float32Array) {
    const values = { x: rowsOf(x, this.#hidden) };
    const written = await this.#block.forward(values, this.#dense.weights);
    return { y: floats(written.y as Tensor), kept: values };
  }

  async backward(kept: Kept, dy: Float32Array): Promise<Float32Array> {
    return (await this.#block.backward({ values: kept, outputs: { y: dy }, ...this.#dense })).x as Float32Array;
  }

  takeCounts(): readonly number[] {
    return [];
  }
}

export const rowsOf = (data: Float32Array, width: number): Tensor => ({ shape: [data.length / width, width], data });

export class MoeLayerPass implements LayerPass {
  readonly #block: TrainableSegment;
  readonly #expert: TrainableExpert;
  readonly #dense: UnitViews;
  readonly #experts: readonly ExpertViews[];
  readonly #shape: PlaceShape;
  /** Widths of the rows that it is given and that it passes on. */
  readonly #into: number;
  readonly #behind: number;
  #counts: number[];

  constructor(
    { block, expert }: { readonly block: TrainableSegment; readonly expert: TrainableExpert },
    { dense, experts }: { readonly dense: UnitViews; readonly experts: readonly ExpertViews[] },
    layer: MoeLayer,
  ) {
    this.#block = block;
    this.#expert = expert;
    this.#dense = dense;
    this.#experts = experts;
    this.#shape = { topK: layer.topK, width: layer.expert.inputs[0]?.width ?? 1 };
    this.#into = widthInto(layer);
    this.#behind = widthBehind(layer);
    this.#counts = experts.map(() => 0);
  }

  takeCounts(): readonly number[] {
    const counts = this.#counts;
    this.#counts = counts.map(() => 0);
    return counts;
  }

  async forward(x: Float32Array) {
    const values = { x: rowsOf(x, this.#into) };
    const { h, ...written } = await this.#block.forward(values, this.#dense.weights);
    const kept = { ...values, ...written };
    const [f, gates] = [floats(written.f as Tensor), floats(written.gates as Tensor)];
    const outputs = new Float32Array(gates.length * this.#shape.width);
    for (const [expert, places] of placesByExpert(ints(written.ids as Tensor), this.#experts.length).entries()) {
      this.#counts[expert] = (this.#counts[expert] as number) + places.length;
      if (places.length === 0) continue;
      const { weights } = this.#experts[expert] as ExpertViews;
      scatter(await this.#expert.forward(gathered(f, places, this.#shape), weights), places, this.#shape.width, outputs);
    }
    const y = floats(h as Tensor);
    addPlaces(y, outputs, this.#shape, gates);
    return { y, kept };
  }

  async backward(kept: Kept, dy: Float32Array, beside: Gradients): Promise<Float32Array> {
    const [f, gates] = [floats(kept.f as Tensor), floats(kept.gates as Tensor)];
    const dRows = new Float32Array(gates.length * this.#shape.width);
    const dGates = new Float32Array(gates.length);
    for (const [expert, places] of placesByExpert(ints(kept.ids as Tensor), this.#experts.length).entries()) {
      if (places.length === 0) continue;
      const { weights, sums, scratch, gradient } = this.#experts[expert] as ExpertViews;
      const found = await this.#expert.backward({
        x: gathered(f, places, this.#shape),
        gates: Float32Array.from(places, (place) => gates[place] as number),
        dOut: gathered(dy, places, this.#shape, this.#behind),
        weights,
        sums,
      });
      addAll(gradient, [scratch]);
      scratch.fill(0);
      scatter(found.dx, places, this.#shape.width, dRows);
      for (const [i, place] of places.entries()) dGates[place] = found.dGates[i] as number;
    }
    const df = new Float32Array(f.length);
    addPlaces(df, dRows, this.#shape);
    const outputs = { ...beside, h: dy, f: df, gates: dGates };
    return (await this.#block.backward({ values: kept, outputs, ...this.#dense })).x as Float32Array;
  }
}
