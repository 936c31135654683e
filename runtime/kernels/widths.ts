// The width of every value of a segment, from its inputs, its weights and what its ops declare. Backends lay buffers out by it;
// nothing is computed here. Pure.
import { AppError } from "../../crds/common.ts";
import { kernelOf } from "./index.ts";
import type { Segment } from "./segment.ts";

/** Elements a row of each input and of everything written; integers [n] have 0. */
export function widthsOf(segment: Segment): Map<string, number> {
  const widths = new Map(segment.inputs.map(({ name, width }) => [name, width]));
  const shapes = new Map(segment.weights.map(({ name, shape }) => [name, shape]));
  const known = <T>(of: ReadonlyMap<string, T>, name: string): T => {
    const found = of.get(name);
    if (found === undefined) throw unknown(segment, name);
    return found;
  };
  const sizes = { width: (name: string) => known(widths, name), shape: (name: string) => known(shapes, name) };
  for (const op of segment.ops) {
    const kernel = kernelOf(op);
    for (const name of kernel.reads(op)) if (!widths.has(name) && !shapes.has(name)) throw unknown(segment, name);
    for (const { name, width } of kernel.outputs(op)) widths.set(name, width(sizes));
  }
  return widths;
}

function unknown(segment: Segment, name: string): AppError {
  return new AppError(`${segment.name}: ${name} is read before it is written`, { code: "InvalidProgram", operation: "reading a program" });
}
