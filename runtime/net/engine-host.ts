// The serving end of engine connections: other ranks' engine threads send frames to this port. A caller is checked by its certificate and the
// membership, again at each change.
import type { TLSSocket } from "node:tls";
import { AppError } from "../../crds/common.ts";
import { answerFault } from "../placement/frames/frames.ts";
import { computingLimits, FailureDetector } from "./failure-detector.ts";
import { frameKinds, type RawFrame, streamBytesMax } from "./frame-codec.ts";
import { Channel, type Hello } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { decodeHeadsFrame, type HeadsFrame } from "./heads-codec.ts";
import { createTlsListener, type Listener } from "./listener.ts";
import { fromSender, type Identity } from "./mapping.ts";
import { none, PeerConnection, peerAlpn } from "./peer-connection.ts";
import { decodeRowsFrame, encodeDeclined, encodeSeq, pairBytesMax, type RowsAnswer, type RowsFrame, sumsForm } from "./rows-codec.ts";
import { type PeerIdentity, peerIdentity, type TlsSource } from "./tls.ts";

/** Beyond, the caller does not read, and the connection ends. */
const framesPerConnectionMax = 1_024;
/** More are declined; above the caller's own bound, since the caller sees answers earlier. */
const bytesPerConnectionMax = 1.5 * streamBytesMax;
/** Bytes of all connections together. */
const bytesOfAllMax = 2 * streamBytesMax;
const busy = { type: "busy", afterMs: 50 } as const;
const failed = { type: "busy", afterMs: 200 } as const;

export type WorkerIdentity = Extract<PeerIdentity, { role: "worker" }>;

export interface EngineHostOptions {
  readonly tls: Pick<TlsSource, "current">;
  readonly namespace: string;
  readonly name: string;
  readonly hidden: number;
  readonly sums: boolean;
  /** Undefined when the caller is served. */
  readonly refuses: (caller: WorkerIdentity, claimed: Identity) => string | undefined;
  /** The rows stay unchanged until they are sent. When it rejects, the caller goes elsewhere. */
  readonly serve: (frame: RowsFrame, rows: Uint8Array, rank: number) => Promise<RowsAnswer>;
  /** The same for heads of a prompt's attention. Unset: they are rejected. */
  readonly serveHeads?: ((frame: HeadsFrame, rows: Uint8Array, rank: number) => Promise<RowsAnswer>) | undefined;
  readonly onProblem: (message: string) => void;
  /** A frame was refused here, which `serve` never saw. */
  readonly onRefused: (result: "rejected" | "busy") => void;
}

/** The serving end as its user sees it. */
export interface RowsHost {
  readonly connections: number;
  listen(host: string, port: number): Promise<number>;
  /** The membership has changed. */
  recheck(): void;
  /** Call it every `engineLimits.lookMs`. */
  look(nowMs: number): void;
  close(): void;
}

export class EngineHost implements RowsHost {
  readonly options: EngineHostOptions;
  readonly #listener: Listener;
  readonly #connections = new Set<AcceptedEngine>();
  bytes = 0;

  constructor(options: EngineHostOptions) {
    this.options = options;
    this.#listener = createTlsListener(
      options.tls,
      { [peerAlpn]: (socket) => this.#accept(socket) },
      ({ message }) => message && options.onProblem(message),
    );
  }

  get connections(): number {
    return this.#connections.size;
  }
  listen(host: string, port: number): Promise<number> {
    return this.#listener.listen(host, port);
  }
  recheck(): void {
    for (const connection of this.#connections) connection.recheck();
  }
  look(nowMs: number): void {
    for (const connection of this.#connections) connection.look(nowMs);
  }
  close(): void {
    void this.#listener.stop();
    this.#listener.cut();
  }

  #accept(socket: TLSSocket): void {
    const identity = peerIdentity(socket.getPeerCertificate(), this.options.namespace, this.options.name);
    if (identity?.role !== "worker") {
      this.options.onProblem("a connection was refused: the caller's certificate names no worker of this deployment");
      socket.destroy();
      return;
    }
    const connection = new AcceptedEngine(this, socket, identity);
    this.#connections.add(connection);
    socket.once("close", () => this.#connections.delete(connection));
  }
}

class AcceptedEngine {
  readonly #server: EngineHost;
  readonly #caller: WorkerIdentity;
  readonly #connection: PeerConnection;
  readonly #detector = new FailureDetector(computingLimits, performance.now());
  /** `computing`: not answered yet; the others wait to be sent. */
  readonly #held = { frames: 0, computing: 0, bytes: 0 };
  #claimed: Identity | undefined;
  #sums = false;
  #over = false;

  constructor(server: EngineHost, socket: TLSSocket, caller: WorkerIdentity) {
    this.#server = server;
    this.#caller = caller;
    this.#connection = PeerConnection.answer(socket, this.#detector, {
      atOnce: true,
      hello: (hello) => this.#greet(hello),
      frame: (frame) => this.#take(frame),
      ended: ({ message }) => this.#end(message),
      gone: (reason) => {
        this.#over = true;
        if (reason) this.#report(reason.message);
      },
    });
  }

  recheck(): void {
    const reason = this.#claimed && this.#server.options.refuses(this.#caller, this.#claimed);
    if (reason !== undefined) this.#end(reason);
  }
  look(nowMs: number): void {
    const silentMs = this.#detector.look(nowMs);
    if (this.#detector.hasFailed && this.#held.computing === 0) this.#end(`it said nothing for ${Math.round(silentMs)} ms`);
  }

  #end(reason: string): void {
    if (this.#over) return;
    this.#over = true;
    this.#connection.destroy();
    this.#report(reason);
  }
  #report(reason: string): void {
    this.#server.options.onProblem(`the connection of rank ${this.#caller.rank} ended: ${reason}`);
  }

  #take({ kind, head, body }: RawFrame): void {
    if (kind === frameKinds.heads) this.#serveHeads(decodeHeadsFrame(head), body);
    else if (kind === frameKinds.rows) this.#serve(decodeRowsFrame(head), body);
    else throw new AppError(`a frame of kind ${kind} where rows are due`, { code: "InvalidFrame" });
  }

  #greet({ channel, sender, hidden, sums }: Hello): { readonly sums: string } | AppError {
    const { options } = this.#server;
    const claimed = fromSender(sender);
    const reason = channel === Channel.ENGINE ? this.#refusal(hidden, claimed) : `no channel ${channel} here`;
    if (reason !== undefined) {
      this.#over = true;
      this.#report(reason);
      return new AppError(reason, { code: "Forbidden" });
    }
    this.#claimed = claimed;
    this.#sums = options.sums && sums === sumsForm;
    return { sums: this.#sums ? sumsForm : "" };
  }

  #refusal(hidden: number, claimed: Identity): string | undefined {
    const { options } = this.#server;
    return hidden === options.hidden ? options.refuses(this.#caller, claimed) : `hidden: ${hidden}, the model has ${options.hidden}`;
  }

  #serve(frame: RowsFrame, rows: Uint8Array): void {
    const { options } = this.#server;
    const summed = frame.gates !== undefined;
    if (summed && !this.#sums) throw new AppError("gates: sums were not agreed on", { code: "InvalidFrame" });
    const pairs = frame.pairRows.length;
    const bytes = (summed ? 2 : 1) * rows.byteLength + pairs * options.hidden * 4; // as f32
    const fault = answerFault(pairs, options.hidden, pairBytesMax(summed));
    this.#answer({ seq: frame.seq, bytes, fault }, () => options.serve(frame, rows, this.#caller.rank));
  }

  /** Outputs are no larger than what is sent. */
  #serveHeads(frame: HeadsFrame, rows: Uint8Array): void {
    const { serveHeads } = this.#server.options;
    const fault = serveHeads ? undefined : "heads: this rank computes none for others";
    this.#answer({ seq: frame.seq, bytes: 2 * rows.byteLength, fault }, async () => {
      const answer = await serveHeads?.(frame, rows, this.#caller.rank);
      return answer ?? failed;
    });
  }

  #answer({ seq, bytes, fault }: { seq: number; bytes: number; fault: string | undefined }, serve: () => Promise<RowsAnswer>): void {
    const server = this.#server;
    const held = this.#held;
    const over = (had: number, most: number): boolean => had > 0 && had + bytes > most; // a single frame is always accepted
    const heavy = over(held.bytes, bytesPerConnectionMax) || over(server.bytes, bytesOfAllMax);
    if (held.frames >= framesPerConnectionMax) throw new AppError("the caller reads no answers", { code: "Busy" });
    const weight = heavy ? 0 : bytes;
    held.frames += 1;
    held.computing += 1;
    held.bytes += weight;
    server.bytes += weight;
    let left = false;
    const release = (): void => {
      if (left) return;
      left = true;
      held.frames -= 1;
      held.bytes -= weight;
      server.bytes -= weight;
    };
    const answer = (answered: RowsAnswer): void => {
      held.computing -= 1;
      if (this.#over) release();
      else if (answered instanceof Uint8Array) this.#connection.write(frameKinds.reply, encodeSeq(seq), answered, release);
      else this.#connection.write(frameKinds.declined, encodeDeclined(seq, answered), none, release);
    };
    const refusal = fault === undefined ? heavy && busy : ({ type: "rejected", reason: fault } as const);
    if (refusal) {
      server.options.onRefused(refusal.type);
      answer(refusal);
    } else serve().then(answer, () => answer(failed));
  }
}
