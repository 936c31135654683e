// Computes frames of other ranks between the graphs of this rank's own steps: decode frames first, prefills in pieces (../DECISIONS.md 1).
import { setImmediate, setTimeout as sleep } from "node:timers/promises";
import type { StepKind } from "../../../crds/telemetry.ts";
import type { BufferAllocator } from "../../compute/backend.ts";
import type { Share } from "../schedule/frame-queue.ts";
import { Pace } from "../schedule/pace.ts";
import { togetherMsMost } from "../schedule/ranks-in-step.ts";
import type { ExpertTable, ExpertWork, PairBatch } from "./expert-table.ts";
import type { FrameInbox } from "./frame-inbox.ts";
import type { Mutex } from "./mutex.ts";

/** Milliseconds that a decode frame may wait for a piece of a prefill. */
const decodeWaitMs = 20;
/** The same while decode frames arrive or this rank decodes. */
const decodeWaitPressedMs = 1;
/** Milliseconds after a decode frame in which more are expected. */
const pressedForMs = 250;
/** Milliseconds of frame work at a stretch. */
const serveMs = 20;
/** Own decode steps get so many times the time of others' prefills. */
const ownShare = 2;
/** The rows of the dense part, or the (row, expert) pairs, of one piece. */
const denseRows = { least: 16, most: 4_096 };
const expertPairs = { least: 16, most: 16_384 };
/** Rows times layers of one graph. */
const layerRows = { least: 1, most: 65_536 };
/** Milliseconds after a decode frame in which steps leave time for more. */
const framesForMs = 10_000;

/** Milliseconds that decode rows of a layer wait for more of it. */
const gatherMs = 1;

export interface StepScheduler {
  pieceRows(kind: StepKind, rows: number): number;
  took(rows: number, ms: number): void;
  layersAtOnce(kind: StepKind, rows: number): number;
  tookLayers(layers: number, rows: number, ms: number): void;
  /** Graphs of prompts compute in their own queue now. */
  readonly usesPrefillQueue?: boolean;
  /** Undefined when nothing is waiting. */
  betweenGraphs(): Promise<void> | undefined;
  /** The own step's rows have passed this layer or are routed in it; undefined: nothing waits for them. */
  reached(layer: number | undefined): void;
  /** Computes several batches of one layer together; returns the rows of each. */
  ownExperts(batches: readonly PairBatch[], allocate?: BufferAllocator): Promise<readonly Float32Array[]>;
  begin(parts: number): void;
  ended(): void;
  /** This part of the step does nothing before `answers` settles. */
  waitFor(answers: Promise<unknown>): Promise<void>;
  /** In which all only waited for other ranks, without that of steps which ran between the graphs of others. */
  readonly waitedMs: number;
  /** What those steps took; unset: there are none. */
  readonly betweenMs?: number;
}

/** Differences are those of one step. */
export type StepClock = Readonly<Record<"ms" | "waitedMs", number>>;

export interface FrameSchedulerOptions {
  readonly experts: Pick<ExpertTable, "prepare" | "compute" | "release" | "lock">;
  /** The lock of the prefill queue; unset where the backend has none. */
  readonly prefillLock?: Mutex | undefined;
  /** A step may wait until an expert has left memory, which must not be one that the step around it holds. */
  readonly oversubscribed?: boolean | undefined;
  readonly inbox: FrameInbox;
  readonly takeMessages: () => void;
  /** Resolves once frames that arrived on sockets are queued; undefined while none are likely. */
  readonly poll: () => Promise<void> | undefined;
  readonly pendingAnswers: () => number;
  /** Own decode rows wait that long for a piece of an own prompt. */
  readonly waitMs: number;
  readonly now: () => number;
  readonly yieldProcessor: () => void;
}

export class FrameScheduler implements StepScheduler {
  /** The running step's kind, or the last one's while more follow. */
  running: StepKind | undefined;
  /** Runs a step that decodes between the graphs of one of prompts, if one is due. */
  between: () => Promise<void> | undefined = () => undefined;
  readonly #options: FrameSchedulerOptions;
  readonly #densePace = new Pace(denseRows);
  readonly #expertPace = new Pace(expertPairs);
  readonly #layerPace = new Pace(layerRows);
  /** Before this time own decode steps go before others' prefills. */
  #nextPortionAt = Number.NEGATIVE_INFINITY;
  #serving = false;
  #servingPrefills = false;
  /** The parts of all steps that run, and of the newest one. */
  #parts = 0;
  #newestParts = 1;
  #waiting = 0;
  #waitedMs = 0;
  /** The time of steps that ran between the graphs of others. */
  #between: StepClock = { ms: 0, waitedMs: 0 };
  #idleSince = 0;
  #isLater = false;
  /** Set once a step's rows have gone to other ranks. */
  #asked = false;

  constructor(options: FrameSchedulerOptions) {
    this.#options = options;
    options.inbox.listen(() => void this.serveWaiting());
  }

  async serveWaiting(): Promise<void> {
    await this.#serve(Number.POSITIVE_INFINITY);
  }

  pieceRows(kind: StepKind, rows: number): number {
    return kind === "decode" ? rows : Math.min(rows, this.#densePace.within(this.#pieceMs()));
  }

  took(rows: number, ms: number): void {
    this.#densePace.took(rows, ms);
  }

  layersAtOnce(kind: StepKind, rows: number): number {
    const { inbox, now } = this.#options;
    if (kind === "decode" && now() - inbox.decodeAt >= framesForMs) return Number.POSITIVE_INFINITY;
    // The engine's thread, which computes ranges, has others' frames to answer.
    if (kind !== "decode" && this.usesPrefillQueue && this.#pressed) return 0;
    const layers = Math.floor(this.#layerPace.within(this.#pieceMs()) / rows);
    // A layer of many rows at once would hold up frames that still come.
    return kind !== "decode" && now() - inbox.decodeAt < framesForMs ? layers : Math.max(1, layers);
  }

  tookLayers(layers: number, rows: number, ms: number): void {
    this.#layerPace.took(layers * rows, ms);
  }

  get usesPrefillQueue(): boolean {
    return this.#options.prefillLock !== undefined && (this.#pressed || this.#ownDecodes);
  }

  betweenGraphs(): Promise<void> | undefined {
    if (this.running === "prefill" || this.running === "mixed") this.#yieldToOthers();
    const others = this.#arrived();
    if (this.running !== "prefill") return others;
    return others ? others.then(() => this.#decode()) : this.#decode();
  }

  #decode(): Promise<void> | undefined {
    const [before, parts] = [this.clock, this.#newestParts];
    const decoded = this.between();
    if (decoded === undefined) return undefined;
    this.#waiting += 1;
    return decoded.finally(() => {
      this.#waiting -= 1;
      this.#newestParts = parts;
      this.running = "prefill";
      const { ms, waitedMs } = this.clock;
      this.#between = { ms: this.#between.ms + ms - before.ms, waitedMs: this.#between.waitedMs + waitedMs - before.waitedMs };
    });
  }

  get clock(): StepClock {
    return { ms: this.#options.now() - this.betweenMs, waitedMs: this.waitedMs };
  }

  get waitedMs(): number {
    return this.#waitedMs - this.#between.waitedMs;
  }

  get betweenMs(): number {
    return this.#between.ms;
  }

  #arrived(): Promise<void> | undefined {
    return this.#options.poll()?.then(() => this.#others()) ?? this.#others();
  }

  #others(): Promise<void> | undefined {
    const { inbox, now, takeMessages } = this.#options;
    takeMessages();
    if (inbox.queue.empty) return undefined;
    return this.#serve(this.#ownDecodes && now() < this.#nextPortionAt ? 0 : 1);
  }

  reached(layer: number | undefined): void {
    this.#options.inbox.ranks.own(this.running === "decode" && this.#newestParts === 1 ? layer : undefined);
  }

  /** Decode steps of ranks that compute for each other begin at the same time, if those of others are about to end. */
  async together(): Promise<void> {
    const { inbox, now } = this.#options;
    if (!this.#asked || !inbox.ranks.isEnding(now())) return;
    this.running = undefined;
    void this.serveWaiting();
    const until = now() + togetherMsMost;
    while (now() < until && inbox.ranks.isEnding(now())) await sleep(1);
  }

  async ownExperts(batches: readonly PairBatch[], allocate?: BufferAllocator): Promise<readonly Float32Array[]> {
    const { experts, inbox, now, oversubscribed } = this.#options;
    const decodes = this.#newestParts === 1 && batches.every(({ phase }) => phase === "decode"); // half a prompt's step may come while others decode
    if (decodes && (inbox.queue.decodeWaits || inbox.ranks.isNear(now()))) {
      const rows = Promise.all(batches.map((batch) => inbox.add(experts.prepare(batch, allocate))));
      void this.serveWaiting();
      return rows;
    }
    const works: ExpertWork[] = [];
    try {
      for (const batch of batches) works.push(experts.prepare(batch, allocate));
      const pairs = byExpert(works);
      const inPieces = works.some(({ phase }) => phase === "prefill");
      for (let at = 0; at < pairs.length; ) {
        const piece = pairs.slice(at, at + (inPieces ? this.#expertPace.within(this.#pieceMs()) : pairs.length));
        await this.#run(sharesOf(works, piece));
        at += piece.length;
        if (at < pairs.length) await (oversubscribed ? this.#arrived() : this.betweenGraphs());
      }
      return works.map(({ out }) => out);
    } finally {
      for (const work of works) experts.release(work);
    }
  }

  begin(parts: number): void {
    this.#asked = false;
    this.#parts += parts;
    this.#newestParts = parts;
  }

  ended(): void {
    this.#parts -= 1;
    this.#maybeIdle();
  }

  async waitFor(answers: Promise<unknown>): Promise<void> {
    this.#waiting += 1;
    this.#asked = true;
    this.#maybeIdle();
    try {
      await answers;
    } finally {
      if (this.#allWait) this.#waitedMs += this.#options.now() - this.#idleSince;
      this.#waiting -= 1;
    }
  }

  get #allWait(): boolean {
    return this.#parts > 0 && this.#waiting === this.#parts;
  }

  #maybeIdle(): void {
    if (!this.#allWait) return;
    this.#idleSince = this.#options.now();
    void this.serveWaiting();
  }

  /** All decode frames and at most `portions` of prefills; none once the own step can go on. */
  async #serve(portions: number): Promise<void> {
    if (this.#serving) return;
    this.#serving = true;
    let since = this.#options.now();
    try {
      for (let left = portions; ; ) {
        if (this.#options.now() - since >= serveMs) {
          if (portions <= 1) return; // the own step waits for this
          await setImmediate(); // lets loads, answers and timers run
          since = this.#options.now();
        }
        this.#options.takeMessages();
        const shares = this.#next(portions, left);
        if (shares.length === 0) return;
        const startedAt = this.#options.now();
        await this.#compute(shares);
        if (shares[0]?.frame.phase === "prefill") {
          left -= 1;
          const endedAt = this.#options.now();
          this.#yieldToOthers();
          this.#nextPortionAt = endedAt + ownShare * (endedAt - startedAt);
        }
        const polled = this.#options.poll();
        if (polled) await polled;
      }
    } finally {
      this.#serving = false;
    }
  }

  #next(portions: number, left: number): readonly Share<ExpertWork>[] {
    const { queue } = this.#options.inbox;
    const decodes = queue.nextDecode((layer, since) => this.#waitsForMore(layer, since, portions));
    if (decodes.length > 0) return decodes;
    if (queue.decodeWaits) this.#later();
    if (this.usesPrefillQueue) void this.#servePrefills();
    if (this.#servingPrefills) return [];
    const mayPrefill = left > 0 && (portions === 1 || !this.#ownRuns());
    return mayPrefill ? queue.nextPrefill(this.#expertPace.within(this.#portionMs())) : [];
  }

  /** Prefills in their queue, while this thread goes on. */
  async #servePrefills(): Promise<void> {
    if (this.#servingPrefills) return;
    this.#servingPrefills = true;
    try {
      while (this.usesPrefillQueue) {
        const shares = this.#options.inbox.queue.nextPrefill(this.#expertPace.within(this.#pieceMs()));
        if (shares.length === 0) return;
        await this.#compute(shares);
      }
    } finally {
      this.#servingPrefills = false;
    }
    void this.serveWaiting();
  }

  /** More rows of this layer are about to come (../DECISIONS.md 11). */
  #waitsForMore(layer: number, since: number, portions: number): boolean {
    const { inbox, now } = this.#options;
    const isOwnDue = this.running === "decode" && inbox.ranks.isOwnDue(layer);
    if (isOwnDue && portions <= 1) return true; // the own step goes on at once
    return now() - since < gatherMs && (isOwnDue || inbox.ranks.isDue(layer, now()));
  }

  #later(): void {
    if (this.#isLater) return;
    this.#isLater = true;
    setTimeout(() => {
      this.#isLater = false;
      void this.serveWaiting();
    }, gatherMs);
  }

  /** ../DECISIONS.md 2 */
  #yieldToOthers(): void {
    if (this.#pressed && !this.usesPrefillQueue) this.#options.yieldProcessor();
  }

  get #pressed(): boolean {
    return this.#options.now() - this.#options.inbox.decodeAt < pressedForMs;
  }

  #ownRuns(): boolean {
    // An answer that has arrived is noticed before the part that waits for it resumes.
    return this.running !== undefined && !(this.#allWait && this.#options.pendingAnswers() > 0);
  }

  get #ownDecodes(): boolean {
    return this.running === "decode" || this.running === "mixed";
  }

  /** Others' decode frames wait that long. */
  #pieceMs(): number {
    return this.#pressed && !this.usesPrefillQueue ? decodeWaitPressedMs : Math.min(decodeWaitMs, this.#options.waitMs);
  }

  /** Own decode rows wait that long. */
  #portionMs(): number {
    return this.#ownDecodes ? decodeWaitPressedMs : this.#pieceMs();
  }

  async #compute(shares: readonly Share<ExpertWork>[]): Promise<void> {
    const { inbox } = this.#options;
    try {
      await this.#run(shares);
      for (const { frame, last } of shares) if (last) inbox.answer(frame);
    } catch (caught) {
      inbox.fail(
        shares.map(({ frame }) => frame),
        caught,
      );
    }
  }

  async #run(shares: readonly Share<ExpertWork>[]): Promise<void> {
    const { experts, now } = this.#options;
    const beside = this.usesPrefillQueue && shares.every(({ frame }) => frame.phase === "prefill") ? this.#options.prefillLock : undefined;
    await (beside ?? experts.lock).run(async () => {
      const startedAt = now();
      await experts.compute(shares, beside ? "prefill" : "main");
      const ms = now() - startedAt;
      if (this.#allWait && !beside) this.#waitedMs -= ms;
      const pairs = shares.reduce((sum, share) => sum + share.pairs.length, 0);
      if (shares.some(({ frame }) => frame.phase === "prefill")) this.#expertPace.took(pairs, ms);
    });
  }
}

interface OwnPair {
  readonly work: number;
  readonly pair: number;
}

function byExpert(works: readonly ExpertWork[]): readonly OwnPair[] {
  const pairs = works.flatMap(({ order }, work) => order.map((pair) => ({ work, pair })));
  if (works.length === 1) return pairs;
  const expertOf = ({ work, pair }: OwnPair): number => works[work]?.batch.pairExperts[pair] ?? 0;
  return pairs.sort((a, b) => expertOf(a) - expertOf(b));
}

function sharesOf(works: readonly ExpertWork[], pairs: readonly OwnPair[]): Share<ExpertWork>[] {
  return works.flatMap((frame, work) => {
    const own = pairs.filter((one) => one.work === work).map(({ pair }) => pair);
    return own.length > 0 ? [{ frame, pairs: own, last: false }] : [];
  });
}
