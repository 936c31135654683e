// The connections of a listening socket, from accept on: bounded in number, by address, and in time until TLS is agreed on (DECISIONS.md 12).
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Server, Socket } from "node:net";
import { Server as TlsServer } from "node:tls";
import type { ConnectionRefusal } from "../../crds/names.ts";

const handshakeMsDefault = 20_000;
const lookMs = 1_000;
/** A message of the same reason is repeated after this. */
const saidAgainMs = 60_000;

/** A process has at most four listening sockets. */
const shareOfDescriptors = 1 / 8;

export interface ConnectionBounds {
  /** Less where the process may have few file descriptors (ulimit -n). */
  readonly total: number;
  /** One address may have so many, those in use not counted: clients behind a proxy share its address. */
  readonly perAddress: number;
  /** Where all others are in use, the oldest of them gives way to a newcomer. */
  readonly endsUsed?: boolean;
  /** Until TLS is agreed on. */
  readonly handshakeMs?: number;
}

interface Refused {
  readonly reason: ConnectionRefusal;
  readonly connections: number;
  /** Once a minute. */
  readonly message: string | undefined;
}

/** Called once a second for each reason that occurred. */
export type RefusalReport = (refused: Refused) => void;

export interface RefusalCounter {
  add(name: "enodia_refused_connections_total", amount: number, labels: { port: string; reason: ConnectionRefusal }): void;
}

export interface RefusalLog {
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
}

interface Reporters {
  readonly log: RefusalLog;
  readonly metrics?: RefusalCounter | undefined;
}

/** `port`: its name in logs and metrics. */
export function refusalReport(port: string, { log, metrics }: Reporters): RefusalReport {
  return ({ reason, connections, message }) => {
    metrics?.add("enodia_refused_connections_total", connections, { port, reason });
    if (message !== undefined) log.warn({ port, reason }, message);
  };
}

const messages: Readonly<Record<ConnectionRefusal, (bounds: ConnectionBounds) => string>> = {
  accept: () => "connections could not be accepted",
  address: ({ perAddress }) => `connections ended: one address has more than ${perAddress} that are not in use`,
  handshake: ({ handshakeMs = handshakeMsDefault }) => `connections ended: TLS was not agreed on within ${handshakeMs} ms`,
  total: ({ total }) => `connections ended: there are more than ${total} (a process with few file descriptors has fewer: ulimit -n)`,
};

interface Open {
  readonly socket: Socket;
  readonly address: string;
  readonly peer: string;
  readonly handshakeUntil: number;
}

/** The same for a socket and for the TLS socket around it. */
const peerOf = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`;

/** Where no descriptor is left, the kernel's error is not told to us, and files cannot be opened either. */
function descriptorsMax(): number {
  try {
    return Number(/^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? Number.POSITIVE_INFINITY);
  } catch {
    return Number.POSITIVE_INFINITY; // not on Linux
  }
}

export class Connections {
  readonly #bounds: ConnectionBounds;
  readonly #report: RefusalReport;
  readonly #open = new Map<string, Open>();
  readonly #handshakes = new Set<Open>();
  /** The key is the address; the longest idle comes first. */
  readonly #idle = new Map<string, Set<Open>>();
  /** How many requests use each: a client may send several at once. */
  readonly #used = new Map<Open, number>();
  readonly #refused = new Map<ConnectionRefusal, number>();
  readonly #saidAt = new Map<ConnectionRefusal, number>();

  /** Before `server` listens. */
  constructor(server: Server, bounds: ConnectionBounds, report: RefusalReport = () => {}) {
    this.#bounds = { ...bounds, total: Math.min(bounds.total, Math.floor(descriptorsMax() * shareOfDescriptors)) };
    this.#report = report;
    let looks: NodeJS.Timeout | undefined;
    server.prependListener("connection", (socket: Socket) => this.#admit(socket, server instanceof TlsServer));
    server.on("secureConnection", (socket: Socket) => {
      const open = this.#open.get(peerOf(socket));
      if (open) this.#handshakes.delete(open);
    });
    server.prependListener("request", (request: IncomingMessage, response: ServerResponse) => this.#answer(request, response));
    server.on("error", () => looks && this.#count("accept")); // without a listener it would end the process
    server.once("listening", () => {
      looks = setInterval(() => this.#look(performance.now()), lookMs).unref();
    });
    server.once("close", () => clearInterval(looks));
  }

  /** It is no longer ended for a newcomer. Returns the end of its use. */
  use(socket: Socket): () => void {
    const open = this.#open.get(peerOf(socket));
    if (!open) return () => {};
    this.#leaveIdle(open);
    this.#used.set(open, (this.#used.get(open) ?? 0) + 1);
    return () => {
      const uses = this.#used.get(open);
      if (uses === undefined) return;
      if (uses > 1) this.#used.set(open, uses - 1);
      else if (this.#used.delete(open)) this.#rest(open);
    };
  }

  /** Ends all, also during a handshake. */
  cut(): void {
    for (const { socket } of this.#open.values()) socket.destroy();
  }

  #admit(socket: Socket, hasHandshake: boolean): void {
    const address = socket.remoteAddress;
    if (address === undefined) return void socket.destroy(); // already closed
    const open = {
      socket,
      address,
      peer: peerOf(socket),
      handshakeUntil: performance.now() + (this.#bounds.handshakeMs ?? handshakeMsDefault),
    };
    this.#open.set(open.peer, open);
    socket.once("close", () => this.#leave(open));
    if (hasHandshake) this.#handshakes.add(open);
    const same = this.#rest(open);
    if (same.size > this.#bounds.perAddress) this.#end(first(same) ?? open, "address");
    else if (this.#open.size > this.#bounds.total) this.#end(this.#victim(open), "total");
  }

  /** The longest idle one of the address that has most of them. */
  #victim(newest: Open): Open {
    let most = new Set<Open>();
    for (const same of this.#idle.values()) if (same.size > most.size) most = same;
    const victim = first(most) ?? newest;
    return victim === newest && this.#bounds.endsUsed ? (this.#used.keys().next().value ?? newest) : victim;
  }

  /** A request is answered, so the connection is in use, once it has been read. */
  #answer(request: IncomingMessage, response: ServerResponse): void {
    let rest = () => {};
    const use = () => {
      rest = this.use(request.socket);
    };
    const { "content-length": bytes = "0", "transfer-encoding": encoding } = request.headers;
    if (bytes === "0" && encoding === undefined) use();
    else request.once("end", use);
    response.once("close", () => {
      request.off("end", use);
      rest();
    });
  }

  #rest(open: Open): Set<Open> {
    const same = this.#idle.get(open.address) ?? new Set();
    this.#idle.set(open.address, same.add(open));
    return same;
  }

  #leaveIdle(open: Open): void {
    const same = this.#idle.get(open.address);
    if (same?.delete(open) && same.size === 0) this.#idle.delete(open.address);
  }

  #leave(open: Open): void {
    if (this.#open.get(open.peer) === open) this.#open.delete(open.peer);
    this.#handshakes.delete(open);
    this.#used.delete(open);
    this.#leaveIdle(open);
  }

  #end(open: Open, reason: ConnectionRefusal): void {
    this.#count(reason);
    this.#leave(open);
    open.socket.destroy();
  }

  #count(reason: ConnectionRefusal): void {
    this.#refused.set(reason, (this.#refused.get(reason) ?? 0) + 1);
  }

  #look(now: number): void {
    for (const open of this.#handshakes) {
      if (open.handshakeUntil > now) break; // the others came later
      this.#end(open, "handshake");
    }
    for (const [reason, connections] of this.#refused) {
      const isDue = now - (this.#saidAt.get(reason) ?? Number.NEGATIVE_INFINITY) >= saidAgainMs;
      if (isDue) this.#saidAt.set(reason, now);
      this.#report({ reason, connections, message: isDue ? `${connections} ${messages[reason](this.#bounds)}` : undefined });
    }
    this.#refused.clear();
  }
}

const first = (opens: ReadonlySet<Open>): Open | undefined => opens.values().next().value;
