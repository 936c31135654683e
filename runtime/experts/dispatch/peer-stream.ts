// One long-lived Dispatch stream to one rank: frames out, replies in any order, and the watch that notices a silent host.
// It knows nothing of routing; client.ts decides what to send where and what a failure means.
import { AppError } from "../../../crds/common.ts";
import { type DispatchFrame, DispatchFrameSchema, type DispatchReply, type Sender } from "../../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { type ClientDuplex, fromStatus } from "../../wire/grpc.ts";
import { create } from "../../wire/service.ts";
import type { PeerClients } from "../peers.ts";

/** A host that says nothing for so long, pings included, is suspect (decision: 2 s). */
const silenceMs = 2_000;
const pingEveryMs = 500;
/** Frames sent and not answered on one stream; the engine sends one per layer and destination, so this is far away. */
const inFlightMax = 1_024;

interface Pending {
  readonly resolve: (reply: DispatchReply) => void;
  readonly reject: (error: AppError) => void;
  readonly endsAt: number;
}

export class PeerStream {
  readonly rank: number;
  readonly #sender: Sender;
  readonly #call: ClientDuplex<DispatchFrame, DispatchReply>;
  readonly #pending = new Map<bigint, Pending>();
  readonly #timer: NodeJS.Timeout;
  #seq = 0n;
  #heardAt = performance.now();
  #closed: AppError | undefined;

  constructor(rank: number, clients: PeerClients, sender: Sender) {
    this.rank = rank;
    this.#sender = sender;
    this.#call = clients.experts.dispatch();
    this.#call.on("data", (reply: DispatchReply) => this.#heard(reply));
    this.#call.on("error", (error: Error) => this.close(fromStatus(error, `dispatching to rank ${rank}`)));
    this.#call.on("end", () => this.close(new AppError(`rank ${rank} ended the stream`, { code: "Unavailable", retry: "backoff" })));
    this.#timer = setInterval(() => this.#watch(), pingEveryMs);
    this.#timer.unref();
  }
  get closed(): boolean {
    return this.#closed !== undefined;
  }
  get inFlight(): number {
    return this.#pending.size;
  }

  /** Resolves with the host's answer; rejects when the stream breaks or falls silent, and about when the time is over although the
   *  host still shows signs of life. */
  send(
    frame: Omit<Parameters<typeof create<typeof DispatchFrameSchema>>[1] & object, "sender" | "seq" | "$typeName">,
    maxMs: number,
  ): Promise<DispatchReply> {
    return new Promise((resolve, reject) => {
      if (this.#closed !== undefined) return reject(this.#closed);
      if (this.#pending.size >= inFlightMax) {
        return reject(new AppError(`rank ${this.rank} has ${inFlightMax} frames unanswered`, { code: "Busy", retry: "backoff" }));
      }
      if (this.#pending.size === 0) this.#heardAt = performance.now();
      const seq = ++this.#seq;
      this.#pending.set(seq, { resolve, reject, endsAt: performance.now() + maxMs });
      this.#call.write(create(DispatchFrameSchema, { ...frame, sender: this.#sender, seq }));
    });
  }
  /** Resolves when the host's process answers at all. */
  async ping(): Promise<void> {
    await this.send({}, Number.POSITIVE_INFINITY); // silence ends the stream, and the ping with it
  }

  close(reason: AppError): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    clearInterval(this.#timer);
    this.#call.cancel();
    for (const pending of this.#pending.values()) pending.reject(reason);
    this.#pending.clear();
  }

  #giveUp(seq: bigint, { reject }: Pending): void {
    this.#pending.delete(seq);
    reject(new AppError(`rank ${this.rank} did not come to a frame in its time`, { code: "DeadlineExceeded", retry: "backoff" }));
  }

  #heard(reply: DispatchReply): void {
    this.#heardAt = performance.now();
    const pending = this.#pending.get(reply.seq);
    this.#pending.delete(reply.seq);
    pending?.resolve(reply);
  }

  #watch(): void {
    const now = performance.now();
    for (const [seq, pending] of this.#pending) {
      if (now >= pending.endsAt) this.#giveUp(seq, pending);
    }
    if (this.#pending.size === 0) return;
    const silentMs = now - this.#heardAt;
    if (silentMs >= silenceMs) {
      this.close(new AppError(`rank ${this.rank} said nothing for ${Math.round(silentMs)} ms`, { code: "Unavailable", retry: "backoff" }));
    } else if (silentMs >= pingEveryMs) this.ping().catch(() => {}); // a failed ping closes the stream, which is the report
  }
}
