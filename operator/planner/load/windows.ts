// Combines the load messages of all ranks into one view per window. A rank that did not report is missing, never zero.
import { type LoadHead, type LoadWindow, loadJitterMsMax, type Misses, type Phase, type StepSeconds } from "../../../crds/telemetry.ts";
import { MessageOrder, type OrderFault } from "../../../crds/telemetry-order.ts";
import { imbalance, relativeLoad } from "../../../runtime/placement/imbalance.ts";

type Refusal = "unknown_deployment" | "stale_boot" | "clock_unknown" | "late" | OrderFault;
export type Accepted = { readonly ok: true } | { readonly ok: false; readonly reason: Refusal };

export interface ExpectedRank {
  readonly rank: number;
  readonly bootId: string;
  /** Milliseconds that the rank's clock is ahead of the caller's; undefined while not measured. */
  readonly clockAheadMs: number | undefined;
  readonly speed: number;
}

/** How far in the future a window may seem to end, since clock offsets are only estimated. */
const aheadMsMax = 2_000;
/** A window that ended at most this long before the open one still counts in it: the send interval plus the network. */
const lateMsMax = loadJitterMsMax + 750;

export interface ClosedWindow {
  readonly start: number;
  readonly end: number;
  /** [layers * experts] */
  readonly routed: Float64Array;
  readonly routedByPhase: Readonly<Record<Phase, Float64Array>>;
  /** Rows computed, per layer [ranks] in the order of `ranks`, scaled as if all ranks had covered the same time. */
  readonly served: readonly Float64Array[];
  readonly ranks: readonly ExpectedRank[];
  readonly missing: readonly number[];
  readonly selections: number;
  readonly perLayer: Float64Array;
  /** The time of steps by phase, mean of ranks; unset unless all ranks report it. */
  readonly seconds?: StepSeconds;
  /** What each rank reports; unset unless all do. */
  readonly misses?: ReadonlyMap<number, Misses>;
}

interface RankRecord {
  bootId: string;
  readonly order: MessageOrder;
  lastMs: number;
  served: Float64Array;
  seconds: StepSeconds | undefined;
  misses: Misses | undefined;
  coveredMs: number;
  heard: boolean;
  /** What its own tokens choose, [layers * experts], older windows counting less; and for how many windows, since it was last void. */
  sources: Float32Array | undefined;
  sourceWindows: number;
}

/** Counts by rank and expert for which memory is taken, 4 bytes each. */
const sourceCellsMax = 4 * 2 ** 20;
/** What is left of their counts after another window, and the windows before they are told. */
const sourceKept = 0.9;
const sourceWindowsMin = 12;

/** The open window of one deployment. Times are unix ms. */
export class LoadWindows {
  readonly layers: number;
  readonly experts: number;
  readonly deploymentUid: string;
  readonly #ranks = new Map<number, RankRecord>();
  readonly #byPhase: Record<Phase, Float64Array>;
  #openedAt: number;
  #countsSources = false;
  #cleanSince = Number.NEGATIVE_INFINITY;

  constructor(options: { layers: number; experts: number; deploymentUid: string; now: number }) {
    this.layers = options.layers;
    this.experts = options.experts;
    this.deploymentUid = options.deploymentUid;
    this.#openedAt = options.now;
    this.#byPhase = { prefill: new Float64Array(this.layers * this.experts), decode: new Float64Array(this.layers * this.experts) };
  }

  /** Why a message of this head does not count, whoever made it; it changes nothing. */
  refusal({ rank, bootId, seq }: LoadHead, expected: readonly ExpectedRank[]): Refusal | undefined {
    const from = expected.find((one) => one.rank === rank);
    if (from?.bootId !== bootId) return from ? "stale_boot" : "unknown_deployment";
    const known = this.#ranks.get(rank);
    return known?.bootId === bootId && known.order.isOld(seq) ? "duplicate" : undefined;
  }

  accept(window: LoadWindow, expected: readonly ExpectedRank[], now: number): Accepted {
    const from = expected.find(({ rank }) => rank === window.rank);
    if (window.deploymentUID !== this.deploymentUid || window.layers !== this.layers || window.experts !== this.experts || !from) {
      return { ok: false, reason: "unknown_deployment" };
    }
    if (from.bootId !== window.bootId) return { ok: false, reason: "stale_boot" };
    if (from.clockAheadMs === undefined) return { ok: false, reason: "clock_unknown" };
    const [start, end] = [window.windowStart - from.clockAheadMs, window.windowEnd - from.clockAheadMs];
    if (end < this.#openedAt - lateMsMax) return { ok: false, reason: "late" };
    if (end > now + aheadMsMax) return { ok: false, reason: "bad_window" };
    const record = this.#record(window.rank, window.bootId);
    const fault = record.order.take(window);
    if (fault) return { ok: false, reason: fault };
    record.lastMs = now;
    // What tokens choose rests on no plan.
    if (this.#countsSources && expected.length * window.routed.length <= sourceCellsMax) addSources(record, window.routed);
    // A window that began before the last reset mixes two plans: it only shows that the rank is alive.
    if (start < this.#cleanSince) return { ok: true };
    record.heard = true;
    record.coveredMs += window.windowEnd - window.windowStart;
    const routed = this.#byPhase[window.phase];
    for (let i = 0; i < routed.length; i++) routed[i] = (routed[i] as number) + (window.routed[i] as number);
    for (let l = 0; l < this.layers; l++) {
      let rows = 0;
      for (let e = 0; e < this.experts; e++) rows += window.served[l * this.experts + e] as number;
      record.served[l] = (record.served[l] as number) + rows;
    }
    if (window.seconds) record.seconds = sumOf(record.seconds ?? noSeconds, window.seconds);
    if (window.misses) record.misses = addMisses(record.misses ?? noMisses, window.misses);
    return { ok: true };
  }

  #record(rank: number, bootId: string): RankRecord {
    const known = this.#ranks.get(rank);
    if (known && known.bootId === bootId) return known;
    const fresh = {
      bootId,
      order: new MessageOrder(),
      lastMs: 0,
      served: new Float64Array(this.layers),
      seconds: undefined,
      misses: undefined,
      coveredMs: 0,
      heard: false,
      sources: undefined,
      sourceWindows: 0,
    };
    this.#ranks.set(rank, fresh);
    return fresh;
  }

  /** The age of the oldest last message of the expected ranks; Infinity when one was never heard. */
  ageMs(expected: readonly ExpectedRank[], now: number): number {
    return expected.reduce((age, { rank, bootId }) => Math.max(age, now - this.#lastHeard(rank, bootId)), 0);
  }

  reporting(expected: readonly ExpectedRank[], now: number, staleMs: number): number {
    return expected.filter(({ rank, bootId }) => now - this.#lastHeard(rank, bootId) <= staleMs).length;
  }

  lastSampleMs(): number {
    return Math.max(0, ...[...this.#ranks.values()].map((record) => record.lastMs));
  }

  #lastHeard(rank: number, bootId: string): number {
    const record = this.#ranks.get(rank);
    return record && record.bootId === bootId && record.lastMs > 0 ? record.lastMs : Number.NEGATIVE_INFINITY;
  }

  get openSince(): number {
    return this.#openedAt;
  }

  openSelections(): number {
    let least = Number.POSITIVE_INFINITY;
    for (let l = 0; l < this.layers; l++) {
      let count = 0;
      for (let i = l * this.experts; i < (l + 1) * this.experts; i++)
        count += (this.#byPhase.prefill[i] as number) + (this.#byPhase.decode[i] as number);
      if (count > 0) least = Math.min(least, count);
    }
    return Number.isFinite(least) ? least : 0;
  }

  close(expected: readonly ExpectedRank[], now: number): ClosedWindow {
    const routed = this.#byPhase.prefill.map((count, i) => count + (this.#byPhase.decode[i] as number));
    const heard = expected.map(({ rank, bootId }) => {
      const record = this.#ranks.get(rank);
      return record && record.bootId === bootId && record.heard ? record : undefined;
    });
    const parts = equalTimes(heard);
    const perLayer = new Float64Array(this.layers);
    routed.forEach((count, i) => {
      const l = Math.floor(i / this.experts);
      perLayer[l] = (perLayer[l] as number) + count;
    });
    const closed: ClosedWindow = {
      start: this.#openedAt,
      end: now,
      routed,
      routedByPhase: { prefill: this.#byPhase.prefill.slice(), decode: this.#byPhase.decode.slice() },
      served: Array.from({ length: this.layers }, (_, l) =>
        Float64Array.from(heard, (record, g) => (record?.served[l] ?? 0) * (parts[g] ?? 1)),
      ),
      ranks: expected,
      missing: expected.filter((_, i) => heard[i] === undefined).map((rank) => rank.rank),
      selections: perLayer.reduce((a, b) => a + b, 0),
      perLayer,
      ...meanSeconds(heard.map((record) => record?.seconds)),
      ...missesOf(expected, heard),
    };
    // Counts of a rank that was silent would seem small beside those of others.
    if (closed.missing.length > 0) this.forgetSources();
    else if (closed.selections > 0) for (const record of heard) ageSources(record);
    this.#open(now);
    return closed;
  }

  /** Selections by each rank's own tokens, [layers * experts], by rank; undefined until windows enough have told them of every rank. */
  sources(expected: readonly ExpectedRank[]): ReadonlyMap<number, Float32Array> | undefined {
    const known = expected.flatMap(({ rank, bootId }) => {
      const record = this.#ranks.get(rank);
      const counted = record?.bootId === bootId && record.sourceWindows >= sourceWindowsMin ? record.sources : undefined;
      return counted ? [[rank, counted] as const] : [];
    });
    return known.length === expected.length ? new Map(known) : undefined;
  }

  /** Whether selections by each rank are counted; only plans for rows on the wire need them. */
  countSources(wanted: boolean): void {
    if (this.#countsSources && !wanted) this.forgetSources();
    this.#countsSources = wanted;
  }

  forgetSources(): void {
    for (const record of this.#ranks.values()) [record.sources, record.sourceWindows] = [undefined, 0];
  }

  /** Discards the open window and later messages about the time before now, since they would mix two plans or sets of ranks. */
  reset(now: number): void {
    this.#cleanSince = now;
    this.#open(now);
  }

  #open(now: number): void {
    this.#openedAt = now;
    this.#byPhase.prefill.fill(0);
    this.#byPhase.decode.fill(0);
    for (const record of this.#ranks.values()) {
      record.served.fill(0);
      record.seconds = undefined;
      record.misses = undefined;
      record.coveredMs = 0;
      record.heard = false;
    }
  }
}

function addSources(record: RankRecord, routed: Uint32Array): void {
  record.sources ??= new Float32Array(routed.length);
  for (let i = 0; i < routed.length; i++) record.sources[i] = (record.sources[i] as number) + (routed[i] as number);
}

function ageSources(record: RankRecord | undefined): void {
  if (!record?.sources) return;
  record.sourceWindows++;
  for (let i = 0; i < record.sources.length; i++) record.sources[i] = sourceKept * (record.sources[i] as number);
}

const partMost = 2;

/**
 * The factor for each rank's rows: a window closes while ranks send in turn, so it has one sample more of some than of
 * others.
 */
function equalTimes(heard: readonly (RankRecord | undefined)[]): number[] {
  const known = heard.flatMap((record) => (record && record.coveredMs > 0 ? [record.coveredMs] : []));
  const mean = known.reduce((sum, ms) => sum + ms, 0) / Math.max(1, known.length);
  return heard.map((record) => (record && record.coveredMs > 0 ? Math.min(mean / record.coveredMs, partMost) : 1));
}

const noSeconds: StepSeconds = { dense: 0, experts: 0 };
export const noMisses: Misses = { loads: 0, bytes: 0, micros: 0 };

export const addMisses = (a: Misses, b: Misses): Misses => ({
  loads: a.loads + b.loads,
  bytes: a.bytes + b.bytes,
  micros: a.micros + b.micros,
});

function missesOf(ranks: readonly ExpectedRank[], heard: readonly (RankRecord | undefined)[]): Pick<ClosedWindow, "misses"> {
  const known = ranks.flatMap(({ rank }, i) => {
    const { misses } = heard[i] ?? {};
    return misses ? [[rank, misses] as const] : [];
  });
  return known.length === 0 || known.length < ranks.length ? {} : { misses: new Map(known) };
}

function sumOf(a: StepSeconds, b: StepSeconds): StepSeconds {
  return { dense: a.dense + b.dense, experts: a.experts + b.experts };
}

function meanSeconds(ranks: readonly (StepSeconds | undefined)[]): Pick<ClosedWindow, "seconds"> {
  const known = ranks.filter((seconds) => seconds !== undefined);
  if (known.length < ranks.length || known.length === 0) return {};
  const sum = known.reduce(sumOf);
  return { seconds: { dense: sum.dense / ranks.length, experts: sum.experts / ranks.length } };
}

export interface MeasuredImbalance {
  readonly worst: number;
  readonly mean: number;
  readonly worstLayer: number;
  readonly layers: number;
  /** Load of each rank in the worst layer, per speed, over the mean. */
  readonly ranks: readonly { readonly rank: number; readonly load: number }[];
}

/**
 * Rows per layer and rank, summed over windows until every layer has enough; then the oldest windows go. It is emptied when
 * the plan, the ranks or the load change.
 */
export class ServedRows {
  #windows: ClosedWindow[] = [];

  add(window: ClosedWindow, enough: number): void {
    const last = this.#windows.at(-1);
    if (last && last.ranks.map((rank) => rank.bootId).join() !== window.ranks.map((rank) => rank.bootId).join()) this.clear();
    this.#windows.push(window);
    while (this.#windows.length > servedWindowsMax || (this.#windows.length > 1 && leastRows(this.#windows.slice(1)) >= enough))
      this.#windows.shift();
  }

  clear(): void {
    this.#windows = [];
  }

  /** max/mean of layers with at least `minRows`; undefined when no layer has them. */
  measure(minRows: number): MeasuredImbalance | undefined {
    const speed = this.#windows.at(-1)?.ranks.map((rank) => rank.speed) ?? [];
    let worst = 0;
    let worstLayer = -1;
    let total = 0;
    let layers = 0;
    const rows = sumRows(this.#windows);
    for (const [l, load] of rows.entries()) {
      if (load.reduce((a, b) => a + b, 0) < Math.max(1, minRows)) continue;
      const ratio = imbalance(load, speed);
      total += ratio;
      layers++;
      if (ratio <= worst) continue;
      worst = ratio;
      worstLayer = l;
    }
    if (layers === 0) return undefined;
    const relative = relativeLoad(rows[worstLayer] ?? [], speed);
    const ranks = (this.#windows[0]?.ranks ?? []).map(({ rank }, g) => ({ rank, load: relative[g] ?? 0 }));
    return { worst, mean: total / layers, worstLayer, layers, ranks };
  }
}

const servedWindowsMax = 60;

function sumRows(windows: readonly ClosedWindow[]): Float64Array[] {
  const sums = (windows[0]?.served ?? []).map((load) => Float64Array.from(load));
  for (const window of windows.slice(1)) {
    window.served.forEach((load, l) => {
      load.forEach((rows, g) => {
        const sum = sums[l];
        if (sum) sum[g] = (sum[g] ?? 0) + rows;
      });
    });
  }
  return sums;
}

function leastRows(windows: readonly ClosedWindow[]): number {
  const totals = sumRows(windows)
    .map((load) => load.reduce((a, b) => a + b, 0))
    .filter((rows) => rows > 0);
  return totals.length > 0 ? Math.min(...totals) : 0;
}
