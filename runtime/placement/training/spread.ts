// A layer's rows per rank, with and without expert replicas.
import { type Blocks, rowsOfRanks } from "./blocks.ts";

export interface LayerLoads {
  readonly atPrimaries: Float64Array;
  readonly computed: Float64Array;
}

interface LayerDeal {
  readonly rows: readonly ArrayLike<number>[];
  readonly primaries: readonly number[];
  readonly blocks: Blocks;
  readonly ranks: number;
}

export function loadsOf({ rows, primaries, blocks, ranks }: LayerDeal): LayerLoads {
  const atPrimaries = new Float64Array(ranks);
  for (const row of rows)
    for (const [expert, primary] of primaries.entries()) atPrimaries[primary] = (atPrimaries[primary] as number) + (row[expert] as number);
  return { atPrimaries, computed: rowsOfRanks(rows, blocks, ranks) };
}

export interface Spread {
  /** Rows of the busiest rank over the mean, in the worst layer, without and with replicas; 1 is even. */
  readonly imbalanceAtPrimaries: number;
  readonly imbalance: number;
  /** Lambda: the share of all experts that had replicas. */
  readonly copied: number;
}

/** `hosts[layer][expert]`; layers without experts have no hosts and no loads. */
export function spreadOf(loads: readonly (LayerLoads | undefined)[], hosts: readonly (readonly (readonly number[])[])[]): Spread {
  const rows = hosts.flat();
  const most = (of: keyof LayerLoads): number => loads.reduce((worst, layer) => Math.max(worst, overMean(layer?.[of])), 1);
  return {
    imbalanceAtPrimaries: most("atPrimaries"),
    imbalance: most("computed"),
    copied: rows.filter(({ length }) => length > 1).length / Math.max(1, rows.length),
  };
}

function overMean(values: Float64Array = new Float64Array()): number {
  const sum = values.reduce((a, b) => a + b, 0);
  return sum > 0 ? (Math.max(...values) * values.length) / sum : 1;
}

/** The shares of rows of the experts at these quantiles, from the idlest (0) to the busiest (1), in the least even layer. */
export function sharesAt(rows: readonly ArrayLike<number>[], places: readonly number[]): number[] {
  const layers = rows.map((layer) => Float64Array.from(layer).sort());
  const [first = new Float64Array(), ...others] = layers;
  const worst = others.reduce((most, layer) => (overMean(layer) > overMean(most) ? layer : most), first);
  const sum = worst.reduce((a, b) => a + b, 0);
  return places.map((place) => (worst[Math.round(place * (worst.length - 1))] ?? 0) / Math.max(1, sum));
}
