// The answering end of lanes: a port of its own, on which other ranks' engine threads send frames to this one. Who a caller is, is asked
// once, of its certificate and of the membership, and again whenever that changes; what a frame asks is its server's business.
import type { TLSSocket } from "node:tls";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { frameKinds, type RawFrame, streamBytesMax } from "./frame-codec.ts";
import { FrameSocket, lanesAlpn } from "./frame-socket.ts";
import { LaneHelloSchema, LaneWelcomeSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { decodeLaneFrame, encodeSeq, type LaneFrame, pairBytesMax, sumsForm } from "./lane-codec.ts";
import { laneLookMs } from "./lane-link.ts";
import { createTlsListener, type Listener } from "./listener.ts";
import { fromSender, type Identity } from "./mapping.ts";
import { Silence } from "./silence.ts";
import { type PeerIdentity, peerIdentity, type TlsSource } from "./tls.ts";

/** A caller asks at least every 2 s whether this end lives, unless it hears from it. */
const callerSilenceMs = 8_000;
/** Frames of one lane whose answer has not left: beyond, the caller reads none, and the lane ends. */
const framesPerLaneMax = 1_024;
/** Their bytes with those of the answers; more are declined. An honest caller hears of an answer a little before this end does. */
const bytesPerLaneMax = 1.5 * streamBytesMax;
/** The same of all lanes together, a lane's first frame among them; streams of Dispatch have as much (experts/dispatch/server.ts), and
 *  there a frame that is declined goes. */
const bytesOfAllMax = 2 * streamBytesMax;
const none = new Uint8Array(0);

export type LaneWorker = Extract<PeerIdentity, { role: "worker" }>;

export interface LaneServerOptions {
  readonly tls: Pick<TlsSource, "current">;
  readonly namespace: string;
  readonly name: string;
  readonly hidden: number;
  /** Answers sums to callers that ask for them. */
  readonly sums: boolean;
  /** The reason why this caller is not served; undefined when it is. */
  readonly refuses: (caller: LaneWorker, claimed: Identity) => string | undefined;
  /** A frame's answer: its rows, which stay as they are until they have left; undefined: it is to be asked for by Dispatch. */
  readonly serve: (frame: LaneFrame, rows: Uint8Array) => Promise<Uint8Array | undefined>;
  /** A lane was refused, or broke. */
  readonly onProblem: (message: string) => void;
}

export class LaneServer {
  readonly options: LaneServerOptions;
  readonly #listener: Listener;
  readonly #lanes = new Set<ServedLane>();
  /** Of all lanes. */
  bytes = 0;

  constructor(options: LaneServerOptions) {
    this.options = options;
    this.#listener = createTlsListener(options.tls, { [lanesAlpn]: (socket) => this.#accept(socket) });
  }

  get lanes(): number {
    return this.#lanes.size;
  }
  listen(host: string, port: number): Promise<number> {
    return this.#listener.listen(host, port);
  }
  /** Ends the lanes of callers that are served no more. */
  recheck(): void {
    for (const lane of this.#lanes) lane.recheck();
  }
  /** To be called every `laneLookMs`. */
  look(nowMs: number): void {
    for (const lane of this.#lanes) lane.look(nowMs);
  }
  close(): void {
    void this.#listener.stop();
    this.#listener.cut();
  }

  #accept(socket: TLSSocket): void {
    const identity = peerIdentity(socket.getPeerCertificate(), this.options.namespace, this.options.name);
    if (identity?.role !== "worker") {
      this.options.onProblem("a lane was refused: the caller's certificate names no worker of this deployment");
      socket.destroy();
      return;
    }
    const lane = new ServedLane(this, socket, identity);
    this.#lanes.add(lane);
    socket.once("close", () => this.#lanes.delete(lane));
  }
}

class ServedLane {
  readonly #server: LaneServer;
  readonly #caller: LaneWorker;
  readonly #frames: FrameSocket;
  readonly #silence = new Silence(laneLookMs, performance.now());
  /** Of the frames held, `computing` are not answered yet; the answers of the others wait to leave. */
  readonly #held = { frames: 0, computing: 0, bytes: 0 };
  #claimed: Identity | undefined;
  #sums = false;
  #over = false;

  constructor(server: LaneServer, socket: TLSSocket, caller: LaneWorker) {
    this.#server = server;
    this.#caller = caller;
    this.#frames = new FrameSocket(socket, {
      atOnce: true,
      frame: (frame) => this.#take(frame),
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
    const silentMs = this.#silence.look(nowMs);
    if (silentMs >= callerSilenceMs && this.#held.computing === 0) this.#end(`it said nothing for ${Math.round(silentMs)} ms`);
  }

  #end(reason: string): void {
    if (this.#over) return;
    this.#over = true;
    this.#frames.destroy();
    this.#report(reason);
  }
  #report(reason: string): void {
    this.#server.options.onProblem(`the lane of rank ${this.#caller.rank} ended: ${reason}`);
  }

  #take({ kind, head, body }: RawFrame): void {
    this.#silence.heard();
    if (this.#claimed === undefined) this.#greet(kind, head);
    else if (kind === frameKinds.ping) this.#frames.write({ kind: frameKinds.ping, head: none, body: none });
    else if (kind === frameKinds.frame) this.#serve(decodeLaneFrame(head), body);
    else throw new AppError(`a frame of kind ${kind} where rows are due`, { code: "InvalidFrame" });
  }

  #greet(kind: number, head: Uint8Array): void {
    if (kind !== frameKinds.hello) throw new AppError("a lane that begins without a hello", { code: "InvalidFrame" });
    const { sender, hidden, sums } = fromBinary(LaneHelloSchema, head);
    const { options } = this.#server;
    const claimed = fromSender(sender);
    const reason =
      hidden === options.hidden ? options.refuses(this.#caller, claimed) : `hidden: ${hidden}, the model has ${options.hidden}`;
    if (reason === undefined) {
      this.#claimed = claimed;
      this.#sums = options.sums && sums === sumsForm;
      const welcome = create(LaneWelcomeSchema, { sums: this.#sums ? sumsForm : "" });
      this.#frames.write({ kind: frameKinds.ping, head: toBinary(LaneWelcomeSchema, welcome), body: none });
    } else this.#end(reason);
  }

  #serve(frame: LaneFrame, rows: Uint8Array): void {
    const server = this.#server;
    const held = this.#held;
    const summed = frame.gates !== undefined;
    if (summed && !this.#sums) throw new AppError("gates: sums were not agreed on", { code: "InvalidFrame" });
    const pairBytes = frame.pairRows.length * server.options.hidden * 4;
    const bytes = (summed ? 2 : 1) * rows.byteLength + pairBytes; // as f32
    const over = (had: number, most: number): boolean => had > 0 && had + bytes > most; // a frame alone is never too heavy
    const heavy = over(held.bytes, bytesPerLaneMax) || over(server.bytes, bytesOfAllMax);
    if (held.frames >= framesPerLaneMax) throw new AppError("the caller reads no answers", { code: "Busy" });
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
    const answer = (body: Uint8Array | undefined): void => {
      held.computing -= 1;
      const kind = body === undefined ? frameKinds.declined : frameKinds.reply;
      if (this.#over) release();
      else this.#frames.write({ kind, head: encodeSeq(frame.seq), body: body ?? none }, release);
    };
    if (heavy || pairBytes > pairBytesMax(summed)) answer(undefined);
    else server.options.serve(frame, rows).then(answer, () => answer(undefined));
  }
}
