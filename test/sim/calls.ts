// gRPC calls as production code sees them at both ends, with a simulated line between them: what of the package's calls is used.
import { EventEmitter } from "node:events";
import { create, type DescMessage, type MessageInitShape } from "@bufbuild/protobuf";
import { connectivityState } from "@grpc/grpc-js";
import { AppError } from "../../crds/common.ts";
import { type Chunk, ChunkSchema, type Read } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { fromStatus, toStatus } from "../../runtime/net/grpc.ts";
import type { ReadCall, ReadHost } from "../../runtime/net/read-host.ts";
import type { BulkRead } from "../../runtime/net/read-link.ts";
import { asOwner } from "./clock.ts";
import { type Host, Line, type SimWire, unavailable } from "./wire.ts";

interface Found {
  readonly host: Host;
  readonly handlers: ReadonlyMap<string, unknown>;
}

export interface CallParts {
  readonly wire: SimWire;
  readonly id: number;
  readonly method: string;
  readonly client: Host;
  readonly find: () => Found | undefined;
  /** Unset: no gRPC, whose messages pass as they are. */
  readonly input?: DescMessage;
  readonly output?: DescMessage;
}

/** Sent to any service: nothing but what the sender put there, and nothing that either end changes afterwards. */
type Message = unknown;
type Init = MessageInitShape<DescMessage>;

/** A call as both ends share it: where they are, and that it is over once. */
export abstract class Call {
  readonly wire: SimWire;
  readonly client: Host;
  server: Host | undefined;
  over = false;
  protected readonly parts: CallParts;
  protected readonly toServer: Line;
  protected readonly toClient: Line;

  constructor(parts: CallParts) {
    this.parts = parts;
    this.wire = parts.wire;
    this.client = parts.client;
    this.toServer = new Line(this, () => ({ from: this.client, to: this.server ?? this.client }));
    this.toClient = new Line(this, () => this.server && { from: this.server, to: this.client });
  }

  abstract begin(args: readonly unknown[]): unknown;
  /** Both ends are told, each as itself. */
  protected abstract clientFailed(error: Error): void;
  protected abstract serverLeft(): void;

  /** The first thing that a client sends finds the server, or nobody. */
  protected open(served: (handler: unknown, server: Host) => void): void {
    this.wire.open(this);
    this.server = this.parts.find()?.host; // where the message goes; cuts on the way hold it up
    this.toServer.send(() => {
      const found = this.parts.find();
      const handler = found?.handlers.get(this.parts.method);
      if (!found || found.host !== this.server || handler === undefined) {
        asOwner(undefined, () => this.wire.clock.after(1, () => this.break(unavailable("the connection was refused"))));
        return;
      }
      served(handler, found.host);
    });
  }

  /** The connection is lost: either end hears of it, unless it is dead itself. */
  break(error: AppError): void {
    this.end();
    const { client, server } = this;
    if (!client.owner.dead) asOwner(client.owner, () => this.clientFailed(toStatus(error)));
    if (server && !server.owner.dead) asOwner(server.owner, () => this.serverLeft());
  }

  protected end(): void {
    this.over = true;
    this.wire.closed(this);
  }

  protected arrived(message: Message, from: Host, to: Host): Message {
    const { id, method } = this.parts;
    return this.wire.taps.arriving(message, { id, method, from, to });
  }

  protected authContext() {
    return { sslPeerCertificate: { subjectaltname: this.client.san } };
  }
}

type Unary = (request: Message, call: unknown) => Promise<object>;

export class UnaryCall extends Call {
  #reject: (error: Error) => void = () => {};

  begin([request, options]: readonly unknown[]): Promise<unknown> {
    const { deadline } = (options ?? {}) as { deadline?: number };
    const { clock, taps } = this.wire;
    return new Promise((resolve, reject) => {
      const late = deadline === undefined ? undefined : clock.after(deadline - clock.now(), () => this.#expire());
      this.#reject = (error) => {
        late?.();
        reject(error);
      };
      const answer = (reply: unknown, error: Error | undefined) => {
        this.end();
        if (error) return this.#reject(error);
        late?.();
        resolve(reply);
      };
      const message = create(this.parts.input as DescMessage, request as Init);
      this.open((handler, server) => {
        const call = { getAuthContext: () => this.authContext() };
        const serve = () => (handler as Unary)(this.arrived(message, this.client, server), call);
        const reply = serve();
        if (taps.duplicates(this.parts.method)) serve().catch(() => {});
        reply.then(
          (answered) =>
            this.toClient.send(() =>
              answer(this.arrived(create(this.parts.output as DescMessage, answered as Init), server, this.client), undefined),
            ),
          (caught) => this.toClient.send(() => answer(undefined, toStatus(caught))),
        );
      });
    });
  }

  #expire(): void {
    if (this.over) return;
    this.end();
    this.#reject(toStatus(new AppError("deadline exceeded", { code: "DeadlineExceeded" })));
  }
  protected clientFailed(error: Error): void {
    this.#reject(error);
  }
  protected serverLeft(): void {}
}

/** The client's end of a stream: an emitter, and what arrived for a `for await`. */
class ClientStream extends EventEmitter {
  readonly call: StreamingCall;
  readonly #values: Message[] = [];
  #ended = false;
  #error: Error | undefined;
  #wake: () => void = () => {};

  constructor(call: StreamingCall) {
    super();
    this.call = call;
  }
  write(message: Message): boolean {
    this.call.fromClient(message);
    return true;
  }
  end(): void {
    this.call.clientEnds();
  }
  cancel(): void {
    this.call.cancel();
  }
  take(message: Message): void {
    if (this.listenerCount("data") === 0) this.#values.push(message);
    this.emit("data", message);
    this.#wake();
  }
  finish(error?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    if (!error) this.emit("end");
    else if (this.listenerCount("error") > 0) this.emit("error", error);
    this.#wake();
  }
  async *[Symbol.asyncIterator](): AsyncGenerator<Message> {
    for (;;) {
      if (this.#values.length > 0) yield this.#values.shift();
      else if (this.#error) throw this.#error;
      else if (this.#ended) return;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

/** The server's end: emitting `error` sends it as the status. */
class ServerStream extends EventEmitter {
  readonly request: Message;
  cancelled = false;
  destroyed = false;
  readonly #call: StreamingCall;

  constructor(call: StreamingCall, request: Message) {
    super();
    this.#call = call;
    this.request = request;
  }
  getAuthContext() {
    return this.#call.auth();
  }
  getDeadline(): number {
    return this.#call.deadline;
  }
  /** `sent` is called when the message has left this end. */
  write(message: Message, sent?: () => void): boolean {
    if (!this.destroyed) this.#call.fromServer(message);
    sent?.();
    return true;
  }
  end(): void {
    this.#close();
    this.#call.serverEnds(undefined);
  }
  get over(): boolean {
    return this.destroyed;
  }
  fail(error: AppError): void {
    this.#close();
    this.#call.serverEnds(toStatus(error));
  }
  override emit(event: string, ...args: unknown[]): boolean {
    if (event !== "error") return super.emit(event, ...args);
    const heard = this.listenerCount("error") > 0 && super.emit(event, ...args);
    this.#close();
    this.#call.serverEnds(args[0] as Error);
    return heard;
  }
  leave(): void {
    if (this.destroyed) return;
    this.cancelled = true;
    this.emit("cancelled");
    this.#close();
  }
  #close(): void {
    if (this.destroyed) return;
    this.destroyed = true;
    queueMicrotask(() => super.emit("close"));
  }
}

abstract class StreamingCall extends Call {
  protected readonly stream = new ClientStream(this);
  protected served: ServerStream | undefined;
  /** By the server's clock, as gRPC has it: calls carry what is left. */
  deadline = Number.POSITIVE_INFINITY;

  protected start(request: Message): ClientStream {
    this.open((handler, server) => {
      this.served = new ServerStream(this, this.arrived(request, this.client, server));
      (handler as (call: ServerStream) => void)(this.served);
    });
    return this.stream;
  }

  auth() {
    return this.authContext();
  }

  fromClient(message: Message): void {
    if (this.over) return;
    this.toServer.send(() => this.served?.emit("data", this.arrived(message, this.client, this.server as Host)));
  }

  clientEnds(): void {
    if (!this.over) this.toServer.send(() => this.served?.emit("end"));
  }

  fromServer(message: Message): void {
    if (this.over) return;
    const transfer = this.wire.taps.transfer(this.parts.method, message);
    this.toClient.send(() => this.stream.take(this.arrived(message, this.server as Host, this.client)), transfer);
  }

  serverEnds(error: Error | undefined): void {
    if (this.over) return;
    this.toClient.send(() => {
      this.end();
      this.stream.finish(error);
    });
  }

  /** The client leaves: it is done with at once, the server hears of it when it can. */
  cancel(): void {
    if (this.over) return;
    this.end();
    const { server } = this;
    const cancelled = toStatus(new AppError("cancelled", { code: "Cancelled" }));
    queueMicrotask(() => this.stream.finish(cancelled));
    if (!server || server.owner.dead) return;
    const heardMs = this.wire.passes(this.client, server) ? 1 : 8_000;
    asOwner(server.owner, () => this.wire.clock.after(heardMs, () => this.serverLeft()));
  }

  protected clientFailed(error: Error): void {
    this.stream.finish(error);
  }
  protected serverLeft(): void {
    this.served?.leave();
  }
}

export class StreamCall extends StreamingCall {
  begin([request, options]: readonly unknown[]): ClientStream {
    const { deadline } = (options ?? {}) as { deadline?: number };
    const { clock } = this.wire;
    if (deadline !== undefined) {
      this.deadline = deadline;
      const stop = clock.after(deadline - clock.now(), () => {
        if (!this.over) this.break(new AppError("deadline exceeded", { code: "DeadlineExceeded" }));
      });
      this.stream.once("end", stop);
    }
    return this.start(create(this.parts.input as DescMessage, request as Init));
  }
}

export class BidiCall extends StreamingCall {
  begin(): ClientStream {
    return this.start(undefined);
  }
}

/** A channel that is connected to whoever listens there. */
export const channelTo = (address: string, find: () => object | undefined) => ({
  getConnectivityState: () => (find() ? connectivityState.READY : connectivityState.TRANSIENT_FAILURE),
  getTarget: () => address,
});

/** A read as its caller has it: what came and was not taken is dropped when it leaves. */
export function bulkRead(stream: ClientStream): BulkRead {
  let left = false;
  return {
    cancel: () => {
      left = true;
      stream.cancel();
    },
    async *[Symbol.asyncIterator]() {
      try {
        for await (const chunk of stream as AsyncIterable<Chunk>) {
          if (left) throw new AppError("the read was cancelled", { code: "Cancelled" });
          yield chunk;
        }
      } catch (caught) {
        throw fromStatus(caught, "reading");
      }
    },
  };
}

/** A read as production's host serves it. */
export function servingReads(host: ReadHost) {
  return (stream: ServerStream): void => {
    const left = new AbortController();
    stream.on("cancelled", () => left.abort(unavailable("the caller has left")));
    const send = async (offset: number, data: Uint8Array) => {
      left.signal.throwIfAborted();
      stream.write(create(ChunkSchema, { offset: BigInt(offset), data }));
    };
    const call = { getAuthContext: () => stream.getAuthContext() as ReturnType<ReadCall["getAuthContext"]>, signal: left.signal, send };
    host.serve(stream.request as Read, call).then(
      () => stream.end(),
      (caught) => stream.fail(AppError.from(caught)),
    );
  };
}
