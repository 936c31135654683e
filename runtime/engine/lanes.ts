// The engine's own connections to other ranks' engines. A frame on one wakes this thread and the other rank's and no third: the threads of
// gRPC, plans and metrics hear of it in sums. What a lane cannot do (no lane yet, a traced frame, a host without the expert, a host that
// is gone) goes the way of Dispatch on the main thread, which knows all ranks and retries.
import { AppError } from "../../crds/common.ts";
import type { Backend } from "../compute/backend.ts";
import { frameBytesMax } from "../net/frame-codec.ts";
import { decodeHalfRows, encodeHalfRows, halfRowBytes } from "../net/half-rows.ts";
import { LaneServer, type LaneWorker } from "../net/lane-accept.ts";
import { type LaneFrame, laneIndexMax, lanePairsMax, pairBytesMax } from "../net/lane-codec.ts";
import { LaneLink, laneLookMs } from "../net/lane-link.ts";
import type { Identity } from "../net/mapping.ts";
import type { TlsMaterial } from "../net/tls.ts";
import { frameFault } from "../placement/frames/frames.ts";
import type { ExpertGrid } from "../placement/grid.ts";
import { bytesOf, viewF32 } from "../weights/floats.ts";
import type { FrameAnswer, LaneNews, LaneOpening, LanePeer, LaneView, RemoteFrame } from "./api.ts";
import { NewsOfLanes } from "./lane-news.ts";
import { sumPairs } from "./pass/combine.ts";
import type { AskedBatch } from "./pass/expert-table.ts";

/** A lane that ended is opened anew after so long, and after twice as long each time that it was never ready. */
const reopenMs = 500;
const reopenMsMax = 16_000;
/** After a frame of another rank more are expected for so long: sockets are looked at between any two graphs. */
const busyForMs = 250;
/** Else this often. */
const lookAtLeastMs = 5;

interface LanesOptions {
  readonly model: { readonly info: ExpertGrid & { readonly hidden: number }; readonly backend: Pick<Backend, "numericClass"> };
  /** Computes a frame when its turn has come; rejects with `NotHosted` where an expert is not here. */
  readonly serve: (batch: AskedBatch) => Promise<Float32Array>;
  /** Frames have come, all that were there at once. */
  readonly onFrames: () => void;
  readonly tell: (news: LaneNews) => void;
}

/** The way to one rank: a lane, or the time at which one is tried. */
interface Way {
  readonly peer: LanePeer;
  link: LaneLink | undefined;
  failures: number;
  openAt: number;
}

export class Lanes {
  readonly #options: LanesOptions;
  readonly #hidden: number;
  /** Sums, and rows as halves, have other bits than exact ranks give. */
  readonly #sums: boolean;
  readonly #ways = new Map<number, Way>();
  readonly #news = new NewsOfLanes();
  #view: LaneView | undefined;
  #tls: TlsMaterial | undefined;
  #server: LaneServer | undefined;
  #timer: NodeJS.Timeout | undefined;
  #announced = false;
  #closed = false;
  #frameAt = Number.NEGATIVE_INFINITY;
  #lookedAt = Number.NEGATIVE_INFINITY;
  /** Frames sent and not answered. */
  pending = 0;

  constructor(options: LanesOptions) {
    this.#options = options;
    this.#hidden = options.model.info.hidden;
    this.#sums = options.model.backend.numericClass === "tolerance";
  }

  /** Takes lanes of others from now on, and returns the port. */
  async open({ host, port, namespace, name, view }: LaneOpening): Promise<number> {
    const server = new LaneServer({
      namespace,
      name,
      hidden: this.#hidden,
      sums: this.#sums,
      tls: { current: () => this.#tls as TlsMaterial },
      refuses: (caller, claimed) => this.#refuses(caller, claimed),
      serve: (frame, rows) => this.#serve(frame, rows),
      onProblem: (message) => this.#news.problem(message),
    });
    this.#server = server;
    this.set(view);
    const bound = await server.listen(host, port);
    this.#timer = setInterval(() => this.#look(), laneLookMs);
    this.#timer.unref();
    return bound;
  }

  /** The ranks that there are, and the epochs that this one serves; replaces what was said before. */
  set(view: LaneView): void {
    if (this.#closed) return;
    const { cert, key, ca } = view.tls;
    const material = { cert: Buffer.from(cert), key: Buffer.from(key), ca: Buffer.from(ca) };
    if (!this.#tls || !sameMaterial(this.#tls, material)) this.#tls = material; // a listener knows new material by its object
    this.#view = view;
    const wanted = new Map(view.peers.flatMap((peer) => (peer.address === undefined ? [] : [[peer.rank, peer]])));
    for (const [rank, way] of this.#ways) {
      const peer = wanted.get(rank);
      if (peer?.address === way.peer.address && peer?.podUid === way.peer.podUid) continue;
      this.#ways.delete(rank);
      way.link?.close(new AppError(`rank ${rank} is not to be asked now`, { code: "Cancelled", retry: "backoff" }));
    }
    for (const [rank, peer] of wanted) {
      if (!this.#ways.has(rank)) this.#ways.set(rank, { peer, link: undefined, failures: 0, openAt: 0 });
    }
    this.#server?.recheck();
    this.#openDue();
  }

  /** The rows of a frame, or nothing when it is to go by Dispatch after all; undefined: no lane has room for it. */
  dispatch(frame: RemoteFrame, gatesOf: () => Float32Array): Promise<FrameAnswer | undefined> | undefined {
    const { rank, layer, epoch, phase, rows, pairRows, pairExperts, traceparent } = frame;
    const link = traceparent === undefined ? this.#ways.get(rank)?.link : undefined;
    if (link === undefined) return undefined;
    const summed = link.sums;
    const pairBytes = pairRows.length * this.#hidden * 4;
    const bodyBytes = summed ? (rows.length / this.#hidden) * halfRowBytes(this.#hidden) : rows.byteLength;
    const fits = pairRows.length <= lanePairsMax && rows.length <= laneIndexMax * this.#hidden && pairBytes <= pairBytesMax(summed);
    if (!fits || bodyBytes > frameBytesMax) return undefined;
    const startedAt = performance.now();
    const asked = { layer, epoch, decode: phase === "decode", pairRows, pairExperts, gates: summed ? gatesOf() : undefined };
    const sizes = { answerBytes: summed ? bodyBytes : pairBytes, heldBytes: rows.byteLength + pairBytes };
    const answered = link.send(Object.assign(asked, sizes, { rows: () => (summed ? encodeHalfRows(rows, this.#hidden) : bytesOf(rows)) }));
    if (answered === undefined) return undefined;
    this.pending += 1;
    this.#news.used(rank);
    const take = (answer: Uint8Array | undefined): FrameAnswer | undefined => {
      this.pending -= 1;
      if (answer === undefined) return undefined;
      this.#news.sent(performance.now() - startedAt, bodyBytes, answer.byteLength);
      return summed ? { sums: decodeHalfRows(answer, this.#hidden) } : viewF32(answer);
    };
    return answered.then(take, () => take(undefined)); // why a lane ended is told when it does
  }

  /** What has come on sockets is taken in once it resolves; undefined while nobody is likely to have sent anything. */
  poll(): Promise<void> | undefined {
    if (this.#ways.size === 0 && !this.#server?.lanes) return undefined; // ways are looked at too: a lane has to be made, and to answer
    const now = performance.now();
    if (now - this.#frameAt > busyForMs && now - this.#lookedAt < lookAtLeastMs) return undefined;
    this.#lookedAt = now;
    return new Promise((resolve) => setImmediate(resolve));
  }

  /** For good, as often as one likes; frames under way are answered by nobody. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
    for (const { link } of this.#ways.values()) link?.close(new AppError("this rank is stopping", { code: "Cancelled" }));
    this.#ways.clear();
    this.#server?.close();
    this.#tell();
  }

  #look(): void {
    const now = performance.now();
    for (const { link } of this.#ways.values()) link?.look(now);
    this.#server?.look(now);
    this.#openDue();
    this.#tell();
  }

  #tell(): void {
    const lanes = [...this.#ways.values()].filter(({ link }) => link?.ready).length;
    const news = this.#news.take(lanes, this.pending);
    if (news) this.#options.tell(news);
  }

  #openDue(): void {
    const now = performance.now();
    for (const way of this.#ways.values()) if (way.link === undefined && now >= way.openAt) this.#connect(way);
  }

  #connect(way: Way): void {
    const { address, serverName, rank } = way.peer;
    const self = { identity: (this.#view as LaneView).self, hidden: this.#hidden, sums: this.#sums };
    const target = { address: address as string, serverName, tls: { current: () => this.#tls as TlsMaterial } };
    const closed = (reason: AppError, ready: boolean): void => {
      way.link = undefined;
      way.failures = ready ? 0 : way.failures + 1;
      way.openAt = performance.now() + Math.min(reopenMs * 2 ** way.failures, reopenMsMax);
      if (reason.code !== "Cancelled") this.#news.problem(`the lane to rank ${rank} ended: ${reason.message}`);
    };
    try {
      way.link = new LaneLink(target, self, closed);
    } catch (caught) {
      closed(AppError.from(caught, "opening a lane"), false);
    }
  }

  /** Identity, as Dispatch asks it of each frame: the certificate's rank against what is claimed and what membership says. */
  #refuses(caller: LaneWorker, claimed: Identity): string | undefined {
    const { self, peers } = this.#view as LaneView;
    if (claimed.deploymentUid !== self.deploymentUid) return "sender.deployment_uid: another deployment";
    if (claimed.rank !== caller.rank) return `sender.rank: ${claimed.rank}, the certificate says ${caller.rank}`;
    const peer = peers.find(({ rank }) => rank === caller.rank);
    if (peer === undefined || peer.podUid !== claimed.podUid) return "sender.pod_uid: no member of that rank";
    const named = caller.podName === undefined || caller.podName === peer.podName;
    return named ? undefined : `the certificate is that of pod ${caller.podName}, the member is ${peer.podName}`;
  }

  async #serve({ layer, epoch, decode, pairRows, pairExperts, gates }: LaneFrame, bytes: Uint8Array): Promise<Uint8Array | undefined> {
    const { model, serve } = this.#options;
    const rowBytes = gates ? (bytes.byteLength / halfRowBytes(this.#hidden)) * this.#hidden * 4 : bytes.byteLength; // as f32
    const fault = frameFault({ layer, hidden: this.#hidden, rowBytes, pairRows, pairExperts }, model.info);
    const serves = (this.#view as LaneView).serves[layer] ?? noEpoch;
    if (fault !== undefined || serves === noEpoch || epoch < serves) return undefined;
    this.#frameAt = performance.now();
    this.#announce();
    const rows = gates ? decodeHalfRows(bytes, this.#hidden) : viewF32(bytes);
    const computed = await serve({ origin: "remote", layer, phase: decode ? "decode" : "prefill", rows, pairRows, pairExperts });
    this.#news.served(layer, pairExperts);
    if (gates === undefined) return bytesOf(computed);
    return encodeHalfRows(sumPairs(computed, { pairRows, gates }, rows.length / this.#hidden, this.#hidden), this.#hidden);
  }

  /** Once all sockets that had something have been read. */
  #announce(): void {
    if (this.#announced) return;
    this.#announced = true;
    setImmediate(() => {
      this.#announced = false;
      this.#options.onFrames();
    });
  }
}

/** Of a layer without a plan. */
const noEpoch = -1;

function sameMaterial(a: TlsMaterial, b: TlsMaterial): boolean {
  return a.cert.equals(b.cert) && a.key.equals(b.key) && a.ca.equals(b.ca);
}
