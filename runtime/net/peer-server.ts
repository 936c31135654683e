// Connections of the framed protocol that others open to this process: the channel in a hello chooses who serves them.
import type { PeerCertificate, TLSSocket } from "node:tls";
import { AppError } from "../../crds/common.ts";
import { computingLimits, FailureDetector } from "./failure-detector.ts";
import type { Channel, Hello } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { type HostEvents, PeerConnection } from "./peer-connection.ts";

interface Accepted {
  readonly connection: PeerConnection;
  readonly certificate: PeerCertificate;
  readonly hello: Hello;
}

/** Serves one connection; throws for a hello that it refuses. `stop`: this process wants no more of the caller's requests. */
export type ChannelServer = (accepted: Accepted) => Served;
type Served = Omit<HostEvents, "hello" | "bytesMax"> & { readonly stop?: () => void };

/** Bytes of a frame: callers of these channels send a hello and requests. */
const frameBytesMax = 16 * 1024;

export class PeerServer {
  readonly #channels = new Map<Channel, ChannelServer>();
  readonly #open = new Set<{ look(nowMs: number): void; cut(reason?: AppError): void; stop(): void }>();
  readonly #timer: NodeJS.Timeout;
  #onEmpty = () => {};
  #isStopping = false;

  constructor() {
    this.#timer = setInterval(() => this.#look(), computingLimits.lookMs);
    this.#timer.unref();
  }

  add(channel: Channel, server: ChannelServer): void {
    this.#channels.set(channel, server);
  }

  accept(socket: TLSSocket): void {
    const detector = new FailureDetector(computingLimits, performance.now());
    let served: Served | undefined;
    const connection: PeerConnection = PeerConnection.answer(socket, detector, {
      hello: (hello) => {
        if (this.#isStopping) return new AppError("this pod is stopping", { code: "Unavailable" });
        const server = this.#channels.get(hello.channel);
        if (server === undefined) return new AppError(`no channel ${hello.channel} here`, { code: "InvalidRequest" });
        try {
          served = server({ connection, certificate: socket.getPeerCertificate(), hello });
          return served.pong?.() ?? {};
        } catch (caught) {
          return AppError.from(caught, "taking a connection");
        }
      },
      bytesMax: frameBytesMax,
      pong: () => served?.pong?.() ?? {},
      frame: (frame) => served?.frame(frame),
      ended: (reason) => served?.ended(reason),
      gone: (reason) => served?.gone(reason),
      drain: () => served?.drain?.(),
    });
    const cut = (reason?: AppError) => {
      connection.destroy();
      served?.gone(reason);
      served = undefined;
    };
    const look = (nowMs: number) => {
      const silentMs = detector.look(nowMs);
      if (detector.hasFailed) cut(new AppError(`the caller said nothing for ${Math.round(silentMs)} ms`, { code: "Silent" }));
    };
    const open = { look, cut, stop: () => served?.stop?.() };
    this.#open.add(open);
    socket.once("close", () => {
      this.#open.delete(open);
      if (this.#open.size === 0) this.#onEmpty();
    });
  }

  /** Ends idle connections, waits up to graceMs for the other callers to leave, then cuts them. */
  async close(graceMs: number): Promise<void> {
    this.#isStopping = true;
    for (const { stop } of this.#open) stop();
    if (this.#open.size > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, graceMs);
        this.#onEmpty = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    clearInterval(this.#timer);
    for (const { cut } of this.#open) cut();
  }

  #look(): void {
    const nowMs = performance.now();
    for (const { look } of this.#open) look(nowMs);
  }
}
