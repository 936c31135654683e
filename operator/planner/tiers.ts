// What ranks that serve more than they hold will load, and what tokens wait for it: the hottest experts of each rank stay in memory, and
// the rest is loaded when a token chooses it. Assumptions: DECISIONS.md 12. Pure.
import { type LayerPlan, weightsTotal } from "../../crds/plan.ts";
import { expertsIn } from "../../runtime/placement/grid.ts";
import { sum } from "../../runtime/placement/imbalance.ts";
import type { PlanInput, RankSpec } from "./policy.ts";
import { stagingBytes } from "./problem.ts";

export interface TiersInput extends Pick<PlanInput, "shape" | "ranks" | "load"> {
  readonly layers: readonly LayerPlan[];
  /** Experts of a layer that a token chooses. */
  readonly topK: number;
  /** What all loads of a rank reach together; undefined while none was measured. */
  readonly bytesPerSecond?: number | undefined;
}

/** Per token means one token of a step; tokens that are computed together share their loads. */
export interface TiersForecast {
  /** Experts in memory, and those that ranks serve (replicas count). */
  readonly kept: number;
  readonly served: number;
  /** Pairs of token and expert that wait for a load, 0 to 1. */
  readonly missShare: number;
  readonly loadsPerToken: number;
  readonly bytesPerToken: number;
  /** Seconds of loads at the rank that loads most; undefined while the rate is unknown. */
  readonly loadSeconds: number | undefined;
  /** Seconds that a token waits: in a layer ranks load at the same time. */
  readonly stallSeconds: number | undefined;
  readonly ranks: ReadonlyMap<number, RankTiers>;
}

interface RankTiers {
  /** Resident bytes. */
  readonly servedBytes: number;
  /** Stored bytes that it loads. */
  readonly bytesPerToken: number;
}

interface Cell {
  readonly layer: number;
  /** That a token chooses the expert at this rank, and loads it where it is not in memory. */
  chance: number;
  readonly residentBytes: number;
  readonly storedBytes: number;
}

export function forecastTiers({ shape, ranks, layers, load, topK, bytesPerSecond }: TiersInput): TiersForecast {
  const staging = stagingBytes(shape);
  const memory = new Map(ranks.filter(({ state }) => state !== "dead").map((rank) => [rank.rank, memoryOf(rank) - staging]));
  const cells = cellsOf({ shape, layers, load, topK });
  const missed = Array.from({ length: shape.layers }, (): Cell[][] => []);
  const byRank = new Map<number, RankTiers>();
  let [served, kept] = [0, 0];
  for (const [rank, own] of cells) {
    const cold = coldOf(own, memory.get(rank) ?? 0);
    served += own.length;
    kept += own.length - cold.length;
    const chances = sum(cold.map(({ chance }) => chance));
    // The slot of what is loaded keeps the last of these.
    for (const cell of cold) cell.chance *= 1 - cell.chance / Math.max(chances, 1e-12);
    byRank.set(rank, { servedBytes: sum(own.map(({ residentBytes }) => residentBytes)), bytesPerToken: sum(cold.map(expectedBytes)) });
    for (const [layer, group] of Map.groupBy(cold, (cell) => cell.layer)) missed[layer]?.push(group);
  }
  const all = missed.flat(2);
  const loads = sum(all.map(({ chance }) => chance));
  const bytes = [...byRank.values()].map(({ bytesPerToken }) => bytesPerToken);
  const pairs = topK * layers.filter((_, l) => expertsIn(shape, l) > 0).length;
  return {
    served,
    kept,
    missShare: pairs > 0 ? loads / pairs : 0,
    loadsPerToken: loads,
    bytesPerToken: sum(bytes),
    loadSeconds: bytesPerSecond && Math.max(0, ...bytes) / bytesPerSecond,
    stallSeconds: bytesPerSecond && sum(missed.map((groups) => expectedMost(groups))) / bytesPerSecond,
    ranks: byRank,
  };
}

const memoryOf = ({ memoryBytes, budgetBytes }: RankSpec): number => memoryBytes ?? budgetBytes;
const expectedBytes = ({ chance, storedBytes }: Cell): number => chance * storedBytes;

function cellsOf({ shape, layers, load, topK }: Omit<TiersInput, "ranks">): Map<number, Cell[]> {
  const byRank = new Map<number, Cell[]>();
  layers.forEach(({ hosts, weights }, layer) => {
    const first = layer * shape.experts;
    const rows = sum(load.subarray(first, first + expertsIn(shape, layer)));
    hosts.forEach((row, e) => {
      const [residentBytes = 0, storedBytes = 0] = [shape.residentBytes[first + e], shape.storedBytes[first + e]];
      const chosen = rows > 0 ? ((load[first + e] as number) * topK) / rows : topK / hosts.length;
      row.forEach((rank, i) => {
        const chance = Math.min(1, (chosen * (weights[e]?.[i] ?? 0)) / weightsTotal);
        const own = byRank.get(rank) ?? [];
        if (own.length === 0) byRank.set(rank, own);
        own.push({ layer, chance, residentBytes, storedBytes });
      });
    });
  });
  return byRank;
}

/** What memory does not hold when the hottest stay, as with eviction by use. */
function coldOf(cells: readonly Cell[], memoryBytes: number): Cell[] {
  let left = memoryBytes;
  return cells
    .toSorted((a, b) => b.chance - a.chance)
    .filter(({ residentBytes }) => {
      if (residentBytes > left + 1e-6) return true;
      left -= residentBytes;
      return false;
    });
}

/** The mean of the most bytes that one of the groups loads for a token, where each expert is chosen by itself. */
function expectedMost(groups: readonly (readonly Cell[])[]): number {
  if (groups.length === 1) return sum((groups[0] ?? []).map(expectedBytes));
  const ranks = groups.map((group) => {
    const loads = sum(group.map(({ chance }) => chance));
    return { bytes: loads > 0 ? sum(group.map(expectedBytes)) / loads : 0, counts: countsOf(group) };
  });
  const steps = ranks.flatMap(({ bytes, counts }) => counts.map((_, n) => n * bytes));
  let [mean, below] = [0, 0];
  for (const most of [...new Set(steps)].sort((a, b) => a - b)) {
    const upTo = ranks.reduce((chance, { bytes, counts }) => chance * sum(counts.filter((_, n) => n * bytes <= most)), 1);
    mean += most * (upTo - below);
    below = upTo;
  }
  return mean;
}

/** Loads for one token beyond this are as good as impossible. */
const countsMost = 32;

/** The chances of 0, 1, 2, ... loads. */
function countsOf(group: readonly Cell[]): number[] {
  let counts = [1];
  for (const { chance } of group) {
    const next = new Array<number>(Math.min(counts.length + 1, countsMost)).fill(0);
    counts.forEach((part, n) => {
      next[n] = (next[n] as number) + part * (1 - chance);
      const more = Math.min(n + 1, next.length - 1);
      next[more] = (next[more] as number) + part * chance;
    });
    counts = next;
  }
  return counts;
}
