// Fewer rows on the wire: replicas in free memory at the ranks whose tokens choose an expert, while the load stays even. It starts from
// an even placement and leaves evenness to the policies: DECISIONS.md 11. Pure.
import { type LayerPlan, weightsTotal } from "../../../crds/plan.ts";
import { imbalance, sum } from "../../../runtime/placement/imbalance.ts";
import { nearWeights, sourcesOf } from "../../../runtime/placement/near-weights.ts";
import { quotas } from "../../../runtime/placement/split.ts";
import { keepsFloor } from "../expert-replicas.ts";
import type { Near, PlanInput } from "../policy.ts";
import { layerDemand, type Problem, toProblem } from "../problem.ts";
import { type Change, changeOf, Ledger } from "./ledger.ts";

/** The part of a rank's expert memory up to which replicas near tokens fill it; the rest is for moves that make layers even. */
const fillMost = 0.9;
/** A rank's tokens choose an expert so many times as often as all tokens do, and by so many deviations of the counts. */
const leastLift = 1.25;
const sigmas = 4;
/** The part of its layer's rows that a replica keeps at least. */
const leastRows = 0.002;
/** A replica gives way to one that keeps so many times the rows of a byte. */
const evictFactor = 2;
const victimsMax = 16;
const triesMax = 1024;
const passes = 3;
/** A new replica takes the first of these parts of its rank's rows with which the layer stays even. */
const parts = [1, 0.75, 0.5, 0.25] as const;

interface Wish {
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
  /** Selections counted at the rank. */
  readonly counted: number;
  /** What would be counted if its tokens chose as all do. */
  readonly usual: number;
  /** Rows of the rank's own tokens, as a part of the layer's. */
  readonly part: number;
  readonly bytes: number;
}

/** One expert: rank indexes with weights per mille. */
interface Row {
  readonly hosts: readonly number[];
  readonly weights: readonly number[];
}

/** Rows by rank: by the plan's weights, which the trigger asks, and as sources that know them route. */
interface Loads {
  readonly planned: Float64Array;
  readonly routed: Float64Array;
}

interface Spread extends Loads {
  /** Rows that stay at their rank. */
  readonly kept: number;
  /** Rows that leave their zone. */
  readonly crossed: number;
}

type Cell = Pick<Wish, "layer" | "expert">;

/** Another row for an expert. */
interface Step extends Cell {
  readonly row: Row;
  readonly next: Row;
  readonly was: Spread;
  readonly is: Spread;
  /** Rows that stay at their rank by it. */
  readonly gain: number;
}

interface Layer extends Loads {
  readonly rows: Row[];
  readonly total: number;
  /** The most max/mean that a change may leave. */
  readonly most: { readonly planned: number; readonly routed: number };
}

interface Totals {
  readonly byRank: readonly number[];
  readonly demand: number;
}

export interface Nearer {
  readonly layers: readonly LayerPlan[];
  /** Rows of each layer that stay at their rank by it, as a part of all rows of the model. */
  readonly kept: readonly number[];
}

export function nearer(input: PlanInput): Nearer {
  const problem = toProblem(input);
  const { current } = problem;
  const isWhole = input.ranks.every(({ state }) => state === "active") && current?.every((rows) => rows.every((row) => row.length > 0));
  if (!input.near || !isWhole || Number.isFinite(problem.slotCap) || input.split !== "weighted") {
    return { layers: input.current ?? [], kept: [] };
  }
  return new NearSearch(problem, input.near.sources).run();
}

class NearSearch {
  readonly #problem: Problem;
  readonly #counts: readonly Float32Array[];
  readonly #sources: readonly ReturnType<typeof sourcesOf>[];
  readonly #ledger: Ledger;
  readonly #layers: Layer[] = [];
  readonly #layerTotals: Totals[] = [];
  readonly #replicas: (readonly Wish[])[] = [];
  /** Rows by changed layer. */
  readonly #kept = new Map<number, number>();
  /** Full weight of a replica that keeps all rows of its rank, per mille. */
  readonly #full: number;

  constructor(problem: Problem, sources: Near["sources"]) {
    const { ranks, G } = problem;
    this.#problem = problem;
    this.#counts = ranks.map(({ rank }) => sources.get(rank) ?? new Float32Array(0));
    this.#sources = ranks.map(({ rank }) => sourcesOf(rank, ranks));
    this.#ledger = new Ledger({ ...problem, capacity: problem.capacity.map((bytes) => fillMost * bytes) }, problem.current ?? []);
    this.#full = Math.round(weightsTotal / G);
  }

  run(): Nearer {
    const { input, ranks } = this.#problem;
    const total = sum(input.load);
    const wishes = this.#wishes();
    let triesLeft = triesMax;
    for (let pass = 0, taken = 1; pass < passes && taken > 0; pass++) {
      taken = 0;
      for (const wish of wishes) if (triesLeft-- > 0 && this.#take(wish)) taken++;
    }
    const layers = (input.current ?? []).map((old, l): LayerPlan => {
      if (!this.#kept.has(l)) return old;
      const { rows } = this.#layer(l);
      return { hosts: rows.map(({ hosts }) => hosts.map((g) => ranks[g]?.rank ?? g)), weights: rows.map(({ weights }) => weights) };
    });
    return { layers, kept: layers.map((_, l) => (this.#kept.get(l) ?? 0) / total) };
  }

  /** Where tokens of a rank clearly choose an expert more than others do, those first that keep most rows for a byte. */
  #wishes(): Wish[] {
    const { L, G, experts, speed } = this.#problem;
    const wishes: Wish[] = [];
    for (let layer = 0; layer < L; layer++) {
      for (let expert = 0; expert < (experts[layer] as number); expert++) {
        const all = this.#counted(layer, expert);
        for (let rank = 0; rank < G; rank++) {
          const wish = this.#wish(layer, expert, rank, all);
          const { counted, usual } = wish;
          const enough = counted >= leastLift * usual && counted - usual >= sigmas * Math.sqrt(usual);
          if (enough && wish.part >= leastRows && (speed[rank] as number) > 0 && this.#lacks(wish)) wishes.push(wish);
        }
      }
    }
    return wishes.sort((a, b) => worthOf(b) - worthOf(a) || a.layer - b.layer || a.expert - b.expert || a.rank - b.rank);
  }

  /** False where the rank has all the weight that its own tokens need. */
  #lacks({ layer, expert, rank }: Wish): boolean {
    const at = this.#problem.current?.[layer]?.[expert]?.indexOf(rank) ?? -1;
    return (this.#problem.input.current?.[layer]?.weights[expert]?.[at] ?? 0) < this.#full - 1;
  }

  #counted(layer: number, expert: number): number {
    return this.#counts.reduce((all, counts) => all + (counts[layer * this.#problem.E + expert] ?? 0), 0);
  }

  #wish(layer: number, expert: number, rank: number, all = this.#counted(layer, expert)): Wish {
    const { E, input } = this.#problem;
    const cell = layer * E + expert;
    const counted = this.#counts[rank]?.[cell] ?? 0;
    const rows = all > 0 ? ((input.load[cell] as number) * counted) / all : 0;
    const { byRank, demand } = this.#totals(layer);
    const usual = (all * (byRank[rank] as number)) / Math.max(1, sum(byRank));
    const part = rows / Math.max(1, demand);
    return { layer, expert, rank, counted, usual, part, bytes: Math.max(1, input.shape.residentBytes[cell] as number) };
  }

  /** Tries a new replica, or more weight for one that has too little; true when the placement changed. */
  #take(wish: Wish): boolean {
    const row = this.#layer(wish.layer).rows[wish.expert] as Row;
    const at = row.hosts.indexOf(wish.rank);
    const now = at < 0 ? 0 : (row.weights[at] ?? 0);
    const wanted = now >= this.#full - 1 ? [] : parts.map((part) => Math.round(part * this.#full)).filter((weight) => weight > now);
    const steps = wanted.map((weight) => this.#step(wish, row, withWeight(row, wish.rank, weight, this.#full)));
    for (const way of at < 0 ? this.#waysOf(wish, steps) : steps.map((step) => [step])) {
      if (!this.#isAllowed(way)) continue;
      if (at < 0) this.#ledger.take(this.#change(...way));
      for (const each of way) this.#put(each);
      return true;
    }
    return false;
  }

  /** A new replica beside those that are there, or in the place of one where memory is full; none where the budget is spent. */
  #waysOf(wish: Wish, steps: readonly Step[]): (readonly Step[])[] {
    const changes = steps.map((step) => this.#change(step));
    if (!changes.every((change) => this.#ledger.affords(change))) return [];
    if (changes.every((change) => this.#ledger.fits(change))) return steps.map((step) => [step]);
    const victims = this.#victimsFor(wish);
    return steps.flatMap((step) => victims.map((victim) => [victim, step]));
  }

  /**
   * Replicas on the wish's rank in whose place it might come, those first that keep least for a byte: it is little beside the wish's,
   * and not by chance.
   */
  #victimsFor(wish: Wish): Step[] {
    const steps: Step[] = [];
    for (const old of this.#replicasOn(wish.rank)) {
      const row = this.#layer(old.layer).rows[old.expert] as Row;
      if (evictFactor * worthOf(old) > worthOf(wish) || steps.length >= victimsMax) break;
      if (old.bytes < wish.bytes || !row.hosts.includes(wish.rank) || (old.layer === wish.layer && old.expert === wish.expert)) continue;
      if (wish.counted - old.counted < sigmas * Math.sqrt(wish.counted + old.counted)) continue;
      const left = withoutHost(row, wish.rank);
      if (keepsFloor(this.#problem, row.hosts, left.hosts)) steps.push(this.#step(old, row, left));
    }
    return steps;
  }

  /** Those of the current placement that are not primaries. */
  #replicasOn(rank: number): readonly Wish[] {
    this.#replicas[rank] ??= (this.#problem.current ?? [])
      .flatMap((rows, layer) => rows.flatMap((row, expert) => (row.indexOf(rank) > 0 ? [this.#wish(layer, expert, rank)] : [])))
      .sort((a, b) => worthOf(a) - worthOf(b) || a.layer - b.layer || a.expert - b.expert);
    return this.#replicas[rank];
  }

  /** Selections by rank, and rows, of a layer. */
  #totals(layer: number): Totals {
    const { E, G } = this.#problem;
    this.#layerTotals[layer] ??= {
      byRank: Array.from({ length: G }, (_, rank) => sum(this.#counts[rank]?.subarray(layer * E, (layer + 1) * E) ?? [])),
      demand: sum(layerDemand(this.#problem, layer)),
    };
    return this.#layerTotals[layer];
  }

  #step({ layer, expert }: Cell, row: Row, next: Row): Step {
    const [was, is] = [this.#spread(layer, expert, row), this.#spread(layer, expert, next)];
    return { layer, expert, row, next, was, is, gain: is.kept - was.kept };
  }

  /** Whether memory and budget have place for it, it gains clearly, no more rows leave their zone, and layers stay even. */
  #isAllowed(steps: readonly Step[]): boolean {
    const change = this.#change(...steps);
    if (change.moves > 0 && !this.#ledger.fits(change)) return false;
    const { layer: grown, gain: more } = steps.at(-1) as Step;
    if (more < leastRows * this.#layer(grown).total) return false;
    if (steps.reduce((all, { was, is }) => all + is.crossed - was.crossed, 0) > 1e-9) return false;
    const [lost, gained] = [-1, 1].map((sign) => steps.reduce((all, { gain }) => all + Math.max(0, sign * gain), 0)) as [number, number];
    return gained >= evictFactor * lost && steps.every(({ layer }) => this.#staysEven(layer, steps));
  }

  #staysEven(l: number, steps: readonly Step[]): boolean {
    const { planned, routed, most } = this.#layer(l);
    const after = { planned: planned.slice(), routed: routed.slice() };
    for (const { layer, was, is } of steps) if (layer === l) shift(after, was, is);
    const { speed } = this.#problem;
    return imbalance(after.planned, speed) <= most.planned + 1e-9 && imbalance(after.routed, speed) <= most.routed + 1e-9;
  }

  #put({ layer: l, expert, next, was, is, gain }: Step): void {
    const layer = this.#layer(l);
    layer.rows[expert] = next;
    shift(layer, was, is);
    this.#kept.set(l, (this.#kept.get(l) ?? 0) + gain);
  }

  #layer(l: number): Layer {
    this.#layers[l] ??= this.#current(l);
    return this.#layers[l];
  }

  #current(l: number): Layer {
    const { input, current, G, speed } = this.#problem;
    const rows = (current?.[l] ?? []).map((hosts, e): Row => ({ hosts, weights: input.current?.[l]?.weights[e] ?? [] }));
    const loads = { planned: new Float64Array(G), routed: new Float64Array(G) };
    for (const [e, row] of rows.entries()) shift(loads, undefined, this.#spread(l, e, row));
    const most = (load: Float64Array): number => Math.max(imbalance(load, speed), input.near?.evenTo ?? 1);
    return { ...loads, rows, total: this.#totals(l).demand, most: { planned: most(loads.planned), routed: most(loads.routed) } };
  }

  #spread(layer: number, expert: number, { hosts, weights }: Row): Spread {
    const { input, E, G, ranks } = this.#problem;
    const rows = input.load[layer * E + expert] as number;
    const all = this.#counted(layer, expert);
    const [planned, routed, total] = [new Float64Array(G), new Float64Array(G), sum(weights) || 1];
    const ids = hosts.map((g) => ranks[g]?.rank ?? g);
    let [kept, crossed] = [0, 0];
    for (const [i, g] of hosts.entries()) planned[g] = (rows * (weights[i] ?? 0)) / total;
    for (const [source, from] of this.#sources.entries()) {
      const own = all > 0 ? (rows * (this.#counts[source]?.[layer * E + expert] ?? 0)) / all : rows / G;
      const dealt = hosts.length === 1 ? weights : nearWeights(ids, weights, from);
      for (const [i, g] of hosts.entries()) {
        const part = (own * (dealt[i] ?? 0)) / weightsTotal;
        routed[g] = (routed[g] as number) + part;
        if (g === source) kept += part;
        else if (ranks[g]?.zone !== ranks[source]?.zone) crossed += part;
      }
    }
    return { planned, routed, kept, crossed };
  }

  /** The account of one replica, and of another that gives way to it. */
  #change(...steps: readonly Step[]): Change {
    const [first, ...rest] = steps.map(({ layer, expert, row, next }) => {
      const [from, to]: [(readonly number[])[], (readonly number[])[]] = [[], []];
      [from[expert], to[expert]] = [row.hosts, next.hosts];
      return changeOf(this.#problem, layer, from, to);
    }) as [Change, ...Change[]];
    return rest.reduce((all, each) => ({ ...each, outgoing: all.outgoing }), first);
  }
}

const worthOf = ({ part, bytes }: Wish): number => part / bytes;

function shift(load: Loads, was: Loads | undefined, is: Loads): void {
  for (const by of ["planned", "routed"] as const)
    for (let g = 0; g < load[by].length; g++) load[by][g] = (load[by][g] as number) + (is[by][g] as number) - (was?.[by][g] ?? 0);
}

/** The weight comes from what other hosts have beyond the part of their own tokens, so that these stay. */
function withWeight(row: Row, rank: number, wanted: number, full: number): Row {
  const hosts = row.hosts.includes(rank) ? row.hosts : [...row.hosts, rank];
  const spare = hosts.map((host, i) => (host === rank ? 0 : Math.max(0, (row.weights[i] ?? 0) - full)));
  const all = sum(spare);
  const more = Math.min(wanted - (row.weights[hosts.indexOf(rank)] ?? 0), all);
  const weights = hosts.map((host, i) => (row.weights[i] ?? 0) + (host === rank ? more : all > 0 ? (-more * (spare[i] ?? 0)) / all : 0));
  return { hosts, weights: quotas(weights) };
}

function withoutHost({ hosts, weights }: Row, rank: number): Row {
  const stay = hosts.flatMap((g, i) => (g === rank ? [] : [i]));
  return { hosts: stay.map((i) => hosts[i] as number), weights: quotas(stay.map((i) => weights[i] ?? 0)) };
}
