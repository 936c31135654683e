// The interface of evictions: which expert leaves first. A unit is a cell of the grid, layer x experts + expert.
import type { ExpertGrid } from "../../placement/grid.ts";

export interface Eviction {
  /** Rows use the unit. */
  use(unit: number): void;
  /** The resident unit with the lowest worth leaves first; of equal ones any may. `chance`: that the next pass of its layer uses it. */
  worth(unit: number, chance?: number): number;
}

interface EvictionOptions {
  readonly grid: ExpertGrid;
  /** All uses in order, which only a replay knows. */
  readonly uses?: Int32Array;
}

export interface EvictionKind {
  /** What people read of it. */
  readonly about: string;
  /** True if it needs `uses`. */
  readonly offline?: boolean;
  create(options: EvictionOptions): Eviction;
}
