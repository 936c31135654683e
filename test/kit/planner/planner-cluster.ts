// Random clusters for property tests of the planner: ranks of unlike memory, speed, node and zone, experts of unlike and of no
// bytes, idle and extreme loads, more ranks than experts, floors and budgets; and what becomes of the ranks and the load later.
import fc from "fast-check";
import { type PlanInput, type RankSpec, unlimited } from "../../../operator/planner/policy.ts";
import { type Random, seeded } from "../../../operator/planner/random.ts";

export interface RandomCluster {
  /** All ranks active, nothing hosted, no budget. */
  readonly start: PlanInput;
  /** The same cluster later: another load, ranks lost and draining, a budget. What is hosted is the caller's. */
  readonly later: PlanInput;
  /** Later still: everybody is back, the load has changed again. */
  readonly after: PlanInput;
}

export interface ClusterSizes {
  readonly layers: number;
  readonly experts: number;
  readonly ranks: number;
}

const loads = ["skewed", "even", "idle", "one expert"] as const;
const bytes = ["equal", "mixed", "some of none", "one large"] as const;

/** Stored and resident bytes of expert number i. */
function bytesOf(kind: (typeof bytes)[number], i: number, random: Random): number {
  if (kind === "equal") return 100;
  if (kind === "mixed") return 40 + 15 * random.below(8);
  if (kind === "some of none") return random.below(3) * 60;
  return i === 0 ? 900 : 100;
}

function loadOf(kind: (typeof loads)[number], sizes: ClusterSizes, random: Random): Float64Array {
  return Float64Array.from({ length: sizes.layers * sizes.experts }, (_, i) => {
    if (kind === "idle") return 0;
    if (kind === "even") return 100;
    if (kind === "one expert") return i % sizes.experts === 0 ? 5000 : 0;
    return Math.floor(2000 * random.next() ** 4);
  });
}

const lives = ["active", "active", "active", "draining", "dead"] as const;

/** fast-check draws what a failure should shrink by; the rest comes from a seed. */
export function randomClusters(most: ClusterSizes): fc.Arbitrary<RandomCluster> {
  return fc
    .record({
      layers: fc.integer({ min: 1, max: most.layers }),
      experts: fc.integer({ min: 1, max: most.experts }),
      ranks: fc.integer({ min: 1, max: most.ranks }),
      bytes: fc.constantFrom(...bytes),
      loads: fc.tuple(fc.constantFrom(...loads), fc.constantFrom(...loads), fc.constantFrom(...loads)),
      memory: fc.constantFrom("alike", "unlike", "slots" as const),
      speeds: fc.constantFrom("alike", "unlike", "one stands" as const),
      minExpertReplicas: fc.constantFrom(1, 1, 2, 3),
      split: fc.constantFrom("weighted", "weighted", "equal" as const),
      effort: fc.constantFrom("fast", "quality" as const),
      maxMoves: fc.constantFrom(Infinity, 0, 1, 4, 16),
      maxMovesPerRank: fc.constantFrom(Infinity, Infinity, 1, 3),
      maxBytes: fc.constantFrom(Infinity, Infinity, 0, 150, 900),
      gain: fc.boolean(),
      timed: fc.boolean(),
      noise: fc.constantFrom(0, 0, 0.02, 0.2),
      seed: fc.integer({ min: 0, max: 2 ** 31 - 1 }),
    })
    .map((c) => {
      const random = seeded(c.seed);
      const cells = c.layers * c.experts;
      const residentBytes = Float64Array.from({ length: cells }, (_, i) => bytesOf(c.bytes, i, random));
      const storedBytes = residentBytes.map((size) => Math.ceil(size / 2));
      const need = residentBytes.reduce((a, b) => a + b, 0);
      const largest = residentBytes.reduce((a, b) => Math.max(a, b), 0);
      const share = (need / c.ranks) * (0.95 + 1.5 * random.next()) + 2 * largest;
      const nodes = 1 + random.below(c.ranks);
      const ranks = Array.from(
        { length: c.ranks },
        (_, g): RankSpec => ({
          rank: 2 * g + 1,
          speed: c.speeds === "alike" ? 1 : c.speeds === "one stands" && g === 1 ? 0 : 0.5 + random.next(),
          budgetBytes: c.memory === "slots" ? Infinity : Math.ceil(share * (c.memory === "unlike" ? 0.6 + 0.8 * random.next() : 1)),
          node: `n${g % nodes}`,
          zone: `z${(g % nodes) % 2}`,
          state: "active",
        }),
      );
      const sizes = { layers: c.layers, experts: c.experts, ranks: c.ranks };
      const seconds = (): number => 20 * random.next();
      const start: PlanInput = {
        shape: { layers: c.layers, experts: c.experts, residentBytes, storedBytes },
        ranks,
        load: loadOf(c.loads[0], sizes, random),
        current: undefined,
        budget: unlimited,
        minExpertReplicas: c.minExpertReplicas,
        split: c.split,
        effort: c.effort,
        ...(c.memory === "slots" ? { slotsPerRank: Math.ceil(c.experts / c.ranks) + random.below(3) } : {}),
        ...(c.noise > 0 ? { noise: Float64Array.from({ length: c.layers }, () => c.noise * random.next()) } : {}),
        ...(c.gain ? { gainPerMove: 1e-3 } : {}),
        ...(c.timed
          ? { timing: { denseSeconds: seconds(), expertSeconds: seconds(), bytesPerSecond: random.below(500), windows: seconds() } }
          : {}),
      };
      const budget = { maxMoves: c.maxMoves, maxMovesPerRank: c.maxMovesPerRank, maxBytes: c.maxBytes };
      const left = ranks.map((rank, g): RankSpec => (g === 0 ? rank : { ...rank, state: lives[random.below(lives.length)] ?? "active" }));
      const later = { ...start, ranks: left, load: loadOf(c.loads[1], sizes, random), budget };
      return { start, later, after: { ...start, load: loadOf(c.loads[2], sizes, random), budget } };
    });
}

/** The same clusters with a number of experts for each layer: some have none, one has most. */
export function unlikeClusters(most: ClusterSizes): fc.Arbitrary<RandomCluster> {
  return fc.tuple(randomClusters(most), fc.integer({ min: 0, max: 2 ** 31 - 1 })).map(([cluster, seed]) => {
    const random = seeded(seed);
    const { layers, experts, residentBytes, storedBytes } = cluster.start.shape;
    const largest = random.below(layers);
    const layerExperts = Array.from({ length: layers }, (_, l) => (l === largest ? experts : random.below(experts + 1)));
    const cut = (bytes: Float64Array) => bytes.map((size, i) => (i % experts < (layerExperts[Math.floor(i / experts)] ?? 0) ? size : 0));
    const shape = { layers, experts, layerExperts, residentBytes: cut(residentBytes), storedBytes: cut(storedBytes) };
    const { start, later, after } = cluster;
    return { start: { ...start, shape }, later: { ...later, shape }, after: { ...after, shape } };
  });
}
