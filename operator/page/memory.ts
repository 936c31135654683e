// An hour of figures, the last decisions and moves of each deployment. Bounded, and lost with the leader.
import { type PlacementPlan, planBounds } from "../../crds/plan.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import type { PlacementView, RankLoad } from "../rebalance/status/placement-view.ts";
import { sumOf } from "../views/format.ts";

export const bucketMs = 5_000;
export const bucketsMax = 720;
/** 32 KiB each. */
export const deploymentsMax = 1_000;
export const decisionsMax = 32;
export const movesMax = 64;
/** The pause between plans is no decision. */
const waiting = "Interval";

const seriesNames = [
  "imbalancePercent",
  "boundPercent",
  "ranks",
  "requests",
  "queuedTokens",
  "kvUsePercent",
  "tokensPerSecond",
  "firstTokenMs",
  "gapMs",
  "requestsPerSecond",
  "failedPercent",
] as const;
export type SeriesName = (typeof seriesNames)[number];
export type Sample = Readonly<Record<SeriesName, number | undefined>>;

export interface PastDecision {
  /** Consecutive decisions with one reason are merged. */
  readonly at: number;
  readonly times: number;
  readonly reason: string;
  readonly message: string;
  readonly numbers: Readonly<Record<string, number>>;
}

export interface PastMove {
  readonly at: number;
  readonly epoch: number;
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
  /** Former ranks; empty for the model store. */
  readonly from: readonly number[];
}

export interface Series {
  /** Unix ms at the start of the newest bucket. */
  readonly newest: number;
  readonly values: Readonly<Record<SeriesName, readonly (number | undefined)[]>>;
}

export interface Remembered {
  readonly series: Series;
  readonly decisions: readonly PastDecision[];
  readonly moves: readonly PastMove[];
}

type Served = NonNullable<RankLoad["served"]>;

interface Counted {
  readonly at: number;
  /** Totals of each process, by rank and boot. */
  readonly byBoot: ReadonlyMap<string, Served>;
}

type Rates = Pick<Sample, "tokensPerSecond" | "firstTokenMs" | "gapMs" | "requestsPerSecond" | "failedPercent">;

const unknown: Rates = {
  tokensPerSecond: undefined,
  firstTokenMs: undefined,
  gapMs: undefined,
  requestsPerSecond: undefined,
  failedPercent: undefined,
};

/** Rates of processes in both samples. */
function ratesOf(before: Counted | undefined, now: Counted): Rates {
  const both = [...now.byBoot].flatMap(([boot, served]) => {
    const then = before?.byBoot.get(boot);
    return then ? [{ served, then }] : [];
  });
  if (!before || now.at <= before.at || both.length === 0) return unknown;
  const more = (of: keyof Served): number => both.reduce((sum, { served, then }) => sum + Math.max(0, served[of] - then[of]), 0);
  const [tokens, requests, first] = [more("gaps"), more("requests"), more("firstTokens")];
  const seconds = (now.at - before.at) / 1000;
  return {
    tokensPerSecond: tokens / seconds,
    firstTokenMs: first === 0 ? undefined : more("firstTokenMicros") / first / 1000,
    gapMs: tokens === 0 ? undefined : more("gapMicros") / tokens / 1000,
    requestsPerSecond: requests / seconds,
    failedPercent: requests === 0 ? undefined : (100 * more("failed")) / requests,
  };
}

function countedOf({ ranks }: PlacementView, at: number): Counted {
  const served = ranks.flatMap(({ rank, bootId, served }) => (bootId && served ? [[`${rank}/${bootId}`, served] as const] : []));
  return { at, byBoot: new Map(served) };
}

function kvUseOf({ ranks }: PlacementView): number | undefined {
  const blocks = sumOf(ranks.map(({ kv }) => kv?.blocks));
  return blocks ? (100 * (sumOf(ranks.map(({ kv }) => kv?.used)) ?? 0)) / blocks : undefined;
}

class OfOne {
  /** Bucket n is at n modulo the size; NaN = unknown. */
  readonly #ring = new Float32Array(bucketsMax * seriesNames.length).fill(Number.NaN);
  #first: number | undefined;
  #newest = 0;
  #decisions: readonly PastDecision[] = [];
  #moves: readonly PastMove[] = [];
  #plan: PlacementPlan | undefined;
  #counted: Counted | undefined;
  #latest: Sample | undefined;

  take(placement: PlacementView, now: number): void {
    this.#latest = this.#sampleOf(placement, now);
    this.#write(Math.floor(now / bucketMs), this.#latest);
    this.#takeDecision(placement.status?.decision, now);
    if (placement.plan) this.#takePlan(placement.plan, now);
  }

  #sampleOf(placement: PlacementView, now: number): Sample {
    const { status, ranks } = placement;
    const before = this.#counted;
    this.#counted = countedOf(placement, now);
    return {
      imbalancePercent: status?.measured?.imbalancePercent,
      boundPercent: status?.measured?.boundPercent,
      ranks: ranks.filter(({ state }) => state === "active").length,
      requests: sumOf(ranks.map(({ activeRequests }) => activeRequests)),
      queuedTokens: sumOf(ranks.map(({ queuedTokens }) => queuedTokens)),
      kvUsePercent: kvUseOf(placement),
      ...ratesOf(before, this.#counted),
    };
  }

  #write(bucket: number, sample: Sample): void {
    // A clock that was set back resets the history, which would otherwise seem newest for an hour.
    if (this.#first === undefined || bucket < this.#newest) {
      this.#ring.fill(Number.NaN);
      this.#first = bucket;
    } else for (let missed = Math.max(this.#newest, bucket - bucketsMax) + 1; missed < bucket; missed++) this.#set(missed, undefined);
    this.#newest = bucket;
    this.#set(bucket, sample);
  }

  #set(bucket: number, sample: Sample | undefined): void {
    const at = (bucket % bucketsMax) * seriesNames.length;
    seriesNames.forEach((name, i) => {
      this.#ring[at + i] = sample?.[name] ?? Number.NaN;
    });
  }

  #takeDecision(decision: NonNullable<PlacementView["status"]>["decision"], now: number): void {
    if (!decision) return;
    const [last] = this.#decisions;
    const { reason, message, numbers = {} } = decision;
    if (reason === waiting || (last?.reason === reason && last.message === message)) return;
    const same = last?.reason === reason ? last : undefined;
    const next = { at: same?.at ?? now, times: (same?.times ?? 0) + 1, reason, message, numbers };
    this.#decisions = [next, ...this.#decisions.slice(same ? 1 : 0)].slice(0, decisionsMax);
  }

  #takePlan(plan: PlacementPlan, now: number): void {
    const before = this.#plan;
    this.#plan = plan;
    if (!before || before.epoch >= plan.epoch || before.modelDigest !== plan.modelDigest) return;
    const { moves } = diffPlans(before.layers, plan.layers, () => 0);
    const { epoch, layers } = plan;
    const made = moves.slice(0, movesMax).map(({ layer, expert, rank, sources }) => {
      return { at: now, epoch, layer: layers[layer]?.layer ?? layer, expert, rank, from: sources.slice(0, planBounds.hostsPerExpert) };
    });
    this.#moves = [...made, ...this.#moves].slice(0, movesMax);
  }

  get latest(): Sample | undefined {
    return this.#latest;
  }

  remembered(): Remembered {
    const first = Math.max(this.#first ?? this.#newest, this.#newest - bucketsMax + 1);
    const length = this.#newest - first + 1;
    const of = (i: number): readonly (number | undefined)[] =>
      Array.from({ length }, (_, n) => {
        const value = this.#ring[((first + n) % bucketsMax) * seriesNames.length + i] ?? Number.NaN;
        return Number.isNaN(value) ? undefined : value;
      });
    const values = Object.fromEntries(seriesNames.map((name, i) => [name, of(i)])) as Series["values"];
    return { series: { newest: this.#newest * bucketMs, values }, decisions: this.#decisions, moves: this.#moves };
  }
}

export class Memory {
  readonly #of = new Map<string, OfOne>();

  /** Samples by uid; other deployments are forgotten. */
  take(placements: ReadonlyMap<string, PlacementView>, now: number): void {
    for (const uid of this.#of.keys()) if (!placements.has(uid)) this.#of.delete(uid);
    for (const [uid, placement] of placements) {
      if (!this.#of.has(uid) && this.#of.size >= deploymentsMax) continue;
      const one = this.#of.get(uid) ?? new OfOne();
      this.#of.set(uid, one);
      one.take(placement, now);
    }
  }

  of(uid: string): Remembered | undefined {
    return this.#of.get(uid)?.remembered();
  }

  latest(uid: string): Sample | undefined {
    return this.#of.get(uid)?.latest;
  }
}
