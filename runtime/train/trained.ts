// What a run trains and what it ends in: a model's own parameters, or adapters beside parameters that stay, which end merged into a
// plain model. Checkpoints and optimizers see what is trained alone.
import type { WeightViews } from "../compute/training.ts";
import { checkProgram } from "../kernels/check-program.ts";
import { gaussian } from "../kernels/random.ts";
import type { ModelProgram } from "../kernels/segment.ts";
import { architectureOf } from "../models/family.ts";
import type { Adapted, AdapterSetting, Merged } from "./adapters/adapter.ts";
import { adaptersOf } from "./adapters/index.ts";
import { type Layout, layoutOf, unitsOf, viewsByTensor } from "./layout.ts";
import type { ModelSource } from "./source.ts";
import { type Start, seedOf } from "./start.ts";

/** Parameters of a run: those that are trained, as its layout has them, and frozen ones by tensor. */
export interface Values {
  readonly parameters: Float32Array;
  readonly frozen: WeightViews;
}

export interface TrainedModel {
  readonly program: ModelProgram;
  readonly layout: Layout;
  /** Floats that are read and not trained. */
  readonly frozenFloats: number;
  /** The model that a run ends in. */
  readonly result: ModelSource;
  /** What to write beside the result; undefined where it is all. */
  readonly description: Adapted["description"] | undefined;
  /** Parameters that stay as they are, by tensor. */
  frozen(start: Start): Promise<WeightViews>;
  /** Fills the array of parameters that are trained. */
  fill(start: Start, p: Float32Array): Promise<void>;
  /** A tensor of the result. */
  tensor(name: string, values: Values): Float32Array;
}

export function trainedModel(source: ModelSource, { adapters, seed }: { adapters?: AdapterSetting | undefined; seed: number }): TrainedModel {
  return adapters === undefined ? whole(source) : beside(source, adapters, seed);
}

function whole(source: ModelSource): TrainedModel {
  const layout = layoutOf(source.program, source.family.expertTensors);
  const places = placesOf(layout);
  return {
    program: source.program,
    layout,
    frozenFloats: 0,
    result: source,
    description: undefined,
    frozen: async () => ({}),
    fill: (start, p) => start.fill(layout, p),
    tensor: (name, { parameters }) => valuesAt(places, name, parameters) as Float32Array,
  };
}

function beside(source: ModelSource, setting: AdapterSetting, seed: number): TrainedModel {
  const base = layoutOf(source.program, source.family.expertTensors);
  const adapted = adaptersOf(setting).attach({ config: source.config, architecture: architectureOf(source.config) }, setting);
  checkProgram(adapted.program);
  const layout = layoutOf(adapted.program, adapted.expertTensors);
  const { config, family, description } = adapted;
  const places = placesOf(layout);
  return {
    program: adapted.program,
    layout,
    frozenFloats: base.floats,
    result: { ...source, config, family, program: family.program(config) },
    description,
    async frozen(start) {
      const values = new Float32Array(base.floats);
      await start.fill(base, values);
      return viewsByTensor(values, base);
    },
    async fill(_start, p) {
      for (const { tensor, shape, from, size } of unitsOf(layout).flatMap(({ parameters }) => parameters))
        p.set(gaussian(seedOf(seed, tensor), size, adapted.deviation(tensor, shape)), from);
    },
    tensor: (name, { parameters, frozen }) =>
      mergedValues(adapted.merged(name), (tensor) => valuesAt(places, tensor, parameters) ?? (frozen[tensor] as Float32Array)),
  };
}

type Places = ReadonlyMap<string, { readonly from: number; readonly size: number }>;

const placesOf = (layout: Layout): Places =>
  new Map(unitsOf(layout).flatMap(({ parameters }) => parameters.map((parameter) => [parameter.tensor, parameter])));

function valuesAt(places: Places, tensor: string, array: Float32Array): Float32Array | undefined {
  const place = places.get(tensor);
  return place && array.subarray(place.from, place.from + place.size);
}

/** W, or W + B A with sums in f64: W [rows, columns], B [rows, rank], A [rank, columns]. */
function mergedValues({ tensor, product }: Merged, read: (tensor: string) => Float32Array): Float32Array {
  const values = read(tensor);
  if (product === undefined) return values;
  const [left, right] = [read(product.left), read(product.right)];
  // left.length x right.length is rows x columns x rank x rank.
  const rank = Math.sqrt((left.length * right.length) / values.length);
  const columns = right.length / rank;
  const row = new Float64Array(columns);
  const found = new Float32Array(values.length);
  for (let i = 0, at = 0; at < values.length; i++, at += columns) {
    row.set(values.subarray(at, at + columns));
    for (let r = 0; r < rank; r++) {
      const factor = left[i * rank + r] as number;
      for (let j = 0; j < columns; j++) row[j] = (row[j] as number) + factor * (right[r * columns + j] as number);
    }
    found.set(row, at);
  }
  return found;
}
