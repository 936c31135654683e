// The engine's connections to other engines, which save wake-ups of the main threads. Frames that they cannot carry go through Dispatch
// (experts/DECISIONS.md 1).
import { AppError } from "../../crds/common.ts";
import type { Backend } from "../compute/backend.ts";
import { EngineHost, type WorkerIdentity } from "../net/engine-host.ts";
import { EngineLink } from "../net/engine-link.ts";
import { engineLimits } from "../net/failure-detector.ts";
import { frameBytesMax } from "../net/frame-codec.ts";
import type { Identity } from "../net/mapping.ts";
import {
  decodeHalfRows,
  encodeHalfRows,
  framePairsMax,
  halfRowBytes,
  pairBytesMax,
  type RowsFrame,
  rowIndexMax,
} from "../net/rows-codec.ts";
import type { TlsMaterial } from "../net/tls.ts";
import { frameFault } from "../placement/frames/frames.ts";
import type { ExpertGrid } from "../placement/grid.ts";
import { bytesOf, viewF32 } from "../weights/floats.ts";
import type { EnginePeer, FrameAnswer, PeerCounts, PeerOpening, PeerView, RemoteFrame } from "./api.ts";
import { sumPairs } from "./pass/combine.ts";
import type { AskedBatch } from "./pass/expert-table.ts";

/** Milliseconds, doubled after each connection that never became ready. */
const reopenMs = 500;
const reopenMsMax = 16_000;
/** Milliseconds after a frame in which sockets are polled between any two graphs. */
const busyForMs = 250;
const lookAtLeastMs = 5;

interface PeerConnectionsOptions {
  readonly model: { readonly info: ExpertGrid & { readonly hidden: number }; readonly backend: Pick<Backend, "numericClass"> };
  /** Rejects with `NotHosted` where an expert is missing. */
  readonly serve: (batch: AskedBatch) => Promise<Float32Array>;
  readonly onFrames: () => void;
  readonly report: (counts: PeerCounts) => void;
}

interface Peer {
  readonly at: EnginePeer;
  link: EngineLink | undefined;
  failures: number;
  openAt: number;
}

export class PeerConnections {
  readonly #options: PeerConnectionsOptions;
  readonly #hidden: number;
  /** Sums, and rows as halves, have other bits than exact ranks compute. */
  readonly #sums: boolean;
  readonly #peers = new Map<number, Peer>();
  readonly #counters = new PeerCounters();
  #view: PeerView | undefined;
  #tls: TlsMaterial | undefined;
  #server: EngineHost | undefined;
  #timer: NodeJS.Timeout | undefined;
  #announced = false;
  #closed = false;
  #frameAt = Number.NEGATIVE_INFINITY;
  #lookedAt = Number.NEGATIVE_INFINITY;
  pending = 0;

  constructor(options: PeerConnectionsOptions) {
    this.#options = options;
    this.#hidden = options.model.info.hidden;
    this.#sums = options.model.backend.numericClass === "tolerance";
  }

  async open({ host, port, namespace, name, view }: PeerOpening): Promise<number> {
    const server = new EngineHost({
      namespace,
      name,
      hidden: this.#hidden,
      sums: this.#sums,
      tls: { current: () => this.#tls as TlsMaterial },
      refuses: (caller, claimed) => this.#refuses(caller, claimed),
      serve: (frame, rows) => this.#serve(frame, rows),
      onProblem: (message) => this.#counters.problem(message),
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
  }

  /** Resolves with the rows, or with nothing when Dispatch has to ask. Undefined: no connection is available. */
  dispatch(frame: RemoteFrame, gatesOf: () => Float32Array): Promise<FrameAnswer | undefined> | undefined {
    const { rank, layer, epoch, phase, rows, pairRows, pairExperts, traceparent } = frame;
    const link = traceparent === undefined ? this.#peers.get(rank)?.link : undefined;
    if (link === undefined) return undefined;
    const summed = link.sums;
    const pairBytes = pairRows.length * this.#hidden * 4;
    const bodyBytes = summed ? (rows.length / this.#hidden) * halfRowBytes(this.#hidden) : rows.byteLength;
    const fits = pairRows.length <= framePairsMax && rows.length <= rowIndexMax * this.#hidden && pairBytes <= pairBytesMax(summed);
    if (!fits || bodyBytes > frameBytesMax) return undefined;
    const startedAt = performance.now();
    const asked = { layer, epoch, decode: phase === "decode", pairRows, pairExperts, gates: summed ? gatesOf() : undefined };
    const sizes = { answerBytes: summed ? bodyBytes : pairBytes, heldBytes: rows.byteLength + pairBytes };
    const answered = link.send(Object.assign(asked, sizes, { rows: () => (summed ? encodeHalfRows(rows, this.#hidden) : bytesOf(rows)) }));
    if (answered === undefined) return undefined;
    this.pending += 1;
    this.#counters.used(rank);
    const take = (answer: Uint8Array | undefined): FrameAnswer | undefined => {
      this.pending -= 1;
      if (answer === undefined) return undefined;
      this.#counters.sent(performance.now() - startedAt, bodyBytes, answer.byteLength);
      return summed ? { sums: decodeHalfRows(answer, this.#hidden) } : viewF32(answer);
    };
    return answered.then(take, () => take(undefined));
  }

  /** Undefined while no frames are expected. */
  poll(): Promise<void> | undefined {
    if (this.#peers.size === 0 && !this.#server?.connections) return undefined;
    const now = performance.now();
    if (now - this.#frameAt > busyForMs && now - this.#lookedAt < lookAtLeastMs) return undefined;
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
    this.#report();
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
    const counts = this.#counters.take(connections, this.pending);
    if (counts) this.#options.report(counts);
  }

  #openDue(): void {
    const now = performance.now();
    for (const known of this.#peers.values()) if (known.link === undefined && now >= known.openAt) this.#connect(known);
  }

  #connect(known: Peer): void {
    const { address, serverName, rank } = known.at;
    const self = { identity: (this.#view as PeerView).self, hidden: this.#hidden, sums: this.#sums };
    const target = { address: address as string, serverName, tls: { current: () => this.#tls as TlsMaterial } };
    const closed = (reason: AppError, ready: boolean): void => {
      known.link = undefined;
      known.failures = ready ? 0 : known.failures + 1;
      known.openAt = performance.now() + Math.min(reopenMs * 2 ** known.failures, reopenMsMax);
      if (reason.code !== "Cancelled") this.#counters.problem(`the connection to rank ${rank} ended: ${reason.message}`);
    };
    try {
      known.link = new EngineLink(target, self, closed);
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
    const named = caller.podName === undefined || caller.podName === peer.podName;
    return named ? undefined : `the certificate is that of pod ${caller.podName}, the member is ${peer.podName}`;
  }

  async #serve({ layer, epoch, decode, pairRows, pairExperts, gates }: RowsFrame, bytes: Uint8Array): Promise<Uint8Array | undefined> {
    const { model, serve } = this.#options;
    const rowBytes = gates ? (bytes.byteLength / halfRowBytes(this.#hidden)) * this.#hidden * 4 : bytes.byteLength;
    const fault = frameFault({ layer, hidden: this.#hidden, rowBytes, pairRows, pairExperts }, model.info);
    const serves = (this.#view as PeerView).serves[layer] ?? noEpoch;
    if (fault !== undefined || serves === noEpoch || epoch < serves) return undefined;
    this.#frameAt = performance.now();
    this.#announce();
    const rows = gates ? decodeHalfRows(bytes, this.#hidden) : viewF32(bytes);
    const computed = await serve({ origin: "remote", layer, phase: decode ? "decode" : "prefill", rows, pairRows, pairExperts });
    this.#counters.served(layer, pairExperts);
    if (gates === undefined) return bytesOf(computed);
    return encodeHalfRows(sumPairs(computed, { pairRows, gates }, rows.length / this.#hidden, this.#hidden), this.#hidden);
  }

  #announce(): void {
    if (this.#announced) return;
    this.#announced = true;
    setImmediate(() => {
      this.#announced = false;
      this.#options.onFrames();
    });
  }
}

const noEpoch = -1;

function sameMaterial(a: TlsMaterial, b: TlsMaterial): boolean {
  return a.cert.equals(b.cert) && a.key.equals(b.key) && a.ca.equals(b.ca);
}

const secondsMax = 4_096;
const problemsMax = 16;

/** Batches counts for the main thread, since a message per frame would wake it. */
class PeerCounters {
  #sent = { frames: 0, bytes: 0, received: 0, seconds: [] as number[] };
  #used = new Set<number>();
  #served = { frames: 0, experts: new Map<number, Set<number>>() };
  #problems: string[] = [];
  #now = { connections: 0, pending: 0 };

  used(rank: number): void {
    this.#used.add(rank);
  }

  sent(ms: number, bytes: number, received: number): void {
    this.#sent.frames += 1;
    this.#sent.bytes += bytes;
    this.#sent.received += received;
    if (this.#sent.seconds.length < secondsMax) this.#sent.seconds.push(ms / 1000);
  }

  served(layer: number, pairExperts: Uint32Array): void {
    this.#served.frames += 1;
    const experts = this.#served.experts.get(layer) ?? new Set<number>();
    for (const expert of pairExperts) experts.add(expert);
    this.#served.experts.set(layer, experts);
  }

  problem(message: string): void {
    if (this.#problems.length < problemsMax) this.#problems.push(message);
  }

  /** Undefined when nothing changed. */
  take(connections: number, pending: number): PeerCounts | undefined {
    const same = connections === this.#now.connections && pending === this.#now.pending;
    if (same && this.#sent.frames + this.#served.frames + this.#problems.length + this.#used.size === 0) return undefined;
    const { frames, experts } = this.#served;
    const touched = [...experts].map(([layer, used]) => ({ layer, experts: [...used] }));
    const counts = { connections, pending, sent: this.#sent, used: [...this.#used], served: { frames, touched }, problems: this.#problems };
    this.#now = { connections, pending };
    this.#sent = { frames: 0, bytes: 0, received: 0, seconds: [] };
    this.#used = new Set();
    this.#served = { frames: 0, experts: new Map() };
    this.#problems = [];
    return counts;
  }
}
