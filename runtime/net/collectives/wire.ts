// One rank of a training world of several processes: a TLS connection per pair and direction, opened at first use. A failed or silent
// rank ends the world for all.
import type { TLSSocket } from "node:tls";
import { AppError } from "../../../crds/common.ts";
import { computingLimits } from "../failure-detector.ts";
import { createTlsListener, type Listener } from "../listener.ts";
import { type EndReason, peerAlpn } from "../peer-connection.ts";
import { isCertified, peerIdentity, serverNames, type TlsSource } from "../tls.ts";
import { Inbox, Traffic } from "./inbox.ts";
import { type FrameName, frameMsMax, type Payload, type Stamp, type Transport, type WantedFrame } from "./transport.ts";
import { Arrivals, type ArrivalsOwner } from "./wire-arrivals.ts";
import type { Hello } from "./wire-codec.ts";
import { RankLink } from "./wire-link.ts";
import { behindCode, leftCode, type WireLimits } from "./wire-owner.ts";

/** Pods of a world start within `reachMs`. */
const limitsByDefault: WireLimits = { ...computingLimits, frameMs: frameMsMax, reachMs: 60_000, heldBytes: 2 ** 30 };
const closeMsMax = 2_000;

export interface WireOptions extends Hello {
  /** Certificates of other namespaces are refused. */
  readonly namespace: string;
  readonly name: string;
  /** Whose certificates the ranks have; unset: those of their numbers. */
  readonly members?: readonly { readonly rank: number; readonly pod: string; readonly uid: string }[];
  readonly tls: Pick<TlsSource, "current">;
  /** ip:port of a rank, called before each attempt. */
  address(rank: number): string;
  onProblem(message: string): void;
  readonly limits?: Partial<WireLimits>;
  /** Milliseconds. */
  frameMs?(what: string): number;
}

export class WireTransport implements Transport {
  readonly rank: number;
  readonly ranks: number;
  readonly #options: WireOptions;
  readonly #owner: ArrivalsOwner;
  readonly #listener: Listener;
  readonly #links = new Map<number, RankLink>();
  readonly #arrivals = new Set<Arrivals>();
  readonly #heard = new Map<number, Arrivals>();
  readonly #left = new Map<number, AppError>();
  readonly #looks: NodeJS.Timeout;
  #ended: { readonly error: unknown; readonly why: EndReason } | undefined;

  constructor(options: WireOptions) {
    const limits = Object.assign({}, limitsByDefault, options.limits);
    this.#options = options;
    this.rank = options.rank;
    this.ranks = options.ranks;
    const frameMs = (what: string): number => Math.min(limits.frameMs, options.frameMs?.(what) ?? limits.frameMs);
    this.#owner = {
      limits,
      inbox: new Inbox(options.ranks, frameMs, (from) => this.#heard.get(from)?.asked()),
      sent: new Traffic(),
      lost: (error) => this.end(error),
      left: (rank, own, error) => this.#hasLeft(rank, own, error),
      refuses: (hello, arrivals) => this.#refuses(hello, arrivals),
      problem: (message) => options.onProblem(message),
    };
    this.#listener = createTlsListener(
      options.tls,
      { [peerAlpn]: (socket) => this.#accept(socket) },
      ({ message }) => message && options.onProblem(message),
    );
    this.#looks = setInterval(() => this.#look(), limits.lookMs);
  }

  /** Undefined while the world exists, and after `close`. */
  get ended(): unknown {
    return this.#ended?.error;
  }

  /** Binds host:port (0 = any) and returns the port. */
  listen(host: string, port: number): Promise<number> {
    return this.#listener.listen(host, port);
  }

  async send(to: number, stamp: Stamp, name: FrameName, payload: Payload): Promise<void> {
    await this.#link(to).send(stamp, name, payload);
  }

  async receive(from: number, stamp: Stamp, wanted: WantedFrame): Promise<Payload> {
    if (!this.#left.has(from)) this.#link(from);
    return this.#owner.inbox.take(from, stamp, wanted);
  }

  takeTraffic(what: string): { readonly sent: number; readonly received: number } {
    return { sent: this.#owner.sent.take(what), received: this.#owner.inbox.received.take(what) };
  }

  /** Ranks learn of it after the current chunk. */
  end(error: unknown): void {
    if (this.#ended !== undefined) return;
    const { code, message } = AppError.from(error);
    this.#leave(error, { code, message });
  }

  /** Informs waiting ranks; resolves when no connection is left. */
  async close(): Promise<void> {
    clearInterval(this.#looks);
    if (this.#ended === undefined) {
      const message = `rank ${this.rank} has left the world`;
      this.#leave(new AppError(message, { code: leftCode, operation: "training over ranks" }), { code: leftCode, message });
    }
    const cut = setTimeout(() => this.#listener.cut(), closeMsMax);
    await this.#listener.stop();
    clearTimeout(cut);
  }

  #leave(error: unknown, why: EndReason): void {
    this.#ended = { error, why };
    this.#owner.inbox.end(error);
    for (const link of this.#links.values()) link.leave(why);
    for (const arrivals of this.#arrivals) arrivals.leave(why);
  }

  #look(): void {
    const nowMs = performance.now();
    for (const link of this.#links.values()) link.look(nowMs);
    for (const arrivals of this.#arrivals) arrivals.look(nowMs);
  }

  #link(rank: number): RankLink {
    const over = this.#ended?.error ?? this.#left.get(rank);
    if (over !== undefined) throw over;
    let link = this.#links.get(rank);
    if (link === undefined) {
      const { namespace, name, tls, members } = this.#options;
      const serverName = serverNames.rank(members?.[rank]?.rank ?? rank, namespace, name);
      link = new RankLink(rank, () => ({ address: this.#options.address(rank), serverName, tls }), this.#options, this.#owner);
      this.#links.set(rank, link);
    }
    return link;
  }

  /** Data sent earlier is still accepted. */
  #hasLeft(rank: number, own: boolean, error: AppError): void {
    this.#left.set(rank, error);
    this.#links.get(rank)?.abandon(error);
    if (own || !this.#heard.has(rank)) this.#owner.inbox.left(rank, error);
  }

  #accept(socket: TLSSocket): void {
    const { namespace, name, onProblem, members } = this.#options;
    const identity = peerIdentity(socket.getPeerCertificate(), namespace, name);
    const certified = identity?.role === "worker" ? identity.rank : -1;
    const isMember = ({ rank, pod: podName, uid: podUid }: NonNullable<typeof members>[number]) =>
      rank === certified && identity !== undefined && isCertified(identity, { podName, podUid });
    const rank = members === undefined ? certified : members.findIndex(isMember);
    if (rank < 0 || rank >= this.ranks) {
      onProblem("a caller was refused: its certificate names no pod of this world");
      socket.destroy();
      return;
    }
    const arrivals = new Arrivals(socket, rank, this.#owner);
    this.#arrivals.add(arrivals);
    socket.once("close", () => {
      this.#arrivals.delete(arrivals);
      if (this.#heard.get(arrivals.rank) === arrivals) this.#heard.delete(arrivals.rank);
    });
  }

  #refuses(hello: Hello, arrivals: Arrivals): EndReason | undefined {
    const mismatch = (field: keyof Hello, here: unknown) => ({
      code: "PlanMismatch",
      message: `rank ${arrivals.rank} came with ${field} ${hello[field]}, rank ${this.rank} has ${here}; ranks have to be of one world`,
    });
    const off = (["job", "world", "ranks"] as const).find((field) => hello[field] !== this.#options[field]);
    if (off === "world" && hello.world > this.#options.world)
      return Object.assign(mismatch(off, this.#options.world), { code: behindCode });
    if (off !== undefined) return mismatch(off, this.#options[off]);
    if (hello.rank !== arrivals.rank) return mismatch("rank", `its certificate of rank ${arrivals.rank}`);
    if (this.#ended !== undefined) return this.#ended.why;
    if (this.#heard.has(arrivals.rank)) return { code: behindCode, message: `rank ${arrivals.rank} has a connection already` };
    this.#heard.set(arrivals.rank, arrivals);
    return undefined;
  }
}
