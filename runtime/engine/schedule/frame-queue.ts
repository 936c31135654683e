// The frames of other ranks that wait for this one's experts, pure: which pairs are computed next.
import type { Phase } from "../../../crds/telemetry.ts";

/** A frame as this file needs it: its pairs in the order in which they are best computed. */
export interface Queued {
  readonly layer: number;
  readonly phase: Phase;
  /** Indices of its pairs, those of one expert beside each other. */
  readonly order: readonly number[];
}

/** Pairs of one frame. */
export interface Share<Frame> {
  readonly frame: Frame;
  readonly pairs: readonly number[];
  /** The frame's last. */
  readonly last: boolean;
}

interface Waiting<Frame> {
  readonly frame: Frame;
  done: number;
}

/** Pairs of decode frames that are computed together: beyond, they would wait longer for each other than they gain. */
const mergedPairsMax = 512;

export class FrameQueue<Frame extends Queued> {
  #decode: Waiting<Frame>[] = [];
  #prefill: Waiting<Frame>[] = [];

  push(frame: Frame): void {
    (frame.phase === "decode" ? this.#decode : this.#prefill).push({ frame, done: 0 });
  }

  get empty(): boolean {
    return this.#decode.length === 0 && this.#prefill.length === 0;
  }

  get decodeWaits(): boolean {
    return this.#decode.length > 0;
  }

  /** All decode frames of the layer that has waited longest. */
  nextDecode(): Share<Frame>[] {
    const layer = this.#decode[0]?.frame.layer;
    const shares: Share<Frame>[] = [];
    const left: Waiting<Frame>[] = [];
    let pairs = 0;
    for (const waiting of this.#decode) {
      const { frame } = waiting;
      const fits = pairs === 0 || pairs + frame.order.length <= mergedPairsMax;
      if (frame.layer !== layer || !fits) left.push(waiting);
      else {
        shares.push({ frame, pairs: frame.order, last: true });
        pairs += frame.order.length;
      }
    }
    this.#decode = left;
    return shares;
  }

  /** At most so many pairs of the prefill frames of the layer that has waited longest, at least one. */
  nextPrefill(pairsMax: number): Share<Frame>[] {
    const layer = this.#prefill[0]?.frame.layer;
    const shares: Share<Frame>[] = [];
    let capacity = Math.max(1, pairsMax);
    for (const waiting of this.#prefill) {
      const { frame, done } = waiting;
      if (capacity === 0 || frame.layer !== layer) continue;
      const pairs = frame.order.slice(done, done + capacity);
      capacity -= pairs.length;
      waiting.done += pairs.length;
      shares.push({ frame, pairs, last: waiting.done === frame.order.length });
    }
    this.#prefill = this.#prefill.filter(({ frame, done }) => done < frame.order.length);
    return shares;
  }

  /** Takes frames out that have failed. */
  drop(frames: ReadonlySet<Frame>): void {
    this.#prefill = this.#prefill.filter(({ frame }) => !frames.has(frame));
  }
}
