// How uneven a layer is (imbalance), and how even any placement could make it (bound).

/** max over ranks of load/speed, divided by total load / total speed; 1 without load. Ranks of speed 0 are left out. */
export function imbalance(load: ArrayLike<number>, speed: ArrayLike<number>): number {
  let total = 0;
  let capacity = 0;
  let highest = 0;
  for (let g = 0; g < load.length; g++) {
    const s = speed[g] as number;
    if (s <= 0) continue;
    total += load[g] as number;
    capacity += s;
    highest = Math.max(highest, (load[g] as number) / s);
  }
  return total > 0 && capacity > 0 ? highest / (total / capacity) : 1;
}

/** load/speed of each rank, divided by total load / total speed; 0 for ranks of speed 0 and without load. */
export function relativeLoad(load: ArrayLike<number>, speed: ArrayLike<number>): number[] {
  let total = 0;
  let capacity = 0;
  for (let g = 0; g < load.length; g++) {
    const s = speed[g] as number;
    if (s <= 0) continue;
    total += load[g] as number;
    capacity += s;
  }
  return Array.from(load, (rows, g) => ((speed[g] as number) > 0 && total > 0 ? rows / (speed[g] as number) / (total / capacity) : 0));
}

/** The slots that a layer needs so that none holds more than `level` rows: sum of max(1, ceil(demand / level)). */
export function slotsNeeded(demand: ArrayLike<number>, level: number): number {
  let slots = 0;
  for (let e = 0; e < demand.length; e++) slots += Math.max(1, Math.ceil((demand[e] as number) / level - 1e-9));
  return slots;
}

const boundSteps = 50;

/**
 * The smallest ratio M / mean >= 1 with sum_e max(1, ceil(w_e / (M * fastest))) <= slots; Infinity with fewer slots than experts.
 * `fastest` is the highest speed over the mean.
 */
export function bound(demand: ArrayLike<number>, ranks: number, slots: number, fastest = 1): number {
  return jointBound([demand], ranks, slots, fastest);
}

/** The highest speed over the mean; 1 where none is known. */
export function fastestOf(speed: ArrayLike<number>): number {
  const all = sum(speed);
  let most = 0;
  for (let g = 0; g < speed.length; g++) most = Math.max(most, speed[g] as number);
  return all > 0 ? (most * speed.length) / all : 1;
}

/** The same for the worst layer when `slots` may be divided among the layers. */
export function jointBound(layers: readonly ArrayLike<number>[], ranks: number, slots: number, fastest = 1): number {
  const means = layers.map((demand) => (fastest * sum(demand)) / ranks);
  const needed = (ratio: number): number =>
    layers.reduce((n, demand, l) => n + ((means[l] as number) > 0 ? slotsNeeded(demand, ratio * (means[l] as number)) : demand.length), 0);
  if (needed(ranks + 1) > slots) return Number.POSITIVE_INFINITY;
  if (needed(1) <= slots) return 1;
  let low = 1;
  let high = ranks + 1;
  for (let i = 0; i < boundSteps; i++) {
    const middle = (low + high) / 2;
    if (needed(middle) <= slots) high = middle;
    else low = middle;
  }
  return high;
}

export function sum(values: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i] as number;
  return total;
}
