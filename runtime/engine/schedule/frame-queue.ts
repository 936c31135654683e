// The queue of other ranks' frames, pure.
import type { Phase } from "../../../crds/telemetry.ts";

export interface Queued {
  readonly layer: number;
  readonly phase: Phase;
  /** The pairs' indices, sorted by expert. */
  readonly order: readonly number[];
}

export interface Share<Frame> {
  readonly frame: Frame;
  readonly pairs: readonly number[];
  readonly last: boolean;
}

interface Waiting<Frame> {
  readonly frame: Frame;
  readonly since: number;
  done: number;
}

/** A larger merge of decode frames would cost more waiting than it saves. */
const mergedPairsMax = 512;

export class FrameQueue<Frame extends Queued> {
  #decode: Waiting<Frame>[] = [];
  #prefill: Waiting<Frame>[] = [];

  push(frame: Frame, since: number): void {
    (frame.phase === "decode" ? this.#decode : this.#prefill).push({ frame, since, done: 0 });
  }

  get empty(): boolean {
    return this.#decode.length === 0 && this.#prefill.length === 0;
  }

  get decodeWaits(): boolean {
    return this.#decode.length > 0;
  }

  /** All decode frames of the layer that has waited longest of those that wait for no more frames. */
  nextDecode(waits: (layer: number, since: number) => boolean = () => false): Share<Frame>[] {
    const waiting = new Set<number>();
    const layer = this.#decode.find(({ frame, since }) => {
      if (!waiting.has(frame.layer) && !waits(frame.layer, since)) return true;
      waiting.add(frame.layer);
      return false;
    })?.frame.layer;
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

  /** Returns up to `pairsMax` prefill pairs (at least one) of the layer that has waited longest. */
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

  drop(frames: ReadonlySet<Frame>): void {
    this.#prefill = this.#prefill.filter(({ frame }) => !frames.has(frame));
  }
}
