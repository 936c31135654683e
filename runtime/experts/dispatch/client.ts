// Sends this rank's expert work to other ranks, on one stream per rank, and counts frames in flight.
import { AppError } from "../../../crds/common.ts";
import type { RemoteExperts, RemoteFrame } from "../../engine/engine.ts";
import { toSender } from "../../net/mapping.ts";
import { Signal } from "../signal.ts";
import { FrameRun, type FrameRunOptions, type Outbound } from "./frame-run.ts";
import { PeerStream } from "./peer-stream.ts";
import { expertWaitMs } from "./serve-frame.ts";

const lookEveryMs = 500;
/** Idle milliseconds before a stream closes; longer than a frame may take. */
const streamIdleMs = 60_000;
/** ../DECISIONS.md 4 */
const watchedMost = 32;

/** `idle`: closed because it was unused. */
export type StreamEvent = "opened" | "idle" | "ended";

export interface DispatchClientOptions extends FrameRunOptions {
  /** Milliseconds; unset = the time that a request waits for an expert. */
  readonly waitMs?: number;
  /** Undefined: the rank's engine port is unknown. */
  readonly onEnginePort?: (rank: number, port: number | undefined) => void;
  readonly onStream?: (event: StreamEvent) => void;
  /** Tests set it, and their worlds then count as large; unset = `streamIdleMs`. */
  readonly idleMs?: number;
}

export class DispatchClient implements RemoteExperts {
  readonly #options: DispatchClientOptions;
  readonly #streams = new Map<number, PeerStream>();
  readonly #inFlight = new Map<string, number>();
  readonly #progress = new Signal();
  readonly #outbound: Outbound;
  readonly #idleMs: number;
  readonly #watchedMost: number;
  readonly #timer: NodeJS.Timeout;
  #frames = 0;
  #closed = false;

  constructor(options: DispatchClientOptions) {
    this.#options = options;
    const stream = (rank: number) => this.#stream(rank);
    this.#outbound = { closed: () => this.#closed, progress: this.#progress, lenders: new Map(), stream };
    this.#idleMs = options.idleMs ?? streamIdleMs;
    this.#watchedMost = options.idleMs === undefined ? watchedMost : 0;
    this.#timer = setInterval(() => this.#look(), Math.min(lookEveryMs, this.#idleMs));
    this.#timer.unref();
  }
  get inFlight(): number {
    return this.#frames;
  }
  get streams(): number {
    return this.#streams.size;
  }
  used(ranks: readonly number[]): void {
    for (const rank of ranks) this.#streams.get(rank)?.used();
  }

  async dispatch(frame: RemoteFrame): Promise<Float32Array> {
    const key = `${frame.layer}.${frame.epoch}`;
    this.#inFlight.set(key, (this.#inFlight.get(key) ?? 0) + 1);
    this.#frames += 1;
    try {
      return await new FrameRun(this.#options, this.#outbound, frame, this.#options.waitMs ?? expertWaitMs).run();
    } finally {
      this.#frames -= 1;
      const left = (this.#inFlight.get(key) ?? 1) - 1;
      if (left > 0) this.#inFlight.set(key, left);
      else this.#inFlight.delete(key);
      this.#progress.notify();
    }
  }

  /** False after maxMs: a frame of an older epoch is still in flight. */
  async drained(layer: number, epoch: number, maxMs: number): Promise<boolean> {
    const deadline = performance.now() + maxMs;
    const older = () => [...this.#inFlight.keys()].some((key) => Number(key.split(".")[0]) === layer && Number(key.split(".")[1]) < epoch);
    while (older()) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) return false;
      await this.#progress.wait(leftMs);
    }
    return true;
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const stream of this.#streams.values()) stream.close(new AppError("this rank is stopping", { code: "Cancelled" }));
  }

  #stream(rank: number): PeerStream {
    const { peers } = this.#options;
    const known = this.#streams.get(rank);
    if (known !== undefined && !known.closed) return known;
    const clients = peers.clients(rank);
    if (clients === undefined) throw new AppError(`rank ${rank} is no member`, { code: "Unavailable", retry: "backoff" });
    const onClose = (reason: AppError) => this.#ended(stream, reason);
    const onEnginePort = (port: number) => this.#options.onEnginePort?.(rank, port);
    const watcher = { onClose, onEnginePort, detector: peers.detector(rank) };
    const stream: PeerStream = new PeerStream(rank, clients, toSender(peers.self), watcher);
    this.#streams.set(rank, stream);
    this.#options.onStream?.("opened");
    this.#ping(stream);
    return stream;
  }

  #ping(stream: PeerStream): void {
    stream.ping().then(
      () => this.#options.peers.clear(stream.rank),
      () => {},
    );
  }

  #ended(stream: PeerStream, reason: AppError): void {
    const { peers } = this.#options;
    if (this.#closed || this.#streams.get(stream.rank) !== stream) return;
    this.#forget(stream, "ended");
    if (peers.member(stream.rank) === undefined) return;
    peers.suspect(stream.rank, reason);
    if (peers.detector(stream.rank).ended()) peers.reconnect(stream.rank);
  }

  #forget(stream: PeerStream, event: StreamEvent): void {
    this.#streams.delete(stream.rank);
    this.#options.onEnginePort?.(stream.rank, undefined);
    this.#options.onStream?.(event);
  }

  #look(): void {
    const all = this.#options.peers.membership.members.length <= this.#watchedMost;
    this.#open(all);
    if (all) return;
    const since = performance.now() - this.#idleMs;
    for (const stream of this.#streams.values()) if (!stream.busy && stream.usedAt <= since) this.#leave(stream);
  }

  /** Suspects too, so that a rank is known to be back before it is needed. */
  #open(all: boolean): void {
    const { peers } = this.#options;
    for (const { rank, state } of peers.membership.members) {
      if (rank === peers.self.rank || state === "lost" || !(all || peers.isSuspect(rank))) continue;
      try {
        const stream = this.#stream(rank);
        if (peers.isSuspect(rank) && stream.inFlight === 0) this.#ping(stream);
      } catch {
        // there is no client for it yet
      }
    }
  }

  #leave(stream: PeerStream): void {
    this.#forget(stream, "idle");
    stream.close(new AppError(`rank ${stream.rank} was sent no frame for a while`, { code: "Cancelled", retry: "backoff" }));
  }
}
