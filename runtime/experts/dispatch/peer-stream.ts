// One long-lived Dispatch stream to one rank: frames, replies in any order, and the detection of a silent host.
import { AppError } from "../../../crds/common.ts";
import type { DispatchCall } from "../../net/dispatch-link.ts";
import { FailureDetector, peerHeartbeatMs, peerLimits } from "../../net/failure-detector.ts";
import { streamBytesMax } from "../../net/frame-codec.ts";
import { DispatchFrameSchema, type DispatchReply, type Sender } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { fromStatus } from "../../net/grpc.ts";
import { create } from "../../net/service.ts";
import { answerBytes } from "../../placement/frames/frames.ts";
import type { PeerClients } from "../peers.ts";

const inFlightMax = 1_024;

type FrameFields = Omit<Parameters<typeof create<typeof DispatchFrameSchema>>[1] & object, "sender" | "seq" | "$typeName">;

interface Pending {
  readonly resolve: (reply: DispatchReply) => void;
  readonly reject: (error: AppError) => void;
  readonly endsAt: number;
  /** Frame and answer; 0 for a ping. */
  readonly bytes: number;
}

interface Unsent extends Pending {
  readonly frame: FrameFields;
}

export interface StreamWatcher {
  readonly onClose?: (reason: AppError) => void;
  readonly detector?: FailureDetector;
  /** A ping's answer has the port; 0: none. */
  readonly onEnginePort?: (port: number) => void;
}

export class PeerStream {
  readonly rank: number;
  readonly #sender: Sender;
  readonly #watcher: StreamWatcher;
  readonly #call: DispatchCall;
  readonly #pending = new Map<bigint, Pending>();
  readonly #timer: NodeJS.Timeout;
  readonly #unsent: Unsent[] = [];
  #bytes = 0;
  /** The socket is full: a ping can still overtake the frames that wait here. */
  #full = false;
  #seq = 0n;
  readonly #detector: FailureDetector;
  #usedAt = performance.now();
  #closed: AppError | undefined;

  constructor(rank: number, clients: PeerClients, sender: Sender, watcher: StreamWatcher = {}) {
    this.rank = rank;
    this.#sender = sender;
    this.#watcher = watcher;
    this.#detector = watcher.detector ?? new FailureDetector(peerLimits, performance.now());
    this.#detector.connect(performance.now());
    this.#call = clients.experts.dispatch();
    this.#call.on("data", (reply: DispatchReply) => this.#heard(reply));
    this.#call.on("drain", () => this.#drained());
    this.#call.on("error", (error: Error) => this.close(fromStatus(error, `dispatching to rank ${rank}`)));
    this.#call.on("end", () => this.close(new AppError(`rank ${rank} ended the stream`, { code: "Unavailable", retry: "backoff" })));
    this.#timer = setInterval(() => this.#watch(), peerLimits.lookMs);
    this.#timer.unref();
  }
  get closed(): boolean {
    return this.#closed !== undefined;
  }
  get inFlight(): number {
    return this.#pending.size + this.#unsent.length;
  }
  /** True with frames in flight or waiting; pings do not count. */
  get busy(): boolean {
    return this.#bytes > 0 || this.#unsent.length > 0;
  }
  get usedAt(): number {
    return this.#usedAt;
  }
  used(): void {
    this.#usedAt = performance.now();
  }

  /** Rejects when the stream ends, or after about maxMs. Excess frames wait. */
  send(frame: FrameFields, maxMs: number): Promise<DispatchReply> {
    return new Promise((resolve, reject) => {
      if (this.#closed !== undefined) return reject(this.#closed);
      if (this.inFlight >= inFlightMax) {
        return reject(new AppError(`rank ${this.rank} has ${inFlightMax} frames unanswered`, { code: "Busy", retry: "backoff" }));
      }
      const bytes = (frame.rows?.byteLength ?? 0) + answerBytes(frame.pairExperts?.length ?? 0, frame.hidden ?? 0);
      const now = performance.now();
      if (bytes > 0) this.#usedAt = now;
      const unsent: Unsent = { frame, bytes, resolve, reject, endsAt: now + maxMs };
      if (bytes > 0 && (this.#unsent.length > 0 || !this.#fits(bytes))) this.#unsent.push(unsent);
      else this.#write(unsent);
    });
  }

  /** One frame always fits once the socket has space. */
  #fits(bytes: number): boolean {
    return !this.#full && (this.#bytes === 0 || this.#bytes + bytes <= streamBytesMax);
  }

  #drained(): void {
    this.#full = false;
    this.#writeUnsent();
  }
  #writeUnsent(): void {
    for (let next = this.#unsent[0]; next !== undefined && this.#fits(next.bytes); next = this.#unsent[0]) {
      this.#unsent.shift();
      this.#write(next);
    }
  }

  #write({ frame, ...pending }: Unsent): void {
    const seq = ++this.#seq;
    this.#pending.set(seq, pending);
    this.#bytes += pending.bytes;
    if (!this.#call.write(create(DispatchFrameSchema, { ...frame, sender: this.#sender, seq }))) this.#full = true;
  }

  #take(seq: bigint): Pending | undefined {
    const pending = this.#pending.get(seq);
    if (pending === undefined) return undefined;
    this.#pending.delete(seq);
    this.#bytes -= pending.bytes;
    this.#writeUnsent();
    return pending;
  }

  async ping(): Promise<void> {
    const { enginePort } = await this.send({}, Number.POSITIVE_INFINITY); // silence ends the stream and its ping
    if (this.#closed === undefined) this.#watcher.onEnginePort?.(enginePort);
  }

  close(reason: AppError): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    clearInterval(this.#timer);
    this.#call.cancel();
    for (const pending of [...this.#pending.values(), ...this.#unsent]) pending.reject(reason);
    this.#pending.clear();
    this.#unsent.length = 0;
    this.#watcher.onClose?.(reason);
  }

  #giveUp({ reject }: Pending): void {
    reject(new AppError(`rank ${this.rank} did not come to a frame in its time`, { code: "DeadlineExceeded", retry: "backoff" }));
  }

  #heard(reply: DispatchReply): void {
    this.#detector.heard();
    this.#take(reply.seq)?.resolve(reply);
  }

  #watch(): void {
    const now = performance.now();
    for (const late of this.#unsent.filter(({ endsAt }) => now >= endsAt)) {
      this.#unsent.splice(this.#unsent.indexOf(late), 1);
      this.#giveUp(late);
    }
    for (const [seq, { endsAt }] of this.#pending) {
      const late = now >= endsAt ? this.#take(seq) : undefined;
      if (late !== undefined) this.#giveUp(late);
    }
    const silentMs = this.#detector.look(now);
    if (this.#detector.hasFailed) {
      this.close(new AppError(`rank ${this.rank} said nothing for ${Math.round(silentMs)} ms`, { code: "Silent", retry: "backoff" }));
    } else if (silentMs >= peerHeartbeatMs) this.ping().catch(() => {}); // a failed ping closes the stream
  }
}
