// Which ranks decode the same layers at the same time, told from the frames that come from them; pure (../DECISIONS.md 11).

/** A rank that sends frames for a smaller part of the layers is not waited for. */
const framesShareLeast = 0.75;
const newest = 1 / 8;
/** A frame is not expected any more after so many times the usual time between two. */
const lateFactor = 2.5;
/** Milliseconds between frames of neighbouring layers; a longer time is a pause. */
const everyMsMost = 50;
/** Where layers take less, a wait would cost more than a common product saves. */
const everyMsLeast = 1.5;
/** Milliseconds that a step waits for the steps of other ranks to end. */
export const togetherMsMost = 100;

interface Peer {
  /** The ordinal of the layer of its newest decode frame among layers with experts. */
  at: number;
  cameAt: number;
  /** The part of the layers for which a frame comes, moving mean. */
  framesShare: number;
  /** Milliseconds a layer, moving mean. */
  everyMs: number;
}

export class RanksInStep {
  readonly #ordinals: ReadonlyMap<number, number>;
  readonly #peers = new Map<number, Peer>();
  /** The ordinal of the layer that an own decode step computes next. */
  #own: number | undefined;

  /** `layers`: those with experts, ascending. */
  constructor(layers: readonly number[]) {
    this.#ordinals = new Map(layers.map((layer, ordinal) => [layer, ordinal]));
  }

  came(rank: number, layer: number, now: number): void {
    const at = this.#ordinals.get(layer) ?? 0;
    const peer = this.#peers.get(rank);
    if (peer === undefined) {
      this.#peers.set(rank, { at, cameAt: now, framesShare: 0, everyMs: everyMsMost });
      return;
    }
    const passed = (at - peer.at + this.#ordinals.size) % this.#ordinals.size;
    if (passed === 0) return; // another frame of the layer
    const everyMs = Math.min(everyMsMost, (now - peer.cameAt) / passed);
    peer.everyMs += newest * (everyMs - peer.everyMs);
    peer.framesShare = peer.framesShare * (1 - newest) ** passed + newest;
    Object.assign(peer, { at, cameAt: now });
  }

  /** The own step's rows have passed this layer or are routed in it; undefined: no own step decodes. */
  own(layer: number | undefined): void {
    this.#own =
      layer === undefined
        ? undefined
        : Math.max(
            0,
            [...this.#ordinals.keys()].findIndex((each) => each > layer),
          );
  }

  isOwnDue(layer: number): boolean {
    return this.#own !== undefined && this.#ordinals.get(layer) === this.#own;
  }

  /** A frame of another rank for this layer comes soon. */
  isDue(layer: number, now: number): boolean {
    const ordinal = this.#ordinals.get(layer);
    return this.#expected(now).some(({ at }) => this.#next(at) === ordinal);
  }

  /** True while some rank's frames are expected. */
  isNear(now: number): boolean {
    return this.#expected(now).length > 0;
  }

  /** Some rank's step is in its second half and ends soon. */
  isEnding(now: number): boolean {
    const last = this.#ordinals.size - 1;
    return this.#expected(now).some(({ at, everyMs }) => at < last && 2 * at >= last && (last - at) * everyMs < togetherMsMost);
  }

  #next(ordinal: number): number {
    return (ordinal + 1) % this.#ordinals.size;
  }

  #expected(now: number): Peer[] {
    return [...this.#peers.values()].filter(
      ({ framesShare, everyMs, cameAt }) =>
        framesShare >= framesShareLeast && everyMs >= everyMsLeast && now - cameAt < lateFactor * everyMs + 1,
    );
  }
}
