// Computes frames of other ranks between the graphs of this rank's own steps, decode frames first, prefills in pieces (../DECISIONS.md 1).
import { setImmediate } from "node:timers/promises";
import type { StepKind } from "../../../crds/telemetry.ts";
import type { BufferAllocator } from "../../compute/backend.ts";
import type { Share } from "../schedule/frame-queue.ts";
import { Pace } from "../schedule/pace.ts";
import type { ExpertTable, ExpertWork, PairBatch } from "./expert-table.ts";
import type { FrameInbox } from "./frame-inbox.ts";

/** Milliseconds that a decode frame may wait for a piece of a prefill, while none has come lately. */
const decodeWaitMs = 20;
/** The same while decode frames come, or while this rank decodes itself: they wait for half of it, on every layer. */
const decodeWaitPressedMs = 1;
/** Milliseconds after a decode frame for which more of them are expected: several layers of a slow stream. */
const pressedForMs = 250;
/** Frames are computed for so many milliseconds on end while an own step waits, or before other work of this thread is let in. */
const serveMs = 20;
/** Own decode steps have so many times the time of others' prefills. */
const ownShare = 2;
/** Rows of the dense part in one piece, and (row, expert) pairs. */
const denseRows = { least: 16, most: 4_096 };
const expertPairs = { least: 16, most: 16_384 };
/** Rows times layers of one graph. */
const layerRows = { least: 1, most: 65_536 };
/** Milliseconds after a decode frame for which steps leave room for more of them. */
const framesForMs = 10_000;

/** Between the graphs of a step: what must not wait for its end. */
export interface StepScheduler {
  /** Rows of a step whose dense part is to be computed at once, of so many. */
  pieceRows(kind: StepKind, rows: number): number;
  took(rows: number, ms: number): void;
  /** Layers that a step of so many rows may compute as one graph. */
  layersAtOnce(kind: StepKind, rows: number): number;
  tookLayers(layers: number, rows: number, ms: number): void;
  /** Undefined when nobody has to be waited for. */
  betweenGraphs(): Promise<void> | undefined;
  /** The step's own pairs, whose experts are here: batches of one layer, computed together; answers the rows of each, in buffers taken in
   *  their order. */
  ownExperts(batches: readonly PairBatch[], allocate?: BufferAllocator): Promise<readonly Float32Array[]>;
  /** A step begins, in so many parts. */
  begin(parts: number): void;
  /** A part of the step is done, or has failed. */
  ended(): void;
  /** A part of the step has done what it could, and waits for others. */
  waitFor(answers: Promise<unknown>): Promise<void>;
  /** Milliseconds of this step with nothing to do but wait. */
  readonly waitedMs: number;
}

export interface FrameSchedulerOptions {
  readonly experts: Pick<ExpertTable, "prepare" | "compute" | "release" | "lock">;
  readonly inbox: FrameInbox;
  /** Takes in the messages that have come meanwhile. */
  readonly takeMessages: () => void;
  /** Resolves once frames have been taken in that came on sockets; undefined while none are likely to have come. */
  readonly poll: () => Promise<void> | undefined;
  /** Frames of the running step that other ranks have not answered. */
  readonly pendingAnswers: () => number;
  readonly now: () => number;
  /** Leaves the processor to other threads for a moment. */
  readonly yieldProcessor: () => void;
}

export class FrameScheduler implements StepScheduler {
  /** Kind of the running step, or of the last one while others follow; undefined while this rank has none. */
  running: StepKind | undefined;
  waitedMs = 0;
  readonly #options: FrameSchedulerOptions;
  readonly #densePace = new Pace(denseRows);
  readonly #expertPace = new Pace(expertPairs);
  readonly #layerPace = new Pace(layerRows);
  /** Own decode steps go before others' prefills until then. */
  #nextPortionAt = Number.NEGATIVE_INFINITY;
  #serving = false;
  #parts = 1;
  #waiting = 0;
  #idleSince = 0;

  constructor(options: FrameSchedulerOptions) {
    this.#options = options;
    options.inbox.listen(() => void this.serveWaiting());
  }

  /** Computes the frames that wait, as far as no own step is to go on. */
  async serveWaiting(): Promise<void> {
    await this.#serve(Number.POSITIVE_INFINITY);
  }

  pieceRows(kind: StepKind, rows: number): number {
    return kind === "decode" ? rows : Math.min(rows, this.#densePace.within(this.#pieceMs()));
  }

  took(rows: number, ms: number): void {
    this.#densePace.took(rows, ms);
  }

  /** As many as there are while nobody else's frames are about. */
  layersAtOnce(kind: StepKind, rows: number): number {
    const { inbox, now } = this.#options;
    if (kind === "decode" && now() - inbox.decodeAt >= framesForMs) return Number.POSITIVE_INFINITY;
    return Math.max(1, Math.floor(this.#layerPace.within(this.#pieceMs()) / rows));
  }

  tookLayers(layers: number, rows: number, ms: number): void {
    this.#layerPace.took(layers * rows, ms);
  }

  betweenGraphs(): Promise<void> | undefined {
    if (this.running === "prefill" || this.running === "mixed") this.#yieldToOthers();
    return this.#options.poll()?.then(() => this.#others()) ?? this.#others();
  }

  #others(): Promise<void> | undefined {
    const { inbox, now, takeMessages } = this.#options;
    takeMessages();
    if (inbox.queue.empty) return undefined;
    return this.#serve(this.#ownDecodes && now() < this.#nextPortionAt ? 0 : 1);
  }

  async ownExperts(batches: readonly PairBatch[], allocate?: BufferAllocator): Promise<readonly Float32Array[]> {
    const { experts } = this.#options;
    const works: ExpertWork[] = [];
    try {
      for (const batch of batches) works.push(experts.prepare(batch, allocate));
      const pairs = byExpert(works);
      const inPieces = works.some(({ phase }) => phase === "prefill");
      for (let at = 0; at < pairs.length; ) {
        const piece = pairs.slice(at, at + (inPieces ? this.#expertPace.within(this.#pieceMs()) : pairs.length));
        await this.#run(sharesOf(works, piece));
        at += piece.length;
        const others = at < pairs.length ? this.betweenGraphs() : undefined;
        if (others) await others;
      }
      return works.map(({ out }) => out);
    } finally {
      for (const work of works) experts.release(work);
    }
  }

  begin(parts: number): void {
    this.#parts = parts;
    this.#waiting = 0;
    this.waitedMs = 0;
  }

  ended(): void {
    this.#parts -= 1;
    this.#maybeIdle();
  }

  async waitFor(answers: Promise<unknown>): Promise<void> {
    this.#waiting += 1;
    this.#maybeIdle();
    try {
      await answers;
    } finally {
      if (this.#allWait) this.waitedMs += this.#options.now() - this.#idleSince;
      this.#waiting -= 1;
    }
  }

  /** All that is left of the step waits. */
  get #allWait(): boolean {
    return this.#parts > 0 && this.#waiting === this.#parts;
  }

  /** When nothing of the step can go on, others' prefills are computed. */
  #maybeIdle(): void {
    if (!this.#allWait) return;
    this.#idleSince = this.#options.now();
    void this.serveWaiting();
  }

  /** Decode frames all, and so many portions of prefills, none once the own step is to go on. */
  async #serve(portions: number): Promise<void> {
    const { queue } = this.#options.inbox;
    if (this.#serving) return;
    this.#serving = true;
    let since = this.#options.now();
    try {
      for (let left = portions; ; ) {
        if (this.#options.now() - since >= serveMs) {
          if (portions <= 1) return; // the own step waits for this, and comes back after its next graph
          await setImmediate(); // lets loads, answers and timers in
          since = this.#options.now();
        }
        this.#options.takeMessages();
        const decodes = queue.decodeWaits;
        const prefills = left > 0 && (portions === 1 || !this.#ownRuns());
        if (!decodes && (!prefills || queue.empty)) return;
        const startedAt = this.#options.now();
        await this.#compute(decodes ? queue.nextDecode() : queue.nextPrefill(this.#expertPace.within(this.#portionMs())));
        if (!decodes) {
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

  /** Between pieces, while others decode: threads that carry their frames would wait for the processor longer than a piece takes. */
  #yieldToOthers(): void {
    if (this.#pressed) this.#options.yieldProcessor();
  }

  get #pressed(): boolean {
    return this.#options.now() - this.#options.inbox.decodeAt < pressedForMs;
  }

  #ownRuns(): boolean {
    // An answer that has come is known before the part that waits for it goes on.
    return this.running !== undefined && !(this.#allWait && this.#options.pendingAnswers() > 0);
  }

  get #ownDecodes(): boolean {
    return this.running === "decode" || this.running === "mixed";
  }

  /** Milliseconds that a piece of the own prefill may take, for which others' decode frames wait. */
  #pieceMs(): number {
    return this.#pressed ? decodeWaitPressedMs : decodeWaitMs;
  }

  /** Milliseconds that a portion of others' prefills may take, for which own decode rows wait, too. */
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
    await experts.lock.run(async () => {
      const startedAt = now();
      await experts.compute(shares);
      const ms = now() - startedAt;
      if (this.#allWait) this.waitedMs -= ms;
      const pairs = shares.reduce((sum, share) => sum + share.pairs.length, 0);
      if (shares.some(({ frame }) => frame.phase === "prefill")) this.#expertPace.took(pairs, ms);
    });
  }
}

/** A pair of one of the works, by their indices. */
interface OwnPair {
  readonly work: number;
  readonly pair: number;
}

/** All pairs, those of one expert beside each other. */
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
