// This rank's expert work for others, the engine's `remote`: one stream to each rank that it needs, on which its life is watched, and the
// frames in flight. In a small world each rank has one to every other. In a large one it is opened by the first frame and closed when none
// came for a while: ranks that have nothing to do with each other hold no connection. How a frame finds its hosts is frame-run.ts's.
import { AppError } from "../../../crds/common.ts";
import type { RemoteExperts, RemoteFrame } from "../../engine/engine.ts";
import { toSender } from "../../net/mapping.ts";
import { Signal } from "../signal.ts";
import { FrameRun, type FrameRunOptions, type Outbound } from "./frame-run.ts";
import { PeerStream } from "./peer-stream.ts";
import { expertWaitMs } from "./serve-frame.ts";

/** Suspects are asked this often; the first answer clears them. */
const lookEveryMs = 500;
/** A stream that no frame was sent on for so long, nor on the lane beside it, is closed. Longer than a frame may take. */
const streamIdleMs = 60_000;
/** In a world of at most so many members a rank that is gone is known to all of them before a frame or a load needs it: what asks it first
 *  would wait as long as a rank may be silent. */
const watchedMost = 32;

/** What became of a stream: `idle`: it was closed since nobody used it. */
export type StreamEvent = "opened" | "idle" | "ended";

export interface DispatchClientOptions extends FrameRunOptions {
  /** Milliseconds that a frame may take; unset = the time that a request waits for an expert. */
  readonly waitMs?: number;
  /** The port of a rank's lanes, as it says it; undefined: nothing is known of it. */
  readonly onLanes?: (rank: number, port: number | undefined) => void;
  readonly onStream?: (event: StreamEvent) => void;
  /** Milliseconds, for tests, whose worlds count as large; unset = `streamIdleMs`. */
  readonly idleMs?: number;
}

export class DispatchClient implements RemoteExperts {
  readonly #options: DispatchClientOptions;
  readonly #streams = new Map<number, PeerStream>();
  /** Frames in flight by layer and epoch: a layer is drained when none of an older epoch is left. */
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
  /** Ranks to which a stream is open. */
  get streams(): number {
    return this.#streams.size;
  }
  /** Frames went to these ranks on lanes, whose port the stream knows. */
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

  /** Resolves true once no frame of an epoch below this one is in flight for the layer; false after maxMs. */
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
    const onLanes = (port: number) => this.#options.onLanes?.(rank, port);
    const watcher = { onClose, onLanes, indulgence: peers.indulgence(rank) };
    const stream: PeerStream = new PeerStream(rank, clients, toSender(peers.self), watcher);
    this.#streams.set(rank, stream);
    this.#options.onStream?.("opened");
    this.#ping(stream);
    return stream;
  }

  /** Asks for a rank's lanes and for a sign of life. A ping that fails has closed the stream, which is the report. */
  #ping(stream: PeerStream): void {
    stream.ping().then(
      () => this.#options.peers.clear(stream.rank),
      () => {},
    );
  }

  /** A rank whose stream ended is kept away from, although no frame may have met with it: the next one need not find out. */
  #ended(stream: PeerStream, reason: AppError): void {
    const { peers } = this.#options;
    if (this.#closed || this.#streams.get(stream.rank) !== stream) return;
    this.#forget(stream, "ended");
    if (peers.member(stream.rank) === undefined) return;
    peers.suspect(stream.rank, reason);
    if (peers.indulgence(stream.rank).ended(stream.spoke)) peers.reconnect(stream.rank);
  }

  #forget(stream: PeerStream, event: StreamEvent): void {
    this.#streams.delete(stream.rank);
    this.#options.onLanes?.(stream.rank, undefined);
    this.#options.onStream?.(event);
  }

  #look(): void {
    const all = this.#options.peers.membership.members.length <= this.#watchedMost;
    this.#open(all);
    if (all) return;
    const since = performance.now() - this.#idleMs;
    for (const stream of this.#streams.values()) if (!stream.busy && stream.usedAt <= since) this.#leave(stream);
  }

  /** Has streams to all, or to suspects, which are asked for a sign of life: whom a plan names is known to be back before it is needed. */
  #open(all: boolean): void {
    const { peers } = this.#options;
    for (const { rank, state } of peers.membership.members) {
      if (rank === peers.self.rank || state === "lost" || !(all || peers.isSuspect(rank))) continue;
      try {
        const stream = this.#stream(rank);
        if (peers.isSuspect(rank) && stream.inFlight === 0) this.#ping(stream);
      } catch {
        // no client for it yet
      }
    }
  }

  /** Nobody waits for the host, which is none the worse for it: a frame that comes now opens a stream anew. */
  #leave(stream: PeerStream): void {
    this.#forget(stream, "idle");
    stream.close(new AppError(`rank ${stream.rank} was sent no frame for a while`, { code: "Cancelled", retry: "backoff" }));
  }
}
