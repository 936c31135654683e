// The parameters of a model as ranges of one array: dense parts and experts are units, units of a layer lie together. Arrays of
// moments and gradients have the same ranges. Pure.
import type { ModelProgram, Segment } from "../kernels/segment.ts";

/** Floats of a piece: gradients of a dense unit are squared, and its parameters dealt to ranks, by whole pieces. */
const pieceFloats = 4096;
/** Floats that every parameter begins at a multiple of: a vector of the optimizer. */
const alignment = 4;

interface Parameter {
  /** The segment's name of it. */
  readonly name: string;
  /** Its name in a Hugging Face checkpoint. */
  readonly tensor: string;
  readonly shape: readonly number[];
  /** The range of its floats: `to` is past those that only fill. */
  readonly from: number;
  readonly to: number;
  readonly size: number;
  /** Weights of norms and biases are not pulled to zero. */
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
  /** "embed", "head", "layer-0003" */
  readonly name: string;
  readonly units: readonly Unit[];
}

export interface Layout {
  readonly parts: readonly Part[];
  /** Floats of an array. */
  readonly floats: number;
  /** Numbers that are trained. */
  readonly parameters: number;
}

/** The tensors of one expert in a checkpoint, as a family says. */
type ExpertTensors = (layer: number, expert: number) => Readonly<Record<string, string>>;

class Ranges {
  #at = 0;
  #parameters = 0;
  readonly #dense = new Set<string>();

  unit(weights: Segment["weights"], tensorOf: (name: string) => string, expert?: number): Unit {
    const from = this.#at;
    const parameters = weights.map(({ name, shape }): Parameter => {
      const size = shape.reduce((a, b) => a * b, 1);
      const begin = this.#at;
      this.#at += Math.ceil(size / alignment) * alignment;
      this.#parameters += size;
      return { name, tensor: tensorOf(name), shape, from: begin, to: this.#at, size, decays: shape.length > 1 };
    });
    return { expert, from, to: this.#at, parameters };
  }

  /** Tensors that no segment before read: a tied head has the embedding's. */
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
  const embed: Part = { name: "embed", units: [ranges.dense(program.embed)] };
  const layers = program.layers.map((layer, index): Part => {
    const units = [ranges.dense(layer.block)];
    for (let expert = 0; layer.kind === "moe" && expert < layer.experts; expert++) {
      const tensors = expertTensors(index, expert);
      units.push(ranges.unit(layer.expert.weights, (name) => tensors[name] ?? name, expert));
    }
    return { name: `layer-${String(index).padStart(4, "0")}`, units };
  });
  const head: Part = { name: "head", units: [ranges.dense(program.head)] };
  return ranges.layout([embed, ...layers, head]);
}

export function unitsOf({ parts }: Layout): readonly Unit[] {
  return parts.flatMap(({ units }) => units);
}

/** The same unit in an array where it begins at `from`. */
export function movedTo(unit: Unit, from: number): Unit {
  const by = from - unit.from;
  const parameters = unit.parameters.map((parameter) => ({ ...parameter, from: parameter.from + by, to: parameter.to + by }));
  return { expert: unit.expert, from, to: unit.to + by, parameters };
}

/** The range of a dense unit in pieces. */
export function piecesOf({ from, to }: Unit): { readonly from: number; readonly to: number }[] {
  const count = Math.ceil((to - from) / pieceFloats);
  return Array.from({ length: count }, (_, i) => ({ from: from + i * pieceFloats, to: Math.min(to, from + (i + 1) * pieceFloats) }));
}

/** Dense units of all parts, then experts: the order in which gradients are squared. */
export function kindsOf(layout: Layout): { readonly dense: readonly Unit[]; readonly experts: readonly Unit[] } {
  const units = unitsOf(layout);
  return { dense: units.filter(({ expert }) => expert === undefined), experts: units.filter(({ expert }) => expert !== undefined) };
}

/** Floats of the largest expert. */
export function expertFloatsOf(layout: Layout): number {
  return kindsOf(layout).experts.reduce((most, { from, to }) => Math.max(most, to - from), 0);
}

/** Views of an array by the segment's names. */
export function viewsOf(array: Float32Array, { parameters }: Unit): Readonly<Record<string, Float32Array>> {
  return Object.fromEntries(parameters.map(({ name, from, size }) => [name, array.subarray(from, from + size)]));
}
