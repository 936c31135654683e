// The grid of experts: rows of `experts` cells, one a layer, in flat arrays. In a layer with fewer experts the last cells of its row stay
// zero. Pure.

export interface ExpertGrid {
  readonly layers: number;
  /** Experts of a layer; where layers differ, of the one with most. */
  readonly experts: number;
  /** Experts of each layer, 0 for a dense one. Unset: every layer has `experts`. */
  readonly layerExperts?: readonly number[] | undefined;
}

/** The grid of layers with so many experts each; those of one number are told by it alone. */
export function gridOf(counts: readonly number[]): ExpertGrid {
  const experts = counts.reduce((most, count) => Math.max(most, count), 0);
  const layers = counts.length;
  return counts.every((count) => count === experts) ? { layers, experts } : { layers, experts, layerExperts: counts };
}

/** Experts of a layer; 0 for one that there is not. */
export function expertsIn(grid: ExpertGrid, layer: number): number {
  if (layer < 0 || layer >= grid.layers) return 0;
  return grid.layerExperts?.[layer] ?? grid.experts;
}

/** Experts of all layers. */
export function expertCount(grid: ExpertGrid): number {
  return grid.layerExperts?.reduce((sum, count) => sum + count, 0) ?? grid.layers * grid.experts;
}

/** One value for each cell, 0 where a layer has no such expert. */
export function cellValues(grid: ExpertGrid, of: (layer: number, expert: number) => number): number[] {
  const cell = (layer: number, expert: number) => (expert < expertsIn(grid, layer) ? of(layer, expert) : 0);
  return Array.from({ length: grid.layers * grid.experts }, (_, i) => cell(Math.floor(i / grid.experts), i % grid.experts));
}

/** "61 layers of 256 experts", "61 layers of 0 to 256 experts": for people. */
export function describeGrid(grid: ExpertGrid): string {
  const least = grid.layerExperts?.reduce((a, b) => Math.min(a, b), grid.experts) ?? grid.experts;
  return `${grid.layers} layers of ${least === grid.experts ? "" : `${least} to `}${grid.experts} experts`;
}
