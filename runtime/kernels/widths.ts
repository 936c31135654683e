// The type and width of every value of a segment, for checks of programs and buffers of backends.
import { AppError } from "../../crds/common.ts";
import { kernelOf } from "./index.ts";
import type { DType, Layer, Segment } from "./segment.ts";

interface ValueType {
  readonly dtype: DType;
  /** Elements per row; integers [n] have 0. */
  readonly width: number;
}

/** Every input and written value. */
export function valuesOf(segment: Segment): Map<string, ValueType> {
  const values = new Map<string, ValueType>(segment.inputs.map(({ name, dtype, width }) => [name, { dtype, width }]));
  const shapes = new Map(segment.weights.map(({ name, shape }) => [name, shape]));
  const known = <T>(of: ReadonlyMap<string, T>, name: string): T => {
    const found = of.get(name);
    if (found === undefined) throw unknown(segment, name);
    return found;
  };
  const sizes = { width: (name: string) => known(values, name).width, shape: (name: string) => known(shapes, name) };
  for (const op of segment.ops) {
    const kernel = kernelOf(op);
    for (const name of kernel.reads(op)) if (!values.has(name) && !shapes.has(name)) throw unknown(segment, name);
    for (const { name, dtype, width } of kernel.outputs(op)) values.set(name, { dtype, width: width(sizes) });
  }
  return values;
}

/** The row width of a layer's input. */
export function widthInto({ block }: Pick<Layer, "block">): number {
  return block.inputs[0]?.width ?? 0;
}

/** The row width of a layer's output. */
export function widthBehind({ block }: Pick<Layer, "block">): number {
  return block.outputs[0]?.width ?? 0;
}

/** True for a layer that adds all chosen experts to whole rows. */
export function isPlain(layer: Layer): boolean {
  if (layer.kind === "dense") return true;
  const width = layer.expert.inputs[0]?.width;
  return layer.free === undefined && widthInto(layer) === width && widthBehind(layer) === width;
}

export function widthsOf(segment: Segment): Map<string, number> {
  return new Map([...valuesOf(segment)].map(([name, { width }]) => [name, width]));
}

function unknown(segment: Segment, name: string): AppError {
  return new AppError(`${segment.name}: ${name} is read before it is written`, { code: "InvalidProgram", operation: "reading a program" });
}
