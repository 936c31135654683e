// The parameters of a model as ranges of one array. Dense parts and experts are units, and units of a layer are adjacent; moments and
// gradients have the same ranges.
import type { WeightViews } from "../../compute/training.ts";
import type { ModelProgram, Segment } from "../../kernels/segment.ts";

/** Floats of a piece, the grain for squaring gradients and dealing dense parameters to ranks. */
const pieceFloats = 4096;
const alignment = 4;

interface Parameter {
  readonly name: string;
  /** Its name in a Hugging Face checkpoint. */
  readonly tensor: string;
  readonly shape: readonly number[];
  /** `to` includes the padding. */
  readonly from: number;
  readonly to: number;
  readonly size: number;
  /** False for norms and biases, which get no weight decay. */
  readonly decays: boolean;
}

/** What is stored, moved and summed as one. */
export interface Unit {
  readonly expert: number | undefined;
  readonly from: number;
  readonly to: number;
  readonly parameters: readonly Parameter[];
}

/** Embedding, head, or a layer: its dense unit, then its experts. */
interface Part {
  readonly name: string;
  readonly units: readonly Unit[];
  /** The tensors of frozen weights, by the segment's names; they are in no unit. */
  readonly frozen: Readonly<Record<string, string>>;
  readonly expertFrozen: Readonly<Record<string, string>>;
}

export interface Layout {
  readonly parts: readonly Part[];
  readonly floats: number;
  readonly parameters: number;
}

type ExpertTensors = (layer: number, expert: number) => Readonly<Record<string, string>>;

class Ranges {
  #at = 0;
  #parameters = 0;
  readonly #dense = new Set<string>();

  unit(weights: Segment["weights"], tensorOf: (name: string) => string, expert?: number): Unit {
    const from = this.#at;
    const trained = weights.filter(({ frozen }) => !frozen);
    const parameters = trained.map(({ name, shape }): Parameter => {
      const size = shape.reduce((a, b) => a * b, 1);
      const begin = this.#at;
      this.#at += Math.ceil(size / alignment) * alignment;
      this.#parameters += size;
      return { name, tensor: tensorOf(name), shape, from: begin, to: this.#at, size, decays: shape.length > 1 };
    });
    return { expert, from, to: this.#at, parameters };
  }

  /** Skips tensors of earlier segments: a tied head uses the embedding's. */
  dense({ weights }: Segment): Unit {
    const fresh = weights.filter(({ name }) => !this.#dense.has(name));
    for (const { name } of fresh) this.#dense.add(name);
    return this.unit(fresh, (name) => name);
  }

  layout(parts: readonly Part[]): Layout {
    return { parts, floats: this.#at, parameters: this.#parameters };
  }
}

export function layoutOf(program: ModelProgram, expertTensors: ExpertTensors): Layout {
  const ranges = new Ranges();
  const plain = (name: string): string => name;
  const embed: Part = { name: "embed", units: [ranges.dense(program.embed)], frozen: frozenIn(program.embed, plain), expertFrozen: {} };
  const layers = program.layers.map((layer, index): Part => {
    const units = [ranges.dense(layer.block)];
    let expertFrozen = {};
    for (let expert = 0; layer.kind === "moe" && expert < layer.experts; expert++) {
      const tensors = expertTensors(index, expert);
      const tensorOf = (name: string): string => tensors[name] ?? name;
      units.push(ranges.unit(layer.expert.weights, tensorOf, expert));
      if (expert === 0) expertFrozen = frozenIn(layer.expert, tensorOf);
    }
    return { name: `layer-${String(index).padStart(4, "0")}`, units, frozen: frozenIn(layer.block, plain), expertFrozen };
  });
  const head: Part = { name: "head", units: [ranges.dense(program.head)], frozen: frozenIn(program.head, plain), expertFrozen: {} };
  return ranges.layout([embed, ...layers, head]);
}

function frozenIn({ weights }: Segment, tensorOf: (name: string) => string): Readonly<Record<string, string>> {
  return Object.fromEntries(weights.filter(({ frozen }) => frozen).map(({ name }) => [name, tensorOf(name)]));
}

export function frozenViews(tensors: WeightViews, frozen: Part["frozen"]): WeightViews {
  return Object.fromEntries(
    Object.entries(frozen).map(([name, tensor]) => {
      const values = tensors[tensor];
      if (values === undefined) throw new TypeError(`frozen tensor ${tensor} is not there`);
      return [name, values];
    }),
  );
}

export function unitsOf({ parts }: Layout): readonly Unit[] {
  return parts.flatMap(({ units }) => units);
}

export function movedTo(unit: Unit, from: number): Unit {
  const by = from - unit.from;
  const parameters = unit.parameters.map((parameter) => ({ ...parameter, from: parameter.from + by, to: parameter.to + by }));
  return { expert: unit.expert, from, to: unit.to + by, parameters };
}

export function piecesOf({ from, to }: Unit): { readonly from: number; readonly to: number }[] {
  const count = Math.ceil((to - from) / pieceFloats);
  return Array.from({ length: count }, (_, i) => ({ from: from + i * pieceFloats, to: Math.min(to, from + (i + 1) * pieceFloats) }));
}

/** Dense units of all parts, then experts: the order in which gradients are squared. */
export function kindsOf(layout: Layout): { readonly dense: readonly Unit[]; readonly experts: readonly Unit[] } {
  const units = unitsOf(layout);
  return { dense: units.filter(({ expert }) => expert === undefined), experts: units.filter(({ expert }) => expert !== undefined) };
}

export function expertFloatsOf(layout: Layout): number {
  return kindsOf(layout).experts.reduce((most, { from, to }) => Math.max(most, to - from), 0);
}

export function viewsOf(array: Float32Array, { parameters }: Unit): Readonly<Record<string, Float32Array>> {
  return Object.fromEntries(parameters.map(({ name, from, size }) => [name, array.subarray(from, from + size)]));
}

export function viewsByTensor(array: Float32Array, layout: Layout): WeightViews {
  const parameters = unitsOf(layout).flatMap((unit) => unit.parameters);
  return Object.fromEntries(parameters.map(({ tensor, from, size }) => [tensor, array.subarray(from, from + size)]));
}
