// The traffic of the ranks of a simulated fleet, summed over all that run in this process: bytes that the operator sends them, connections
// among themselves, load messages, and how long a membership or a plan takes from the first rank to the last.
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { Socket } from "node:net";
import { ports } from "../../crds/common.ts";
import type { Bus } from "../../runtime/net/nats.ts";
import type { Metrics } from "../../runtime/observe/runtime-metrics.ts";
import type { ScaleRank } from "./ranks.ts";

/** The ranks' versions are looked at this often. */
const lookMs = 20;
/** Versions whose way is followed at once; more are not counted. */
const versionsMax = 1_024;

interface Spread {
  /** Versions that some rank had. */
  readonly versions: number;
  /** Seconds from the first rank to the last, of the slowest version. */
  readonly slowest: number;
}

/** Follows one number that grows on every rank. */
export class Versions {
  readonly #first = new Map<number, number>();
  #versions = 0;
  #slowest = 0;
  #newest = 0;

  look(values: readonly number[], now: number): void {
    if (values.length === 0) return;
    const [least, most] = [Math.min(...values), Math.max(...values)];
    if (most > this.#newest && this.#first.size < versionsMax) {
      this.#newest = most;
      this.#versions += 1;
      this.#first.set(most, now);
    }
    for (const [version, first] of this.#first) {
      if (version > least) continue;
      this.#slowest = Math.max(this.#slowest, (now - first) / 1000);
      this.#first.delete(version);
    }
  }

  take(): Spread {
    const taken = { versions: this.#versions, slowest: this.#slowest };
    [this.#versions, this.#slowest] = [0, 0];
    return taken;
  }
}

/** Totals since the start. */
export interface Totals {
  /** Bytes of TLS that came from the operator, and connections that it has made. */
  readonly operatorBytes: number;
  readonly operatorConnections: number;
  /** Connections from rank to rank. */
  readonly opened: number;
  readonly closed: number;
  /** Load messages and their bytes. */
  readonly loadMessages: number;
  readonly loadBytes: number;
  /** Experts that came from other ranks, and from the model store. */
  readonly fromPeers: number;
  readonly fromStore: number;
}

export class Tally {
  readonly #ranks = new Set<ScaleRank>();
  readonly #memberships = new Versions();
  readonly #plans = new Versions();
  readonly #counters = new Map<string, number>();
  /** Connections that a rank has accepted, by its address and the other end's port, and the same of those that a rank has made. */
  readonly #accepted = new Map<string, Socket>();
  readonly #made = new Set<string>();
  #operatorBytes = 0;
  #operatorConnections = 0;
  #opened = 0;
  #closed = 0;
  #loadMessages = 0;
  #loadBytes = 0;
  readonly #timer: NodeJS.Timeout;

  constructor() {
    subscribe("net.client.socket", this.#onClient);
    subscribe("net.server.socket", this.#onServer);
    this.#timer = setInterval(() => this.#look(), lookMs);
  }

  /** What ranks count of themselves; one for all of them. */
  readonly metrics = {
    add: (name: string, amount: number, labels: Readonly<Record<string, string>> = {}) => {
      const key = `${name} ${Object.values(labels).join(" ")}`;
      this.#counters.set(key, (this.#counters.get(key) ?? 0) + amount);
    },
    ...{ set() {}, observe() {}, onCollect() {} },
  } as unknown as Metrics<"worker">;

  /** The bus with its messages counted. */
  counting(bus: Bus): Bus {
    const publish: Bus["publish"] = (subject, payload) => {
      this.#loadMessages += 1;
      this.#loadBytes += payload.length;
      return bus.publish(subject, payload);
    };
    return Object.assign(Object.create(bus) as Bus, { publish });
  }

  get ranks(): ReadonlySet<ScaleRank> {
    return this.#ranks;
  }
  runs(rank: ScaleRank): void {
    this.#ranks.add(rank);
  }
  ended(rank: ScaleRank): void {
    this.#ranks.delete(rank);
  }

  totals(): Totals {
    const count = (key: string) => this.#counters.get(key) ?? 0;
    const fetched = (source: string) => count(`enodia_shard_fetches_total ${source} ok`);
    this.#sortOut();
    const open = [...this.#accepted.values()];
    return {
      operatorBytes: open.reduce((sum, socket) => sum + socket.bytesRead, this.#operatorBytes),
      operatorConnections: this.#operatorConnections + open.length,
      ...{ opened: this.#opened, closed: this.#closed, loadMessages: this.#loadMessages, loadBytes: this.#loadBytes },
      ...{ fromPeers: fetched("peer"), fromStore: fetched("store") },
    };
  }

  /** Memberships and plans since they were asked for last. */
  spreads(): { readonly memberships: Spread; readonly plans: Spread } {
    return { memberships: this.#memberships.take(), plans: this.#plans.take() };
  }

  stop(): void {
    clearInterval(this.#timer);
    unsubscribe("net.client.socket", this.#onClient);
    unsubscribe("net.server.socket", this.#onServer);
  }

  #look(): void {
    const now = performance.now();
    // One that has none yet is about to be told all: it is no measure of how a change spreads.
    const known = (of: (rank: ScaleRank) => number) => [...this.#ranks].map(of).filter((version) => version > 0);
    this.#memberships.look(
      known(({ plane }) => plane.experts.peers.membership.version),
      now,
    );
    this.#plans.look(
      known(({ plane }) => plane.experts.state.epoch),
      now,
    );
  }

  readonly #onClient = (message: unknown): void => {
    const { socket } = message as { readonly socket: Socket };
    socket.once("connect", () => {
      if (socket.remotePort !== ports.grpc) return;
      this.#made.add(`${socket.remoteAddress} ${socket.localPort}`);
      this.#opened += 1;
      socket.once("close", () => {
        this.#closed += 1;
      });
    });
  };

  readonly #onServer = (message: unknown): void => {
    const { socket } = message as { readonly socket: Socket };
    if (socket.localPort !== ports.grpc) return;
    const ends = `${socket.localAddress} ${socket.remotePort}`;
    this.#accepted.set(ends, socket);
    socket.once("close", () => {
      if (this.#accepted.get(ends) !== socket) return;
      this.#sortOut();
      if (!this.#accepted.delete(ends)) return;
      this.#operatorConnections += 1;
      this.#operatorBytes += socket.bytesRead;
    });
  };

  /** Leaves among those accepted the operator's alone: the other end of one from rank to rank is in this process. */
  #sortOut(): void {
    for (const ends of this.#accepted.keys()) if (this.#made.delete(ends)) this.#accepted.delete(ends);
  }
}
