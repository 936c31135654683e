// The inbox between connections and the frame scheduler.
import { FrameQueue } from "../schedule/frame-queue.ts";
import type { RanksInStep } from "../schedule/ranks-in-step.ts";
import type { AskedBatch, ExpertTable, ExpertWork } from "./expert-table.ts";

interface Reply {
  readonly resolve: (rows: Float32Array) => void;
  readonly reject: (error: unknown) => void;
}

export class FrameInbox {
  readonly queue = new FrameQueue<ExpertWork>();
  /** The time of the newest decode frame. */
  decodeAt = Number.NEGATIVE_INFINITY;
  readonly #experts: Pick<ExpertTable, "prepare" | "release">;
  readonly ranks: RanksInStep;
  readonly #now: () => number;
  readonly #replies = new Map<ExpertWork, Reply>();
  #onFrames = (): void => {};

  constructor(experts: Pick<ExpertTable, "prepare" | "release">, now: () => number, ranks: RanksInStep) {
    this.#experts = experts;
    this.ranks = ranks;
    this.#now = now;
  }

  /** Resolves with the computed rows; rejects with AppError `NotHosted`. */
  async serve(batch: AskedBatch): Promise<Float32Array> {
    const work = this.#experts.prepare(batch, undefined, batch.origin);
    const { layer, phase, from } = batch;
    if (phase === "decode") this.decodeAt = this.#now();
    if (phase === "decode" && from !== undefined) this.ranks.came(from, layer, this.#now());
    return this.add(work);
  }

  /** Rows of this rank's own step are added with frames of the same layer. */
  add(work: ExpertWork): Promise<Float32Array> {
    return new Promise((resolve, reject) => {
      this.#replies.set(work, { resolve, reject });
      this.queue.push(work, this.#now());
    });
  }

  /** Like `serve`, for a frame of this rank's own step, which no socket announces. */
  serveOwn(batch: AskedBatch): Promise<Float32Array> {
    const rows = this.serve(batch);
    this.announce();
    return rows;
  }

  /** `listener` is called once for all frames that arrived together. */
  listen(listener: () => void): void {
    this.#onFrames = listener;
  }

  announce(): void {
    this.#onFrames();
  }

  answer(frame: ExpertWork): void {
    this.#settle(frame)?.resolve(frame.out);
  }

  fail(frames: readonly ExpertWork[], error: unknown): void {
    for (const frame of frames) this.#settle(frame)?.reject(error);
    this.queue.drop(new Set(frames));
  }

  #settle(frame: ExpertWork): Reply | undefined {
    const reply = this.#replies.get(frame);
    this.#replies.delete(frame);
    this.#experts.release(frame);
    return reply;
  }
}
