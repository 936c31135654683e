// The model that a run trains and the one that it ends in: all parameters of a model, or adapters beside frozen parameters, which are
// merged at the end.
import type { WeightViews } from "../../compute/training.ts";
import { checkProgram } from "../../kernels/check-program.ts";
import { gaussian } from "../../kernels/random.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import type { ModelFamily } from "../../models/family.ts";
import { type Start, seedOf, type Wanted } from "./initial-weights.ts";
import { type Layout, layoutOf, movedTo, type Unit, viewsByTensor } from "./layout.ts";
import type { ModelSource } from "./model-source.ts";
import { type AdapterDescription, lastHeld, type Trained } from "./result-files.ts";

/** A tensor of the plain model: one of the base, plus the product of two trained ones where there is one. */
export interface Merged {
  readonly tensor: string;
  readonly product?: { readonly left: string; readonly right: string };
}

export interface Adapted {
  readonly program: ModelProgram;
  readonly expertTensors: ModelFamily["expertTensors"];
  /** The standard deviation of a trained tensor's initial values; 0 for zeros. */
  deviation(tensor: string, shape: readonly number[]): number;
  readonly config: Readonly<Record<string, unknown>>;
  readonly family: ModelFamily;
  merged(tensor: string): Merged;
  readonly description: AdapterDescription;
}

/** A model with replaced gates, which read one more frozen tensor. */
export interface Gated {
  readonly program: ModelProgram;
  readonly schedule: string;
  /** The tensor's values in a step, counted from 1. */
  numbersAt(step: number): readonly number[];
}

export interface TrainedModel {
  readonly program: ModelProgram;
  readonly layout: Layout;
  readonly frozenFloats: number;
  readonly result: ModelSource;
  readonly description: Adapted["description"] | undefined;
  /** Sets what depends on the step alone; call it before the step and before validation after it. */
  at(step: number): void;
  frozen(start: Start): Promise<WeightViews>;
  fill(start: Start, wanted: Wanted): Promise<void>;
  ended(parameters: Trained["parameters"], frozen: WeightViews): Trained;
}

const nothing = (): void => {};

/** `first`: the first step in which the gate takes part. */
export function gatedModel(source: ModelSource, { program, schedule, numbersAt }: Gated, first: number): TrainedModel {
  checkProgram(program);
  const numbers = Float32Array.from(numbersAt(first));
  return {
    ...wholeModel(source),
    program,
    layout: layoutOf(program, source.family.expertTensors),
    frozenFloats: numbers.length,
    frozen: async () => ({ [schedule]: numbers }),
    at: (step) => numbers.set(numbersAt(step)),
  };
}

export function wholeModel(source: ModelSource): TrainedModel {
  const layout = layoutOf(source.program, source.family.expertTensors);
  return {
    program: source.program,
    layout,
    frozenFloats: 0,
    result: source,
    description: undefined,
    at: nothing,
    frozen: async () => ({}),
    fill: (start, wanted) => start.fill(layout, wanted),
    ended: (parameters) => ({ source, layout, parameters }),
  };
}

export function adaptedModel(source: ModelSource, adapted: Adapted, seed: number): TrainedModel {
  const base = layoutOf(source.program, source.family.expertTensors);
  checkProgram(adapted.program);
  const layout = layoutOf(adapted.program, adapted.expertTensors);
  const { config, family, description } = adapted;
  const result = { ...source, config, family, program: family.program(config) };
  return {
    program: adapted.program,
    layout,
    frozenFloats: base.floats,
    result,
    description,
    at: nothing,
    async frozen(start) {
      const values = new Float32Array(base.floats);
      await start.fill(base, (part, index) => {
        const unit = base.parts[part]?.units[index];
        return unit && values.subarray(unit.from, unit.to);
      });
      return viewsByTensor(values, base);
    },
    async fill(_start, wanted) {
      for (const { part, index, unit } of unitsAt(layout)) {
        const p = wanted(part, index);
        for (const { tensor, shape, from, size } of unit.parameters)
          p?.set(gaussian(seedOf(seed, tensor), size, adapted.deviation(tensor, shape)), from);
      }
    },
    ended: (parameters, frozen) => mergedModel(result, adapted, trainedReader(layout, parameters, frozen)),
  };
}

function unitsAt({ parts }: Layout): readonly { readonly part: number; readonly index: number; readonly unit: Unit }[] {
  return parts.flatMap(({ units }, part) => units.map((unit, index) => ({ part, index, unit: movedTo(unit, 0) })));
}

type ReadTensor = (tensor: string) => Promise<Float32Array>;

function trainedReader(layout: Layout, parameters: Trained["parameters"], frozen: WeightViews): ReadTensor {
  const places = new Map(unitsAt(layout).flatMap((at) => at.unit.parameters.map((own) => [own.tensor, { ...at, ...own }] as const)));
  const held = lastHeld(parameters);
  return async (tensor) => {
    const place = places.get(tensor);
    if (place === undefined) return frozen[tensor] as Float32Array;
    return (await held(place.part, place.index)).subarray(place.from, place.from + place.size);
  };
}

function mergedModel(source: ModelSource, { merged }: Adapted, read: ReadTensor): Trained {
  const layout = layoutOf(source.program, source.family.expertTensors);
  return {
    source,
    layout,
    async parameters(part, index) {
      const unit = movedTo(layout.parts[part]?.units[index] as Unit, 0);
      const values = new Float32Array(unit.to);
      for (const { tensor, from } of unit.parameters) values.set(await mergedValues(merged(tensor), read), from);
      return values;
    },
  };
}

/** W, or W + B A with sums in f64: W [rows, columns], B [rows, rank], A [rank, columns]. */
async function mergedValues({ tensor, product }: Merged, read: ReadTensor): Promise<Float32Array> {
  const values = await read(tensor);
  if (product === undefined) return values;
  const [left, right] = [await read(product.left), await read(product.right)];
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
