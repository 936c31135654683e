// A layer's rows on ranks: what each of them computed, beside what it would have without expert replicas. Pure.
import { type Blocks, rowsOfRanks } from "./blocks.ts";

/** Rows of each rank. */
export interface LayerLoads {
  /** Were each expert at its primary alone. */
  readonly atPrimaries: Float64Array;
  /** As hosts had them. */
  readonly computed: Float64Array;
}

interface LayerDeal {
  /** rows[lane][expert] */
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

/** How a step lay on ranks. */
export interface Spread {
  /** Rows of the busiest rank over the mean, in the layer where that is most, without expert replicas and with them; 1 is even. */
  readonly imbalanceAtPrimaries: number;
  readonly imbalance: number;
  /** Share of all layers' experts that had expert replicas: lambda. */
  readonly copied: number;
}

/** `hosts[layer][expert]`; layers without experts have none, and no loads. */
export function spreadOf(loads: readonly (LayerLoads | undefined)[], hosts: readonly (readonly (readonly number[])[])[]): Spread {
  const rows = hosts.flat();
  const most = (of: keyof LayerLoads): number => loads.reduce((worst, layer) => Math.max(worst, overMean(layer?.[of])), 1);
  return {
    imbalanceAtPrimaries: most("atPrimaries"),
    imbalance: most("computed"),
    copied: rows.filter(({ length }) => length > 1).length / Math.max(1, rows.length),
  };
}

/** The most over the mean; 1 of nothing. */
function overMean(values: Float64Array = new Float64Array()): number {
  const sum = values.reduce((a, b) => a + b, 0);
  return sum > 0 ? (Math.max(...values) * values.length) / sum : 1;
}

/** Shares of a layer's rows that experts at these places have, from the idlest (0) to the busiest (1), of the layer that is least even. */
export function sharesAt(rows: readonly ArrayLike<number>[], places: readonly number[]): number[] {
  const layers = rows.map((layer) => Float64Array.from(layer).sort());
  const [first = new Float64Array(), ...others] = layers;
  const worst = others.reduce((most, layer) => (overMean(layer) > overMean(most) ? layer : most), first);
  const sum = worst.reduce((a, b) => a + b, 0);
  return places.map((place) => (worst[Math.round(place * (worst.length - 1))] ?? 0) / Math.max(1, sum));
}
