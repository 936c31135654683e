// Layers as training runs them: a lane's rows forward, what is kept of them, and backward, which computes the rest again. Rows of an
// expert are those of a lane, in token order; outputs and gradients are added in the order of a token's gates, as serving adds them.
import type { TrainableExpert, TrainableSegment, WeightViews } from "../compute/training.ts";
import { floats, type Gradients, ints, type Values } from "../kernels/kernel.ts";
import type { MoeLayer, Tensor } from "../kernels/segment.ts";

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

export class DenseLayerPass implements LayerPass {
  readonly #block: TrainableSegment;
  readonly #dense: UnitViews;
  readonly #hidden: number;

  constructor(block: TrainableSegment, [dense]: readonly UnitViews[], hidden: number) {
    this.#block = block;
    this.#dense = dense as UnitViews;
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

const rowsOf = (data: Float32Array, width: number): Tensor => ({ shape: [data.length / width, width], data });

/** Rows of a lane that one expert has: places k of a token in the lists of ids and gates. */
function placesByExpert(ids: Int32Array, experts: number): readonly number[][] {
  const places = Array.from({ length: experts }, (): number[] => []);
  for (const [place, id] of ids.entries()) places[id]?.push(place);
  return places;
}

export class MoeLayerPass implements LayerPass {
  readonly #block: TrainableSegment;
  readonly #expert: TrainableExpert;
  readonly #dense: UnitViews;
  readonly #experts: readonly UnitViews[];
  readonly #topK: number;
  readonly #hidden: number;
  #counts: number[];

  constructor(
    { block, expert }: { readonly block: TrainableSegment; readonly expert: TrainableExpert },
    [dense, ...experts]: readonly UnitViews[],
    layer: MoeLayer,
  ) {
    this.#block = block;
    this.#expert = expert;
    this.#dense = dense as UnitViews;
    this.#experts = experts;
    this.#topK = layer.topK;
    this.#hidden = layer.block.inputs[0]?.width ?? 1;
    this.#counts = experts.map(() => 0);
  }

  takeCounts(): readonly number[] {
    const counts = this.#counts;
    this.#counts = counts.map(() => 0);
    return counts;
  }

  /** The rows of tokens at these places. */
  #gathered(rows: Float32Array, places: readonly number[]): Float32Array {
    const width = this.#hidden;
    const gathered = new Float32Array(places.length * width);
    for (const [to, place] of places.entries()) {
      const from = Math.floor(place / this.#topK) * width;
      gathered.set(rows.subarray(from, from + width), to * width);
    }
    return gathered;
  }

  #scatter(rows: Float32Array, places: readonly number[], into: Float32Array): void {
    const width = this.#hidden;
    for (const [from, place] of places.entries()) into.set(rows.subarray(from * width, (from + 1) * width), place * width);
  }

  async forward(x: Float32Array) {
    const values = { x: rowsOf(x, this.#hidden) };
    const { h, ...written } = await this.#block.forward(values, this.#dense.weights);
    const kept = { ...values, ...written };
    const [f, gates] = [floats(written.f as Tensor), floats(written.gates as Tensor)];
    const outputs = new Float32Array(gates.length * this.#hidden);
    for (const [expert, places] of placesByExpert(ints(written.ids as Tensor), this.#experts.length).entries()) {
      this.#counts[expert] = (this.#counts[expert] as number) + places.length;
      if (places.length === 0) continue;
      const { weights } = this.#experts[expert] as UnitViews;
      this.#scatter(await this.#expert.forward(this.#gathered(f, places), weights), places, outputs);
    }
    const y = floats(h as Tensor);
    addPlaces(y, outputs, { topK: this.#topK, width: this.#hidden }, gates);
    return { y, kept };
  }

  async backward(kept: Kept, dy: Float32Array, beside: Gradients): Promise<Float32Array> {
    const [f, gates] = [floats(kept.f as Tensor), floats(kept.gates as Tensor)];
    const dRows = new Float32Array(gates.length * this.#hidden);
    const dGates = new Float32Array(gates.length);
    for (const [expert, places] of placesByExpert(ints(kept.ids as Tensor), this.#experts.length).entries()) {
      if (places.length === 0) continue;
      const found = await this.#expert.backward({
        x: this.#gathered(f, places),
        gates: Float32Array.from(places, (place) => gates[place] as number),
        dOut: this.#gathered(dy, places),
        ...(this.#experts[expert] as UnitViews),
      });
      this.#scatter(found.dx, places, dRows);
      for (const [i, place] of places.entries()) dGates[place] = found.dGates[i] as number;
    }
    const df = new Float32Array(f.length);
    addPlaces(df, dRows, { topK: this.#topK, width: this.#hidden });
    const outputs = { ...beside, h: dy, f: df, gates: dGates };
    return (await this.#block.backward({ values: kept, outputs, ...this.#dense })).x as Float32Array;
  }
}

/** Adds to each row those at its places, in their order, times their gates where there are some. */
function addPlaces(
  rows: Float32Array,
  places: Float32Array,
  { topK, width }: { readonly topK: number; readonly width: number },
  gates?: Float32Array,
): void {
  for (let place = 0; place * width < places.length; place++) {
    const gate = gates?.[place] ?? 1;
    let to = Math.floor(place / topK) * width;
    for (let from = place * width; from < (place + 1) * width; from++, to++)
      rows[to] = (rows[to] as number) + Math.fround(gate * (places[from] as number));
  }
}
