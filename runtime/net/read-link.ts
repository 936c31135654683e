// The calling end of bulk reads: a connection for each read that runs, kept for the next one.
import { Readable } from "node:stream";
import { fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { computingLimits, FailureDetector } from "./failure-detector.ts";
import { frameKinds, type RawFrame } from "./frame-codec.ts";
import { Channel, type Chunk, ChunkSchema, ReadSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { type Identity, toSender } from "./mapping.ts";
import { decodeEnd, PeerConnection, type PeerTarget } from "./peer-connection.ts";
import { create } from "./service.ts";

/** Milliseconds until an unused connection closes. */
const idleMs = 60_000;
/** More stay in the socket. */
const chunksHeldMax = 2;

export interface ReadTarget extends PeerTarget {
  readonly self: Identity;
}

/** Ends with the read. A loop over it throws AppError for one that was refused, cancelled or broken. */
export interface BulkRead extends AsyncIterable<Chunk> {
  cancel(reason?: AppError): void;
}

type ReadWhat = NonNullable<MessageInitShape<typeof ReadSchema>["what"]>;

export interface ReadLink {
  read(what: ReadWhat): BulkRead;
  /** Takes no more reads, and ends when those that run have. */
  leave(): void;
  /** Ends its reads. */
  close(): void;
}

const closed = () => new AppError("the link was closed", { code: "Cancelled" });
const cancelled = () => new AppError("the read was cancelled", { code: "Cancelled" });

export function connectReads(target: ReadTarget): ReadLink {
  return new Link(target);
}

class Link implements ReadLink {
  readonly #target: ReadTarget;
  readonly #connections = new Set<Connection>();
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(target: ReadTarget) {
    this.#target = target;
  }

  read(what: ReadWhat): BulkRead {
    const reading = new Reading();
    try {
      const free = [...this.#connections].find(({ isFree }) => isFree) ?? this.#connect();
      free.begin(reading, toBinary(ReadSchema, create(ReadSchema, { what })));
    } catch (caught) {
      reading.destroy(AppError.from(caught, `connecting to ${this.#target.address}`));
    }
    return reading;
  }

  leave(): void {
    this.#isClosed = true;
    for (const connection of this.#connections) if (connection.isFree) connection.close(closed());
  }

  close(): void {
    this.#isClosed = true;
    for (const connection of this.#connections) connection.close(closed());
  }

  #connect(): Connection {
    if (this.#isClosed) throw new AppError("the link is closed", { code: "Cancelled" });
    const connection: Connection = new Connection(this.#target, () => {
      this.#connections.delete(connection);
      if (this.#connections.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    });
    this.#connections.add(connection);
    this.#timer ??= setInterval(() => this.#look(), computingLimits.lookMs).unref();
    return connection;
  }

  #look(): void {
    const nowMs = performance.now();
    for (const connection of this.#connections) connection.look(nowMs, this.#isClosed);
  }
}

class Connection {
  readonly #connection: PeerConnection;
  readonly #detector = new FailureDetector(computingLimits, performance.now());
  readonly #onGone: () => void;
  #request: Uint8Array | undefined;
  #reading: Reading | undefined;
  #usedAt = performance.now();
  #receivedBytes = 0;
  #connected = false;
  #paused = false;

  constructor(target: ReadTarget, onGone: () => void) {
    this.#onGone = onGone;
    const hello = { sender: toSender(target.self), channel: Channel.BULK };
    this.#connection = PeerConnection.call(target, hello, this.#detector, {
      connected: () => {
        this.#connected = true;
        this.#ask();
      },
      frame: (frame) => this.#take(frame),
      ended: ({ code, message }) => {
        throw new AppError(message, { code, operation: "reading", retry: "backoff" });
      },
      gone: (reason) => this.#gone(reason ?? new AppError("the host ended the connection", { code: "Unavailable", retry: "backoff" })),
    });
  }

  get isFree(): boolean {
    return this.#reading === undefined;
  }

  begin(reading: Reading, request: Uint8Array): void {
    this.#reading = reading;
    this.#request = request;
    reading.onRead = () => this.#resume();
    reading.onLeft = () => this.close(cancelled());
    this.#ask();
  }

  /** Call it every `lookMs`. A paused socket says nothing about the host, and a part of a chunk that it lives. `isLast`: no read follows. */
  look(nowMs: number, isLast: boolean): void {
    const { receivedBytes } = this.#connection;
    if (this.#paused || receivedBytes > this.#receivedBytes) this.#detector.heard();
    this.#receivedBytes = receivedBytes;
    const silentMs = this.#detector.look(nowMs);
    if (this.#detector.hasFailed)
      this.close(new AppError(`the host said nothing for ${Math.round(silentMs)} ms`, { code: "Silent", retry: "backoff" }));
    else if (this.isFree && (isLast || nowMs - this.#usedAt >= idleMs)) this.close(new AppError("it was not used", { code: "Cancelled" }));
    else if (this.#connected && !this.#connection.isFull) this.#connection.ping();
  }

  close(reason: AppError): void {
    this.#connection.destroy();
    this.#gone(reason);
  }

  #ask(): void {
    if (!this.#connected || this.#request === undefined) return;
    this.#connection.write(frameKinds.read, this.#request);
    this.#request = undefined;
  }

  #take({ kind, head, body }: RawFrame): void {
    const reading = this.#reading;
    if (reading === undefined || (kind !== frameKinds.chunk && kind !== frameKinds.declined))
      throw new AppError(`a frame of kind ${kind} where ${reading ? "a chunk" : "a heartbeat"} is due`, { code: "InvalidFrame" });
    if (kind === frameKinds.declined) {
      const { code, message } = decodeEnd(head);
      this.#done()?.destroy(new AppError(message, { code, operation: "reading", retry: "backoff" }));
    } else if (body.byteLength === 0) this.#done()?.push(null);
    else if (!reading.push(Object.assign(fromBinary(ChunkSchema, head), { data: body }))) {
      this.#paused = true;
      this.#connection.pause();
    }
  }

  #resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#connection.resume();
  }

  #done(): Reading | undefined {
    const reading = this.#reading;
    this.#reading = undefined;
    this.#usedAt = performance.now();
    this.#resume();
    if (reading) reading.onLeft = () => {};
    return reading;
  }

  #gone(reason: AppError): void {
    this.#onGone();
    this.#done()?.destroy(reason);
  }
}

class Reading extends Readable implements BulkRead {
  onRead = () => {};
  onLeft = () => {};

  constructor() {
    super({ objectMode: true, highWaterMark: chunksHeldMax });
    this.on("error", () => {}); // a loop throws it
  }
  override _read(): void {
    this.onRead();
  }
  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.onLeft();
    callback(error);
  }
  cancel(reason = cancelled()): void {
    this.destroy(reason);
  }
}
