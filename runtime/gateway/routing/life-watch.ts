// The watch over one worker's life: a stream on which its main thread says every so often that it lives, whatever its engine computes.
// A worker that stops saying so is away until it speaks again, on a new connection. Time is told by who looks; what it means for
// requests is worker-pool.ts's business.
import { AppError } from "../../../crds/common.ts";
import { FailureDetector, peerLimits } from "../../net/failure-detector.ts";
import { fromStatus } from "../../net/grpc.ts";

/** The watch is to be looked at so often. */
export const lookEveryMs = peerLimits.lookMs;
/** A worker that speaks seldom may be silent for longer than others. */
const silenceMostMs = 10_000;
/** Heartbeats that may be late or lost, of those that were announced. */
const signsMissed = 3;
/** A worker that refuses the stream, as one of another wire version does, is asked again this much later. */
const refusedMs = 5_000;
/** The codes of a stream that ends with its worker or the way to it: a server that shuts down cancels what runs. */
const ends: readonly string[] = ["Silent", "Unavailable", "Cancelled"];

/** A sign of life, and what the worker says of itself in it. */
interface LifeSign {
  readonly nextMs: number;
  readonly kvUse?: number | undefined;
}

/** The stream of signs, as the watch sees it. */
export interface LifeStream {
  on(event: "data", listener: (sign: LifeSign) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  cancel(): void;
}

export interface LifeWatchOptions {
  readonly rank: number;
  readonly open: () => LifeStream;
  /** No sign of life came, or the connection broke; told again while it is away. `anew`: the next stream needs another connection. */
  readonly onAway: (error: AppError, how: { readonly again: boolean; readonly anew: boolean }) => void;
  readonly onBack: () => void;
  readonly onSign?: (sign: LifeSign) => void;
}

export class LifeWatch {
  readonly #options: LifeWatchOptions;
  #stream: LifeStream | undefined;
  readonly #detector = new FailureDetector(peerLimits, 0);
  #openAt = Number.NEGATIVE_INFINITY;
  #lookedAt = 0;
  /** A sign came on this stream. */
  #signed = false;
  #awaySince: number | undefined;
  #broke = false;

  constructor(options: LifeWatchOptions) {
    this.#options = options;
  }

  get away(): boolean {
    return this.#awaySince !== undefined;
  }

  look(nowMs: number): void {
    const silentMs = this.#detector.look(nowMs);
    this.#lookedAt = nowMs;
    if (this.#stream === undefined) {
      if (nowMs >= this.#openAt) this.#open();
      return;
    }
    if (!this.#detector.hasFailed) return;
    const { rank } = this.#options;
    this.#ended(new AppError(`rank ${rank} showed no sign of life for ${Math.round(silentMs)} ms`, { code: "Silent" }));
  }

  /** The worker said something, here or in the stream of a request. */
  heard(): void {
    this.#detector.heard();
  }

  stop(): void {
    this.#openAt = Number.POSITIVE_INFINITY;
    const stream = this.#stream;
    this.#stream = undefined;
    stream?.cancel();
  }

  #open(): void {
    const stream = this.#options.open();
    this.#stream = stream;
    this.#detector.connect(this.#lookedAt);
    this.#signed = false;
    stream.on("data", (sign) => {
      if (this.#stream !== stream) return;
      this.#options.onSign?.(sign);
      this.#signed = true;
      this.#detector.heard();
      this.#detector.setTimeout(Math.min(silenceMostMs, Math.max(peerLimits.timeoutMs, signsMissed * sign.nextMs)));
      if (this.#awaySince !== undefined && !this.#broke) this.#detector.recovered(this.#lookedAt - this.#awaySince, this.#lookedAt);
      this.#lives();
    });
    const ended = (error: AppError) => void (this.#stream === stream && this.#ended(error));
    stream.on("error", (error) => ended(fromStatus(error, `watching rank ${this.#options.rank}`)));
    stream.on("end", () => ended(new AppError(`rank ${this.#options.rank} ended its heartbeats`, { code: "Unavailable" })));
  }

  #ended(error: AppError): void {
    const stream = this.#stream;
    this.#stream = undefined;
    stream?.cancel();
    if (!this.#signed && !ends.includes(error.code)) this.#openAt = this.#lookedAt + refusedMs;
    const again = this.#awaySince !== undefined;
    this.#awaySince ??= this.#lookedAt;
    this.#broke = error.code !== "Silent";
    this.#options.onAway(error, { again, anew: this.#detector.ended() });
  }

  #lives(): void {
    if (this.#awaySince === undefined) return;
    this.#awaySince = undefined;
    this.#options.onBack();
  }
}
