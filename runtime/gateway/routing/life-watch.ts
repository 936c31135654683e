// Watches one worker by heartbeats of its main thread, which come whatever its engine computes. A silent worker is away until it speaks on
// a new connection.
import { AppError } from "../../../crds/common.ts";
import { announcedTimeoutMs, FailureDetector, peerLimits } from "../../net/failure-detector.ts";
import { fromStatus } from "../../net/grpc.ts";
import type { PrefixChanges } from "./known-prefixes.ts";

/** The owner checks the watch this often. */
export const lookEveryMs = peerLimits.lookMs;
/** The retry delay after a refused stream, as from another wire version. */
const refusedMs = 5_000;
/** A server that shuts down cancels its streams. */
const ends: readonly string[] = ["Silent", "Unavailable", "Cancelled"];

interface Heartbeat {
  readonly nextMs: number;
  readonly kvUse?: number | undefined;
  readonly passed?: number;
  readonly prefixes?: PrefixChanges | undefined;
}

export interface LifeStream {
  on(event: "data", listener: (heartbeat: Heartbeat) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  cancel(): void;
}

export interface LifeWatchOptions {
  readonly rank: number;
  readonly open: () => LifeStream;
  /** Called on silence or a broken connection, and again while it is away. `anew`: the next stream needs another connection. */
  readonly onAway: (error: AppError, how: { readonly again: boolean; readonly anew: boolean }) => void;
  readonly onBack: () => void;
  readonly onHeartbeat?: (heartbeat: Heartbeat) => void;
}

export class LifeWatch {
  readonly #options: LifeWatchOptions;
  #stream: LifeStream | undefined;
  readonly #detector = new FailureDetector(peerLimits, 0);
  #openAt = Number.NEGATIVE_INFINITY;
  #lookedAt = 0;
  #isHeard = false;
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
    this.#ended(new AppError(`rank ${rank} sent no heartbeat for ${Math.round(silentMs)} ms`, { code: "Silent" }));
  }

  /** Any message of the worker, here or in a request's stream. */
  heard(): void {
    this.#detector.heard();
  }

  /** Its stream is opened again at the next look, and begins anew. */
  renew(): void {
    const stream = this.#stream;
    this.#stream = undefined;
    stream?.cancel();
  }

  stop(): void {
    this.#openAt = Number.POSITIVE_INFINITY;
    this.renew();
  }

  #open(): void {
    const stream = this.#options.open();
    this.#stream = stream;
    this.#detector.connect(this.#lookedAt);
    this.#isHeard = false;
    stream.on("data", (heartbeat) => {
      if (this.#stream !== stream) return;
      this.#options.onHeartbeat?.(heartbeat);
      this.#isHeard = true;
      this.#detector.heard();
      this.#detector.setTimeout(announcedTimeoutMs(heartbeat.nextMs));
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
    if (!this.#isHeard && !ends.includes(error.code)) this.#openAt = this.#lookedAt + refusedMs;
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
