// The grid of experts: flat arrays with a row of `experts` cells per layer; unused cells at the end of a row are zero.

export interface ExpertGrid {
  readonly layers: number;
  readonly experts: number;
  /** Experts of each layer, 0 for a dense one. Unset: every layer has `experts`. */
  readonly layerExperts?: readonly number[] | undefined;
}

export function gridOf(counts: readonly number[]): ExpertGrid {
  const experts = counts.reduce((most, count) => Math.max(most, count), 0);
  const layers = counts.length;
  return counts.every((count) => count === experts) ? { layers, experts } : { layers, experts, layerExperts: counts };
}

/** Experts of a layer; 0 for a layer that does not exist. */
export function expertsIn(grid: ExpertGrid, layer: number): number {
  if (layer < 0 || layer >= grid.layers) return 0;
  return grid.layerExperts?.[layer] ?? grid.experts;
}

export function expertCount(grid: ExpertGrid): number {
  return grid.layerExperts?.reduce((sum, count) => sum + count, 0) ?? grid.layers * grid.experts;
}

export function cellValues(grid: ExpertGrid, of: (layer: number, expert: number) => number): number[] {
  const cell = (layer: number, expert: number) => (expert < expertsIn(grid, layer) ? of(layer, expert) : 0);
  return Array.from({ length: grid.layers * grid.experts }, (_, i) => cell(Math.floor(i / grid.experts), i % grid.experts));
}

/** A text for people: "61 layers of 256 experts", "61 layers of 0 to 256 experts". */
export function describeGrid(grid: ExpertGrid): string {
  const least = grid.layerExperts?.reduce((a, b) => Math.min(a, b), grid.experts) ?? grid.experts;
  return `${grid.layers} layers of ${least === grid.experts ? "" : `${least} to `}${grid.experts} experts`;
}
