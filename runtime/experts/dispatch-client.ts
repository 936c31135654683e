// This rank's expert work for others, the engine's `remote`: send each frame to its host, and when that host cannot, find
// another, until every pair has its row. The rows do not depend on the way they took. Bounded: 30 s, then an error.
import { AppError } from "../../crds/common.ts";
import type { LayerPlacement } from "../../crds/plan.ts";
import type { RemoteExperts, RemoteFrame } from "../engine/engine.ts";
import type { Tracing } from "../observe/trace.ts";
import { hash32, successor } from "../placement/dispatch.ts";
import type { DispatchReply } from "../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { frameBytesMax } from "../wire/grpc.ts";
import { toSender } from "../wire/mapping.ts";
import { bytesOf, floatsOf, scatter, selectPairs, splitPairs } from "./frames.ts";
import { Signal } from "./gate.ts";
import { PeerStream } from "./peer-stream.ts";
import type { Peers } from "./peers.ts";
import { expertWaitMs, type FrameRunner } from "./serve-frame.ts";

const retryFirstMs = 20;
const retryMaxMs = 500;
const probeEveryMs = 500;

export type FrameOutcome = "ok" | "not_hosted" | "busy" | "rejected" | "error";

export interface DispatchClientOptions {
  readonly peers: Peers;
  readonly runner: FrameRunner;
  readonly hidden: number;
  /** The newest committed placement of a layer, and its parent while that still serves. */
  readonly placement: (layer: number) => readonly LayerPlacement[];
  /** A host knows a newer epoch than this rank: somebody should fetch it. */
  readonly onNewerEpoch: (rank: number, layerEpoch: number) => void;
  readonly report: {
    frame(result: FrameOutcome, seconds: number): void;
    bytes(direction: "sent" | "received", bytes: number): void;
    retry(): void;
  };
  readonly tracing: Tracing;
}

/** A part of a frame on its way: which pairs, and which hosts said that they lack its experts. */
interface Part {
  readonly pairs: readonly number[];
  readonly rank: number;
  readonly onDemand: boolean;
}

export class DispatchClient implements RemoteExperts {
  readonly #options: DispatchClientOptions;
  readonly #streams = new Map<number, PeerStream>();
  /** Frames in flight by layer and epoch: a layer is drained when none of an older epoch is left. */
  readonly #inFlight = new Map<string, number>();
  readonly #progress = new Signal();
  readonly #prober: NodeJS.Timeout;
  #frames = 0;
  #closed = false;

  constructor(options: DispatchClientOptions) {
    this.#options = options;
    this.#prober = setInterval(() => this.#probe(), probeEveryMs);
    this.#prober.unref();
  }
  get inFlight(): number {
    return this.#frames;
  }

  async dispatch(frame: RemoteFrame): Promise<Float32Array> {
    const key = `${frame.layer}.${frame.epoch}`;
    this.#inFlight.set(key, (this.#inFlight.get(key) ?? 0) + 1);
    this.#frames += 1;
    try {
      return await this.#complete(frame);
    } finally {
      this.#frames -= 1;
      const left = (this.#inFlight.get(key) ?? 1) - 1;
      if (left > 0) this.#inFlight.set(key, left);
      else this.#inFlight.delete(key);
      this.#progress.notify();
    }
  }

  /** Resolves true once no frame of an epoch below this one is in flight for the layer; false after maxMs. */
  async drained(layer: number, epoch: number, maxMs: number): Promise<boolean> {
    const deadline = performance.now() + maxMs;
    const older = () => [...this.#inFlight.keys()].some((key) => Number(key.split(".")[0]) === layer && Number(key.split(".")[1]) < epoch);
    while (older()) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) return false;
      await this.#progress.wait(leftMs);
    }
    return true;
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#prober);
    for (const stream of this.#streams.values()) stream.close(new AppError("this rank is stopping", { code: "Cancelled" }));
  }

  async #complete(frame: RemoteFrame): Promise<Float32Array> {
    const { hidden } = this.#options;
    const out = new Float32Array(frame.pairExperts.length * hidden);
    const wait = new Wait();
    // Who said that it cannot; forgotten after some rounds, since hosts load and plans change.
    const lacking = new Lacking();
    const all = [...frame.pairExperts.keys()];
    // A host that is down is not even tried: an address that swallows packets would cost every frame its patience.
    let open: Part[] = this.#options.peers.usable(frame.rank)
      ? [{ pairs: all, rank: frame.rank, onDemand: false }]
      : this.#reroute(frame, all, lacking);
    for (let round = 0; open.length > 0; round++) {
      if (wait.over || this.#closed) throw unavailable(frame);
      const unsent = open.flatMap((part) => this.#split(part));
      const left = await Promise.all(
        unsent.map((part) => this.#traced(frame, part, (parent) => this.#attempt(frame, part, out, lacking, wait, parent))),
      );
      const pairs = left.flat().sort((a, b) => a - b);
      if (pairs.length === 0) break;
      this.#options.report.retry();
      if (round > 0) {
        await this.#progress.wait(Math.min(retryFirstMs * 2 ** Math.min(round, 6), retryMaxMs));
        if (round % 4 === 3) lacking.clear();
      }
      open = this.#reroute(frame, pairs, lacking);
    }
    return out;
  }

  #split(part: Part): Part[] {
    return splitPairs(part.pairs, this.#options.hidden, frameBytesMax).map((pairs) => ({ ...part, pairs }));
  }

  /** A span for each part sent, when the frame belongs to a traced request. */
  async #traced(frame: RemoteFrame, part: Part, attempt: (traceparent: string) => Promise<readonly number[]>): Promise<readonly number[]> {
    if (!frame.traceparent) return attempt("");
    const attributes = { "enodia.layer": frame.layer, "enodia.rank": part.rank, "enodia.pairs": part.pairs.length };
    const span = this.#options.tracing.start("experts.dispatch", { parent: frame.traceparent, role: "client", attributes });
    try {
      const left = await attempt(span.traceparent);
      if (left.length > 0) span.set({ "enodia.pairs_left": left.length });
      return left;
    } catch (caught) {
      span.fail(caught);
      throw caught;
    } finally {
      span.end();
    }
  }

  /** Sends one part; returns the pairs that still have no row. */
  async #attempt(
    frame: RemoteFrame,
    part: Part,
    out: Float32Array,
    lacking: Lacking,
    wait: Wait,
    traceparent: string,
  ): Promise<readonly number[]> {
    const { peers, runner, hidden, report } = this.#options;
    const work = selectPairs(frame, hidden, part.pairs);
    if (part.rank === peers.self.rank) {
      // Routed to itself but not in memory: planned and still loading, or nobody else is left.
      scatter(out, hidden, part.pairs, await runner.runOnDemand(frame.layer, frame.phase, work, wait.signal));
      return [];
    }
    if (part.rank < 0) return part.pairs; // the engine's table was older than the question: choose by the newest plan
    const startedAt = performance.now();
    let reply: DispatchReply;
    try {
      const message = {
        layer: frame.layer,
        layerEpoch: BigInt(this.#epochFor(frame)),
        hidden,
        rows: bytesOf(work.rows),
        pairRows: Array.from(work.pairRows),
        pairExperts: Array.from(work.pairExperts),
        decode: frame.phase === "decode",
        onDemand: part.onDemand,
        traceparent,
      };
      report.bytes("sent", work.rows.byteLength);
      reply = await this.#stream(part.rank).send(message);
    } catch (caught) {
      const error = AppError.from(caught);
      report.frame(error.code === "Busy" ? "busy" : "error", 0);
      if (error.code !== "Busy") peers.suspect(part.rank, error.message);
      if (part.onDemand) lacking.add(part, frame.pairExperts);
      return part.pairs;
    }
    return this.#answered(frame, part, reply, out, lacking, (performance.now() - startedAt) / 1000);
  }

  #answered(frame: RemoteFrame, part: Part, reply: DispatchReply, out: Float32Array, lacking: Lacking, seconds: number): readonly number[] {
    const { hidden, report, onNewerEpoch } = this.#options;
    const { result } = reply;
    if (result.case === "rows") {
      if (result.value.byteLength !== part.pairs.length * hidden * 4) {
        throw new AppError(`rank ${part.rank} answered ${result.value.byteLength} bytes for ${part.pairs.length} rows`, {
          code: "InvalidReply",
        });
      }
      report.frame("ok", seconds);
      report.bytes("received", result.value.byteLength);
      scatter(out, hidden, part.pairs, floatsOf(result.value));
      return [];
    }
    if (result.case === "notHosted") {
      report.frame("not_hosted", 0);
      lacking.add(part, frame.pairExperts, result.value.experts);
      const epoch = Number(result.value.layerEpoch);
      if (epoch > this.#epochFor(frame)) onNewerEpoch(part.rank, epoch);
      return part.pairs;
    }
    if (result.case === "busy") {
      report.frame("busy", 0);
      lacking.add(part, frame.pairExperts); // others are tried before it is asked again
      return part.pairs;
    }
    report.frame("rejected", 0);
    const reason = result.case === "rejected" ? result.value.reason : "empty reply";
    throw new AppError(`rank ${part.rank} rejected a frame: ${reason}`, { code: "FrameRejected", operation: "dispatching" });
  }

  /** Frames carry the newest epoch this rank knows: a table may have changed between two attempts. */
  #epochFor(frame: RemoteFrame): number {
    return Math.max(frame.epoch, this.#options.placement(frame.layer)[0]?.epoch ?? 0);
  }

  /** New parts for pairs without a row: by expert, to a host that is up and did not say that it lacks it; else on demand. */
  #reroute(frame: RemoteFrame, pairs: readonly number[], lacking: Lacking): Part[] {
    const parts = new Map<string, { pairs: number[]; rank: number; onDemand: boolean }>();
    const choices = new Map<number, { rank: number; onDemand: boolean }>();
    for (const pair of pairs) {
      const expert = frame.pairExperts[pair] ?? 0;
      const choice = choices.get(expert) ?? this.#choose(frame.layer, expert, lacking);
      choices.set(expert, choice);
      const key = `${choice.rank}.${choice.onDemand}`;
      const part = parts.get(key) ?? { ...choice, pairs: [] };
      part.pairs.push(pair);
      parts.set(key, part);
    }
    return [...parts.values()];
  }

  #choose(layer: number, expert: number, lacking: Lacking): { rank: number; onDemand: boolean } {
    const { peers, placement } = this.#options;
    const hosts = placement(layer).flatMap((plan) => plan.hosts[expert] ?? []);
    const up = [...new Set(hosts)].filter((rank) => peers.usable(rank));
    const able = up.filter((rank) => !lacking.has(rank, expert, false));
    const pick = able[hash32(peers.self.rank, layer, expert) % Math.max(1, able.length)];
    if (pick !== undefined) return { rank: pick, onDemand: false };
    // A planned host that is up but empty (a restarted one) loads it first of all; else the successor that all sources agree on.
    const willing = (rank: number) => !lacking.has(rank, expert, true);
    const rank = up.find(willing) ?? successor(layer, expert, peers.live().filter(willing)) ?? peers.self.rank;
    return { rank, onDemand: true };
  }

  #stream(rank: number): PeerStream {
    const { peers } = this.#options;
    const known = this.#streams.get(rank);
    if (known !== undefined && !known.closed) return known;
    const clients = peers.clients(rank);
    if (clients === undefined) throw new AppError(`rank ${rank} is no member`, { code: "Unavailable", retry: "backoff" });
    const stream = new PeerStream(rank, clients, toSender(peers.self));
    this.#streams.set(rank, stream);
    return stream;
  }

  /** Asks suspects for a sign of life; the first answer clears them. */
  #probe(): void {
    const { peers } = this.#options;
    for (const { rank, state } of peers.membership.members) {
      if (!peers.isSuspect(rank) || state === "lost") continue;
      try {
        const stream = this.#stream(rank);
        if (stream.inFlight > 0) continue;
        stream.ping().then(
          () => peers.clear(rank),
          () => {}, // still away: the next tick tries again
        );
      } catch {
        // no client for it yet
      }
    }
  }
}

/** The time a frame may take; the signal is made only by the few frames that need one. */
class Wait {
  readonly #endsAt = performance.now() + expertWaitMs;
  #signal: AbortSignal | undefined;

  get over(): boolean {
    return performance.now() >= this.#endsAt;
  }
  get signal(): AbortSignal {
    this.#signal ??= AbortSignal.timeout(Math.max(1, Math.floor(this.#endsAt - performance.now())));
    return this.#signal;
  }
}

/** (rank, expert) pairs that did not work out, as hosts of the plan and on demand apart. */
class Lacking {
  readonly #keys = new Set<string>();

  add(part: Part, pairExperts: Uint32Array, experts?: readonly number[]): void {
    for (const expert of experts ?? part.pairs.map((pair) => pairExperts[pair] ?? 0))
      this.#keys.add(`${part.rank}.${expert}.${part.onDemand}`);
  }
  has(rank: number, expert: number, onDemand: boolean): boolean {
    return this.#keys.has(`${rank}.${expert}.${onDemand}`);
  }
  clear(): void {
    this.#keys.clear();
  }
}

function unavailable(frame: RemoteFrame): AppError {
  return new AppError(`experts of layer ${frame.layer} had no host for ${expertWaitMs / 1000} s`, {
    code: "ExpertUnavailable",
    operation: "dispatching",
    retry: { afterMs: 1_000 },
  });
}
