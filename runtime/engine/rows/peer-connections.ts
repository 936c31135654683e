// The engine's connections to other engines, which carry all rows between ranks (../../experts/DECISIONS.md 1).
import { AppError } from "../../../crds/common.ts";
import type { Backend } from "../../compute/backend.ts";
import { EngineHost, type EngineHostOptions, type RowsHost, type WorkerIdentity } from "../../net/engine-host.ts";
import { EngineLink, type EngineSelf, type LinkEvents, type RowsLink } from "../../net/engine-link.ts";
import { engineLimits, enginePauses, pauseAfter } from "../../net/failure-detector.ts";
import { frameBytesMax } from "../../net/frame-codec.ts";
import type { Identity } from "../../net/mapping.ts";
import type { PeerTarget } from "../../net/peer-connection.ts";
import {
  type Declined,
  decodeHalfRows,
  encodeHalfRows,
  framePairsMax,
  halfRowBytes,
  pairBytesMax,
  rowIndexMax,
} from "../../net/rows-codec.ts";
import { Signal } from "../../net/signal.ts";
import { isCertified, type TlsMaterial } from "../../net/tls.ts";
import type { ExpertGrid } from "../../placement/grid.ts";
import { bytesOf, viewF32 } from "../../weights/floats.ts";
import type { EnginePeer, FrameAnswer, OnDemandFrame, PeerCounts, PeerOpening, PeerView, RemoteFrame } from "../api.ts";
import type { AskedBatch } from "../pass/expert-table.ts";
import type { AskHeads } from "../pass/spread-heads.ts";
import { beginSpan } from "./frame-spans.ts";
import { PeerCounters } from "./peer-counters.ts";
import { RowsServer } from "./rows-server.ts";

/** Milliseconds after a frame in which sockets are polled between any two graphs. */
const busyForMs = 250;
const lookAtLeastMs = 5;
/** Milliseconds that a frame waits for a connection before another host is asked. */
const reachMsMax = 2_000;

/** Opens connections; the simulated cluster has its own. */
export interface RowsNetwork {
  connect(target: PeerTarget, self: EngineSelf, events: LinkEvents): RowsLink;
  host(options: EngineHostOptions): RowsHost;
}

const tlsNetwork: RowsNetwork = {
  connect: (target, self, events) => new EngineLink(target, self, events),
  host: (options) => new EngineHost(options),
};

export interface PeerConnectionsOptions {
  readonly model: { readonly info: ExpertGrid & { readonly hidden: number }; readonly backend: Pick<Backend, "numericClass"> };
  /** Rejects with `NotHosted` where an expert is missing. */
  readonly serve: (batch: AskedBatch) => Promise<Float32Array>;
  readonly onDemand: (frame: OnDemandFrame) => Promise<Float32Array>;
  /** True for experts that this rank loads when rows choose them; unset: none. */
  readonly loads?: ((layer: number, experts: readonly number[]) => boolean) | undefined;
  /** Attends for other ranks; unset: it does not. */
  readonly serveHeads?: EngineHostOptions["serveHeads"];
  readonly onFrames: () => void;
  readonly report: (counts: PeerCounts) => void;
  readonly network?: RowsNetwork;
}

interface Peer {
  readonly at: EnginePeer;
  link: RowsLink | undefined;
  failures: number;
  openAt: number;
}

export interface AskedFrame extends RemoteFrame {
  readonly onDemand?: boolean;
}

export class PeerConnections {
  readonly counters = new PeerCounters();
  /** Notified when a connection is ready and when the view has changed. */
  readonly changed = new Signal();
  readonly hidden: number;
  readonly #options: PeerConnectionsOptions;
  readonly #network: RowsNetwork;
  /** Sums, and rows as halves, have other bits than exact ranks compute. */
  readonly #sums: boolean;
  readonly #peers = new Map<number, Peer>();
  readonly #rows: RowsServer;
  #view: PeerView | undefined;
  #tls: TlsMaterial | undefined;
  #server: RowsHost | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  #lookedAt = Number.NEGATIVE_INFINITY;
  pending = 0;

  constructor(options: PeerConnectionsOptions) {
    const { model, network = tlsNetwork, serve, onDemand, loads, onFrames } = options;
    this.#options = options;
    this.#network = network;
    this.hidden = model.info.hidden;
    this.#sums = model.backend.numericClass === "tolerance";
    const view = () => this.#view as PeerView;
    this.#rows = new RowsServer({ model: model.info, view, serve, onDemand, loads, onFrames, counters: this.counters });
  }

  async open({ host, port, namespace, name, view }: PeerOpening): Promise<number> {
    if (this.#closed) throw new AppError("this rank is stopping", { code: "Cancelled" });
    const server = this.#network.host({
      namespace,
      name,
      hidden: this.hidden,
      sums: this.#sums,
      tls: { current: () => this.#tls as TlsMaterial },
      refuses: (caller, claimed) => this.#refuses(caller, claimed),
      serve: (frame, rows, rank) => this.#rows.answer(frame, rows, rank),
      serveHeads: this.#options.serveHeads,
      onProblem: (message) => this.counters.problem(message),
      onRefused: (result) => this.counters.refused(result),
    });
    this.#server = server;
    this.set(view);
    const bound = await server.listen(host, port);
    this.#timer = setInterval(() => this.#look(), engineLimits.lookMs);
    this.#timer.unref();
    return bound;
  }

  set(view: PeerView): void {
    if (this.#closed) return;
    const { cert, key, ca } = view.tls;
    const material = { cert: Buffer.from(cert), key: Buffer.from(key), ca: Buffer.from(ca) };
    if (!this.#tls || !sameMaterial(this.#tls, material)) this.#tls = material; // a listener recognizes new material by identity
    this.#view = view;
    const desired = new Map(view.peers.flatMap((peer) => (peer.address === undefined ? [] : [[peer.rank, peer]])));
    for (const [rank, known] of this.#peers) {
      const peer = desired.get(rank);
      if (peer?.address === known.at.address && peer?.podUid === known.at.podUid) continue;
      this.#peers.delete(rank);
      known.link?.close(new AppError(`rank ${rank} is not to be reached now`, { code: "Cancelled", retry: "backoff" }));
    }
    for (const [rank, peer] of desired) {
      if (!this.#peers.has(rank)) this.#peers.set(rank, { at: peer, link: undefined, failures: 0, openAt: 0 });
    }
    this.#server?.recheck();
    this.#openDue();
    this.changed.notify();
  }

  /** Undefined before `open`. */
  get rank(): number | undefined {
    return this.#view?.self.rank;
  }

  /** Members of the view that are neither lost nor suspect, this rank not included. */
  usable(): number[] {
    return (this.#view?.peers ?? []).flatMap(({ rank, usable }) => (usable ? [rank] : []));
  }

  /** Those of the next usable ranks that are not for decode, in a ring that begins behind this one, that a connection is ready to. */
  following(count: number): number[] {
    const own = this.rank ?? 0;
    const behind = (rank: number): number => (rank > own ? 0 : 1);
    const mayCompute = (this.#view?.peers ?? []).flatMap(({ rank, usable, isForDecode }) => (usable && !isForDecode ? [rank] : []));
    const next = mayCompute.sort((a, b) => behind(a) - behind(b) || a - b);
    return next.slice(0, count).filter((rank) => {
      this.counters.used(rank); // the main thread finds its address
      return this.#peers.get(rank)?.link?.ready;
    });
  }

  /** Rejects when the connection ends. Undefined: none is ready, or the frame is too large for one. */
  ask(frame: AskedFrame, gatesOf?: () => Float32Array): Promise<FrameAnswer | Declined> | undefined {
    const link = this.#peers.get(frame.rank)?.link;
    if (!link?.ready) return undefined;
    return frame.traceparent === undefined ? this.#send(link, frame, gatesOf) : this.#traced(link, frame, frame.traceparent);
  }

  /** Undefined where no connection is ready or the rows are too many; resolves with undefined where the rank declines or is gone. */
  askHeads: AskHeads = (rank, heads, rows, outWidth) => {
    const answerBytes = 4 * heads.tokens * outWidth;
    if (Math.max(rows.byteLength, answerBytes) > frameBytesMax) return undefined;
    const none = { layer: heads.layer, epoch: 0, decode: false, pairRows: new Uint32Array(), pairExperts: new Uint32Array() };
    const sizes = { answerBytes, heldBytes: rows.byteLength + answerBytes };
    const startedAt = performance.now();
    const answered = this.#peers.get(rank)?.link?.send({ ...none, ...sizes, heads, rows: () => bytesOf(rows) });
    if (answered === undefined) return undefined;
    this.pending += 1;
    this.counters.used(rank);
    const take = (answer: Uint8Array | Declined): Float32Array | undefined => {
      if (!(answer instanceof Uint8Array)) {
        this.counters.failed(answer.type === "notHosted" ? "not_hosted" : answer.type);
        return undefined;
      }
      this.counters.sent(performance.now() - startedAt, rows.byteLength, answer.byteLength);
      return viewF32(answer);
    };
    return answered
      .then(take, () => undefined)
      .finally(() => {
        this.pending -= 1;
      });
  };

  /** False when the rank cannot be reached within maxMs; at once for one that failed last, which would cost every frame its patience. */
  async reach(rank: number, maxMs: number): Promise<boolean> {
    const endsAt = performance.now() + Math.min(maxMs, reachMsMax);
    while (!this.#peers.get(rank)?.link?.ready) {
      const leftMs = endsAt - performance.now();
      const hasFailed = (this.#peers.get(rank)?.failures ?? 0) > 0;
      if (leftMs <= 0 || hasFailed || this.#closed || !this.usable().includes(rank)) return false;
      this.counters.used(rank); // the main thread finds the rank's address
      this.#report();
      await this.changed.wait(Math.min(leftMs, engineLimits.lookMs));
    }
    return true;
  }

  get isAlone(): boolean {
    return this.#peers.size === 0 && !this.#server?.connections;
  }

  /** Undefined while no frames are expected. */
  poll(): Promise<void> | undefined {
    if (this.isAlone) return undefined;
    const now = performance.now();
    if (now - this.#rows.frameAt > busyForMs && now - this.#lookedAt < lookAtLeastMs) return undefined;
    this.#lookedAt = now;
    return new Promise((resolve) => setImmediate(resolve));
  }

  /** Idempotent; rejects frames in flight. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const { link } of this.#peers.values()) link?.close(new AppError("this rank is stopping", { code: "Cancelled" }));
    this.#peers.clear();
    this.#server?.close();
    this.changed.notify();
    this.#report();
  }

  #send(link: RowsLink, frame: AskedFrame, gatesOf?: () => Float32Array): Promise<FrameAnswer | Declined> | undefined {
    const { rank, layer, epoch, phase, rows, pairRows, pairExperts, onDemand, traceparent } = frame;
    const summed = link.sums && gatesOf !== undefined;
    const pairBytes = pairRows.length * this.hidden * 4;
    const bodyBytes = summed ? (rows.length / this.hidden) * halfRowBytes(this.hidden) : rows.byteLength;
    const fits = pairRows.length <= framePairsMax && rows.length <= rowIndexMax * this.hidden && pairBytes <= pairBytesMax(summed);
    if (!fits || bodyBytes > frameBytesMax) return undefined;
    const startedAt = performance.now();
    const asked = { layer, epoch, decode: phase === "decode", pairRows, pairExperts, gates: summed ? gatesOf() : undefined };
    const more = onDemand || traceparent ? { onDemand: onDemand === true, traceparent } : undefined;
    const mayLoad = this.#options.loads !== undefined;
    const sizes = { mayLoad, answerBytes: summed ? bodyBytes : pairBytes, heldBytes: rows.byteLength + pairBytes };
    const body = { rows: () => (summed ? encodeHalfRows(rows, this.hidden) : bytesOf(rows)) };
    const answered = link.send(Object.assign(asked, sizes, body, more));
    if (answered === undefined) return undefined;
    this.pending += 1;
    this.counters.used(rank);
    const take = (answer: Uint8Array | Declined): FrameAnswer | Declined => {
      this.pending -= 1;
      if (!(answer instanceof Uint8Array)) return answer;
      this.counters.sent(performance.now() - startedAt, bodyBytes, answer.byteLength);
      return summed ? { sums: decodeHalfRows(answer, this.hidden) } : viewF32(answer);
    };
    return answered.then(take, (caught) => {
      this.pending -= 1;
      throw caught;
    });
  }

  #traced(link: RowsLink, frame: AskedFrame, parent: string): Promise<FrameAnswer | Declined> | undefined {
    const pairs = frame.pairExperts.length;
    const attributes = { "enodia.layer": frame.layer, "enodia.rank": frame.rank, "enodia.pairs": pairs };
    const { traceparent, end } = beginSpan(parent, { name: "experts.dispatch", role: "client", attributes });
    return this.#send(link, { ...frame, traceparent })?.then(
      (answer) => {
        this.counters.span(end("type" in answer ? { "enodia.pairs_left": pairs } : {}));
        return answer;
      },
      (caught) => {
        this.counters.span(end({}, AppError.from(caught).message));
        throw caught;
      },
    );
  }

  #look(): void {
    const now = performance.now();
    for (const { link } of this.#peers.values()) link?.look(now);
    this.#server?.look(now);
    this.#openDue();
    this.#report();
  }

  #report(): void {
    const connections = [...this.#peers.values()].filter(({ link }) => link?.ready).length;
    const counts = this.counters.take(connections, this.pending);
    if (counts) this.#options.report(counts);
  }

  #openDue(): void {
    const now = performance.now();
    for (const known of this.#peers.values()) if (known.link === undefined && now >= known.openAt) this.#connect(known);
  }

  #connect(known: Peer): void {
    const { address, serverName, rank } = known.at;
    const self = { identity: (this.#view as PeerView).self, hidden: this.hidden, sums: this.#sums };
    const target = { address: address as string, serverName, tls: { current: () => this.#tls as TlsMaterial } };
    const closed = (reason: AppError, ready: boolean): void => {
      known.link = undefined;
      known.failures = ready && reason.code !== "Silent" ? 0 : known.failures + 1;
      // A host that refuses a new pod has yet to hear of it.
      known.openAt = performance.now() + pauseAfter(reason.code === "Forbidden" ? 0 : known.failures, enginePauses);
      if (reason.code !== "Cancelled") this.counters.problem(`the connection to rank ${rank} ended: ${reason.message}`);
    };
    try {
      known.link = this.#network.connect(target, self, { ready: () => this.changed.notify(), closed });
    } catch (caught) {
      closed(AppError.from(caught, "opening a connection"), false);
    }
  }

  /** Checks the claimed identity against certificate and membership. */
  #refuses(caller: WorkerIdentity, claimed: Identity): string | undefined {
    const { self, peers } = this.#view as PeerView;
    if (claimed.deploymentUid !== self.deploymentUid) return "sender.deployment_uid: another deployment";
    if (claimed.rank !== caller.rank) return `sender.rank: ${claimed.rank}, the certificate says ${caller.rank}`;
    const peer = peers.find(({ rank }) => rank === caller.rank);
    if (peer === undefined || peer.podUid !== claimed.podUid) return "sender.pod_uid: no member of that rank";
    return isCertified(caller, peer) ? undefined : `the certificate is that of pod ${caller.podName}, the member is ${peer.podName}`;
  }
}

function sameMaterial(a: TlsMaterial, b: TlsMaterial): boolean {
  return a.cert.equals(b.cert) && a.key.equals(b.key) && a.ca.equals(b.ca);
}
