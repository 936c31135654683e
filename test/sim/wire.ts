// The simulated network: production clients and handlers of gRPC services, with messages carried between them in virtual time instead
// of over sockets. It takes its time, keeps order within a stream, is cut, breaks with a process, and loses answers; faults and
// onlookers sit on it (`taps`). The calls as both ends see them are in calls.ts.
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import { AppError } from "../../crds/common.ts";
import type { RowsNetwork } from "../../runtime/engine/rows/peer-connections.ts";
import { frameMsMax } from "../../runtime/net/engine-link.ts";
import { ChunkSchema, ReadSchema } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Connected, fromStatus, type GrpcServer, type Network } from "../../runtime/net/grpc.ts";
import type { HeartbeatHandler } from "../../runtime/net/heartbeat.ts";
import type { Identity } from "../../runtime/net/mapping.ts";
import type { BulkRead, ReadLink } from "../../runtime/net/read-link.ts";
import type { RowsAnswer, RowsFrame } from "../../runtime/net/rows-codec.ts";
import type { Handlers } from "../../runtime/net/service.ts";
import { peerIdentity } from "../../runtime/net/tls.ts";
import { noRank } from "../../runtime/placement/dispatch.ts";
import { BidiCall, bulkRead, type Call, channelTo, StreamCall, servingReads, UnaryCall } from "./calls.ts";
import { asOwner, type Owner, type VirtualClock } from "./clock.ts";

/** One that talks: a process of a worker, or of the operator. */
export interface Host {
  readonly owner: Owner;
  /** Rank, or -2 = operator: by which cuts are named. */
  readonly id: number;
  /** subjectaltname of its certificate. */
  readonly san: string;
  /** It runs, but nothing reaches it or leaves it. */
  stalled(): boolean;
}

export interface Taps {
  /** May a message pass between these two now? */
  connected(a: number, b: number): boolean;
  /** Is this call delivered twice? */
  duplicates(method: string): boolean;
  /** Time that this message takes beside the latency, at full speed; `factor` is asked again and again while it is on its way. */
  transfer(method: string, message: unknown): { readonly ms: number; factor(to: Host): number } | undefined;
  /** A message as it arrives: the same one, or a damaged copy. */
  arriving(message: unknown, call: { readonly id: number; readonly method: string; readonly from: Host; readonly to: Host }): unknown;
}

/** Keepalive of the channels: a silent peer breaks its streams after so long. */
const keepaliveMs = 8_000;
const retryMs = 100;
/** A transfer looks again so often how fast it goes. */
const sliceMs = 500;
/** Connections between ranks are calls like any other here, though no gRPC. */
const [heartbeatMethod, rowsMethod, readMethod] = ["heartbeat", "rows", "read"];
const latencyMs = { least: 0.5, most: 3 };

/** A frame of rows and its answer, as taps see them. */
export class SentRows {
  readonly seq: number;
  readonly frame: Omit<RowsFrame, "seq">;
  readonly rows: Uint8Array;

  constructor(seq: number, frame: Omit<RowsFrame, "seq">, rows: Uint8Array) {
    [this.seq, this.frame, this.rows] = [seq, frame, rows];
  }
}
export class AnsweredRows {
  readonly seq: number;
  readonly answer: RowsAnswer;

  constructor(seq: number, answer: RowsAnswer) {
    [this.seq, this.answer] = [seq, answer];
  }
}

/** Either end of a bidirectional call, as it is used here. */
interface Stream<Sent, Received> {
  write(message: Sent): boolean;
  on(event: "data", listener: (message: Received) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end" | "cancelled", listener: () => void): unknown;
  cancel(): void;
  fail(error: AppError): void;
  getAuthContext(): { readonly sslPeerCertificate: never };
}

interface Service {
  readonly host: Host;
  readonly handlers: Map<string, unknown>;
}

export class SimWire {
  readonly clock: VirtualClock;
  readonly taps: Taps;
  readonly #servers = new Map<string, Service>();
  readonly #calls = new Set<Call>();
  #nextCall = 0;

  constructor(clock: VirtualClock, taps: Taps) {
    this.clock = clock;
    this.taps = taps;
  }

  /** The network that a process at this address has instead of gRPC. */
  network(host: Host, address: string): Network {
    const connect = <M extends GenServiceMethods>(service: GenService<M>, target: Parameters<Network["connect"]>[1]) =>
      this.#client(host, service, target);
    const callHeartbeat: Network["callHeartbeat"] = (target, { answered, closed }) => {
      const call = this.#bidi<Identity | undefined, number>(host, heartbeatMethod, target);
      call.on("data", answered);
      call.on("error", (error) => closed(fromStatus(error, "waiting for a heartbeat")));
      call.on("end", () => closed(unavailable("the host left")));
      call.write(target.self);
      return { ping: () => void call.write(undefined), close: () => call.cancel() };
    };
    const connectReads = (target: Parameters<Network["connectReads"]>[0]) => this.#reads(host, target);
    return { connect, callHeartbeat, connectReads, createServer: () => this.#server(host, address) };
  }

  #server(host: Host, address: string): GrpcServer {
    const own: Service = { host, handlers: new Map() };
    return {
      add: <M extends GenServiceMethods>(service: GenService<M>, handlers: Handlers<M>) => {
        for (const [name, handler] of Object.entries(handlers)) own.handlers.set(`${service.typeName}/${name}`, handler);
      },
      addHeartbeats: (handler) => void own.handlers.set(heartbeatMethod, answerHeartbeats(handler)),
      addReads: (reads) => void own.handlers.set(readMethod, servingReads(reads)),
      listen: async () => {
        this.#servers.set(address, own);
        return Number(address.split(":")[1]);
      },
      close: async () => void this.#servers.delete(address),
    };
  }

  #client<M extends GenServiceMethods>(host: Host, service: GenService<M>, target: Parameters<Network["connect"]>[1]): Connected<M> {
    let [closed, signs] = [false, 0];
    const methods: Record<string, unknown> = {
      channel: channelTo(target.address, () => (closed ? undefined : this.#find(target))),
      close: () => {
        closed = true;
      },
      // As many as there were signs of life: one each time that the other end can be reached when it is asked for.
      receivedBytes: () => {
        const found = closed ? undefined : this.#find(target);
        if (found && this.passes(host, found.host)) signs += 1;
        return signs;
      },
    };
    const kinds = { unary: UnaryCall, server_streaming: StreamCall, bidi_streaming: BidiCall } as const;
    for (const { localName, methodKind, input, output } of service.methods) {
      const Kind = kinds[methodKind as keyof typeof kinds];
      methods[localName] = (...args: unknown[]) => {
        const method = `${service.typeName}/${localName}`;
        const line = {
          wire: this,
          id: this.#nextCall++,
          method,
          client: host,
          find: () => (closed ? undefined : this.#find(target)),
          input,
          output,
        };
        return new Kind(line).begin(args);
      };
    }
    return methods as Connected<M>;
  }

  /** The connections of an engine on this host. */
  rows(host: Host): RowsNetwork {
    return {
      connect: (target, self, events) => {
        const call = this.#bidi<Identity | SentRows, true | AnsweredRows>(host, rowsMethod, target);
        const pending = new Map<number, PromiseWithResolvers<RowsAnswer> & { readonly endsAt: number }>();
        let [ready, closed, last] = [false, false, 0];
        const close = (reason: AppError): void => {
          if (closed) return;
          const wasReady = ready;
          [ready, closed] = [false, true];
          call.cancel();
          for (const { reject } of pending.values()) reject(reason);
          events.closed(reason, wasReady);
        };
        call.on("data", (message) => {
          if (message === true) {
            ready = !closed;
            if (ready) events.ready();
            return;
          }
          pending.get(message.seq)?.resolve(message.answer);
          pending.delete(message.seq);
        });
        call.on("error", (error) => close(fromStatus(error, "sending rows")));
        call.on("end", () => close(unavailable("the host left")));
        call.write(self.identity);
        return {
          ...{ sums: false, close },
          get ready() {
            return ready;
          },
          send: ({ rows, ...frame }) => {
            if (!ready) return undefined;
            const seq = ++last;
            call.write(new SentRows(seq, frame, rows().slice()));
            const answered = Promise.withResolvers<RowsAnswer>();
            pending.set(seq, { ...answered, endsAt: performance.now() + frameMsMax(frame) });
            return answered.promise;
          },
          look: (nowMs) => {
            for (const [seq, { reject, endsAt }] of pending) {
              if (nowMs < endsAt) continue;
              pending.delete(seq);
              reject(new AppError("no answer", { code: "DeadlineExceeded" }));
            }
          },
        };
      },
      host: ({ namespace, name, refuses, serve }) => {
        const open = new Set<{ recheck(): void }>();
        const take = (call: Stream<true | AnsweredRows, Identity | SentRows>): void => {
          const caller = peerIdentity(call.getAuthContext().sslPeerCertificate, namespace, name);
          let claimed: Identity | undefined;
          const own = {
            recheck: () => {
              const reason = caller?.role === "worker" && claimed ? refuses(caller, claimed) : "no worker";
              if (claimed && reason) call.fail(new AppError(reason, { code: "Forbidden" }));
            },
          };
          open.add(own);
          for (const event of ["end", "cancelled"] as const) call.on(event, () => open.delete(own));
          call.on("data", (message) => {
            if (!(message instanceof SentRows)) {
              claimed = message;
              own.recheck();
              call.write(true);
              return;
            }
            const failed = { type: "busy", afterMs: 200 } as const;
            serve({ seq: message.seq, ...message.frame }, message.rows, claimed?.rank ?? noRank).then(
              (answer) => call.write(new AnsweredRows(message.seq, answer)),
              () => call.write(new AnsweredRows(message.seq, failed)),
            );
          });
        };
        let at = "";
        return {
          get connections() {
            return open.size;
          },
          listen: async (ip, port) => {
            at = `${ip}:${port}`;
            this.#servers.set(at, { host, handlers: new Map([[rowsMethod, take]]) });
            return port;
          },
          recheck: () => {
            for (const each of open) each.recheck();
          },
          look: () => {},
          close: () => void this.#servers.delete(at),
        };
      },
    };
  }

  #reads(host: Host, target: Parameters<Network["connectReads"]>[0]): ReadLink {
    let closed = false;
    const line = {
      ...{ wire: this, method: readMethod, client: host, input: ReadSchema, output: ChunkSchema },
      find: () => (closed ? undefined : this.#find(target)),
    };
    const open = new Set<BulkRead>();
    return {
      read: (what) => {
        const read = bulkRead(new StreamCall({ ...line, id: this.#nextCall++ }).begin([{ what }]));
        open.add(read);
        return read;
      },
      leave: () => {
        closed = true;
      },
      close: () => {
        closed = true;
        for (const read of open) read.cancel();
      },
    };
  }

  #bidi<Sent, Received>(
    client: Host,
    method: string,
    target: { readonly address: string; readonly serverName: string },
  ): Stream<Sent, Received> {
    const line = { wire: this, id: this.#nextCall++, method, client, find: () => this.#find(target) };
    return new BidiCall(line).begin() as unknown as Stream<Sent, Received>;
  }

  #find(target: Pick<Parameters<Network["connect"]>[1], "address" | "serverName" | "accept">): Service | undefined {
    const found = this.#servers.get(target.address);
    if (!found || found.host.owner.dead) return undefined;
    const { san } = found.host;
    const known = target.accept ? target.accept({ subjectaltname: san } as never) : san.split(", ").includes(`DNS:${target.serverName}`);
    return known ? found : undefined;
  }

  open(call: Call): void {
    this.#calls.add(call);
  }
  closed(call: Call): void {
    this.#calls.delete(call);
  }

  passes(a: Host, b: Host): boolean {
    return a === b || (!a.stalled() && !b.stalled() && this.taps.connected(a.id, b.id));
  }

  /** A process is gone: its streams are reset, where that can be heard at once, else by the keepalive. */
  killed(host: Host): void {
    for (const call of this.#calls) {
      const other = call.client === host ? call.server : call.server === host ? call.client : undefined;
      if (!other) continue;
      const heardMs = this.passes(host, other) ? latencyMs.most : keepaliveMs;
      asOwner(undefined, () => this.clock.after(heardMs, () => call.break(unavailable("the connection was reset"))));
    }
  }
}

const answerHeartbeats = (handler: HeartbeatHandler) => (call: Stream<number, Identity | undefined>) =>
  call.on("data", (sender) => {
    if (sender) handler.greet(call, sender);
    const state = handler.state();
    if (state instanceof AppError) call.fail(state);
    else call.write(state);
  });

export function unavailable(message: string): AppError {
  return new AppError(message, { code: "Unavailable", operation: "simulated network", retry: "backoff" });
}

interface Message {
  readonly at: number;
  readonly run: () => void;
  left: number;
  readonly factor: (to: Host) => number;
}

/** One direction of a call: messages arrive in the order in which they were sent. */
export class Line {
  readonly #queue: Message[] = [];
  readonly #call: Call;
  readonly #ends: () => { readonly from: Host; readonly to: Host } | undefined;
  #moving = false;
  #blockedSince: number | undefined;

  constructor(call: Call, ends: () => { readonly from: Host; readonly to: Host } | undefined) {
    this.#call = call;
    this.#ends = ends;
  }

  /** `run` as the receiver, once it is there. */
  send(run: () => void, transfer?: ReturnType<Taps["transfer"]>): void {
    const { clock } = this.#call.wire;
    const latency = latencyMs.least + clock.random() * (latencyMs.most - latencyMs.least);
    this.#queue.push({ at: clock.exact() + latency, run, left: transfer?.ms ?? 0, factor: transfer?.factor ?? (() => 1) });
    if (this.#moving) return;
    this.#moving = true;
    asOwner(undefined, () => clock.after(latency, () => this.#move()));
  }

  #move(): void {
    const { wire } = this.#call;
    for (let next = this.#queue[0]; next; next = this.#queue[0]) {
      const ends = this.#ends();
      if (this.#call.over || !ends) break;
      const waitMs = this.#waitFor(next, ends.from, ends.to);
      if (waitMs > 0) {
        wire.clock.after(waitMs, () => this.#move());
        return;
      }
      if (this.#call.over) break; // it broke while this was waiting
      this.#queue.shift();
      if (!ends.to.owner.dead) asOwner(ends.to.owner, next.run);
    }
    this.#moving = false;
    if (this.#call.over) this.#queue.length = 0;
  }

  /** The pause before the next look at this message; 0 = it arrives now. */
  #waitFor(message: Message, from: Host, to: Host): number {
    const { wire } = this.#call;
    const now = wire.clock.exact();
    if (message.at > now) return message.at - now;
    if (!wire.passes(from, to)) {
      this.#blockedSince ??= now;
      if (now - this.#blockedSince < keepaliveMs) return retryMs;
      this.#call.break(unavailable("the peer did not answer the keepalive"));
      return 0;
    }
    this.#blockedSince = undefined;
    if (message.left <= 1e-6) return 0;
    const factor = message.factor(to);
    const slice = Math.min(message.left * factor, sliceMs);
    message.left -= slice / factor;
    return slice;
  }
}
