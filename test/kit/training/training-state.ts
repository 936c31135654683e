// The state of a step in arrays that are laid out as the layout says, for tests that look at each unit of it.
import { kindsOf, type Layout } from "../../../runtime/train/model/layout.ts";
import type { Shape, StateUnit } from "../../../runtime/train/ranks/model-shape.ts";
import type { RankStores } from "../../../runtime/train/ranks/rank-stores.ts";

/** What AdamW has of each unit. */
export const stateFields = ["p", "m", "v"] as const;

export interface WholeState {
  readonly step: number;
  readonly state: Readonly<Record<(typeof stateFields)[number], Float32Array>>;
}

interface Laid {
  readonly shape: Shape;
  readonly layout: Layout;
}

/** A unit's floats in such an array. */
export function floatsIn(array: Float32Array, unit: StateUnit, { shape, layout }: Laid): Float32Array {
  if (unit.expert !== undefined) {
    const { from, to } = layout.parts[unit.layer + 1]!.units[unit.expert + 1]!;
    return array.subarray(from, to);
  }
  const part = shape.dense.findIndex(({ from, to }) => from <= unit.from && unit.from < to);
  const from = kindsOf(layout).dense[part]!.from + unit.from - shape.dense[part]!.from;
  return array.subarray(from, from + unit.to - unit.from);
}

/** Fills all that has room for it. */
export async function fillStores(stores: RankStores, units: readonly StateUnit[], { state }: WholeState, laid: Laid): Promise<void> {
  for (const store of stores.all)
    for (const unit of units)
      for (const field of store.holds(unit) ? stateFields : []) await store.put(unit, field, floatsIn(state[field], unit, laid));
}
