// Tensors that a part of a model reads and an earlier part owns, as with a tied head. Their gradients are summed apart and added to
// their owner's.
import type { ModelProgram } from "../../kernels/segment.ts";
import type { Unit } from "../model/layout.ts";

export interface Borrowed {
  /** The part that reads them; 0 is the embedding. */
  readonly part: number;
  readonly unit: Unit;
}

/** `dense`: the dense units of embedding, layers and head. */
export function borrowedBy({ embed, layers, head }: Pick<ModelProgram, "embed" | "layers" | "head">, dense: readonly Unit[]): Borrowed[] {
  const segments = [embed, ...layers.map(({ block }) => block), head];
  return segments.flatMap(({ weights }, part) =>
    dense.slice(0, part).flatMap((owner): Borrowed[] => {
      const parameters = owner.parameters.filter(({ name }) => weights.some((weight) => weight.name === name));
      const [first, last] = [parameters[0], parameters.at(-1)];
      if (first === undefined || last === undefined) return [];
      return [{ part, unit: { expert: undefined, from: first.from, to: last.to, parameters } }];
    }),
  );
}

export function borrowedFloats(program: Pick<ModelProgram, "embed" | "layers" | "head">, dense: readonly Unit[]): number {
  return borrowedBy(program, dense).reduce((sum, { unit }) => sum + unit.to - unit.from, 0);
}
