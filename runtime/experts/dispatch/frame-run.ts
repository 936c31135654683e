// Runs one frame of expert work until every pair has its row, with retries at other ranks.
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import type { FrameStallPart } from "../../../crds/names.ts";
import type { LayerPlacement } from "../../../crds/plan.ts";
import type { RemoteFrame } from "../../engine/engine.ts";
import { frameBytesMax } from "../../net/frame-codec.ts";
import type { DispatchReply } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Tracing } from "../../observe/trace.ts";
import { partOf, splitPairs } from "../../placement/frames/frames.ts";
import { missingExperts } from "../../placement/frames/not-hosted.ts";
import { type Pairs, scatterRows } from "../../placement/frames/pairs.ts";
import { bytesOf, viewF32 } from "../../weights/floats.ts";
import type { Peers } from "../peers.ts";
import type { Signal } from "../signal.ts";
import { Attempts, busyPauseMs, type Choice } from "./attempts.ts";
import type { PeerStream } from "./peer-stream.ts";
import type { FrameRunner } from "./serve-frame.ts";

const retryFirstMs = 20;
const retryMaxMs = 500;
const loadFailed: ReadonlySet<string> = new Set(["CorruptShard", "Unavailable"]);
/** An expert that is loaded again quickly is no stall. */
const repairMsLeast = 50;
/** Rounds after which failed ranks are tried again. */
const roundsRemembered = 4;

export type FrameOutcome = "ok" | "not_hosted" | "busy" | "rejected" | "error";

export interface FrameRunOptions {
  readonly peers: Peers;
  readonly runner: Pick<FrameRunner, "run" | "runOnDemand">;
  readonly hidden: number;
  readonly placement: (layer: number) => readonly LayerPlacement[];
  readonly onNewerEpoch: (rank: number, layerEpoch: number) => void;
  readonly report: {
    frame(result: FrameOutcome, seconds: number): void;
    bytes(direction: "sent" | "received", bytes: number): void;
    retry(): void;
    stall(part: FrameStallPart, seconds: number): void;
  };
  readonly tracing: Tracing;
}

export interface Outbound {
  closed(): boolean;
  readonly progress: Signal;
  /** The rank that last loaded "layer.expert" on demand. */
  readonly lenders: Map<string, number>;
  stream(rank: number): Pick<PeerStream, "send">;
}

interface Part extends Choice {
  readonly pairs: readonly number[];
}

export class FrameRun {
  readonly #options: FrameRunOptions;
  readonly #outbound: Outbound;
  readonly #frame: RemoteFrame;
  readonly #waitMs: number;
  readonly #endsAt: number;
  readonly #attempts = new Attempts();
  readonly #out: Float32Array;
  #lastError: AppError | undefined;
  /** When the frame began to wait for an expert without a host. */
  #repairSince: number | undefined;

  constructor(options: FrameRunOptions, outbound: Outbound, frame: RemoteFrame, waitMs: number) {
    this.#options = options;
    this.#outbound = outbound;
    this.#frame = frame;
    this.#waitMs = waitMs;
    this.#endsAt = performance.now() + waitMs;
    this.#out = new Float32Array(frame.pairExperts.length * options.hidden);
  }

  /** Unweighted rows [pairs, hidden], the caller's own. */
  async run(): Promise<Float32Array> {
    const { report } = this.#options;
    let open = this.#first();
    for (let round = 0; open.length > 0; round++) {
      if (this.#leftMs() <= 0 || this.#outbound.closed()) throw this.#unavailable();
      const unsent = open.flatMap((part) => this.#split(part));
      const left = await Promise.all(unsent.map((part) => this.#traced(part)));
      const pairs = left.flat().sort((a, b) => a - b);
      if (pairs.length === 0) break;
      report.retry();
      if (round > 0) await this.#outbound.progress.wait(Math.min(retryFirstMs * 2 ** Math.min(round, 6), retryMaxMs));
      if (round % roundsRemembered === roundsRemembered - 1) this.#attempts.forget();
      open = this.#reroute(pairs);
    }
    const repairMs = performance.now() - (this.#repairSince ?? Number.POSITIVE_INFINITY);
    if (repairMs >= repairMsLeast) report.stall("repair", repairMs / 1000);
    return this.#out;
  }

  #first(): Part[] {
    const { peers } = this.#options;
    const { rank, pairExperts } = this.#frame;
    const pairs = [...pairExperts.keys()];
    // The engine only asks for this rank's own experts if they are not in memory: another host is faster than a load.
    if (rank === peers.self.rank) this.#attempts.fail({ rank, onDemand: false }, pairExperts);
    // Skips hosts that are down: a timeout would cost every frame its patience.
    else if (peers.usable(rank)) return [{ pairs, rank, onDemand: false }];
    return this.#reroute(pairs);
  }

  #leftMs(): number {
    return this.#endsAt - performance.now();
  }

  #split(part: Part): Part[] {
    return splitPairs(part.pairs, this.#options.hidden, frameBytesMax).map((pairs) => ({ ...part, pairs }));
  }

  async #traced(part: Part): Promise<readonly number[]> {
    const { layer, traceparent } = this.#frame;
    if (!traceparent) return this.#attempt(part, "");
    const attributes = { "enodia.layer": layer, "enodia.rank": part.rank, "enodia.pairs": part.pairs.length };
    const span = this.#options.tracing.start("experts.dispatch", { parent: traceparent, role: "client", attributes });
    try {
      const left = await this.#attempt(part, span.traceparent);
      if (left.length > 0) span.set({ "enodia.pairs_left": left.length });
      return left;
    } catch (caught) {
      span.fail(caught);
      throw caught;
    } finally {
      span.end();
    }
  }

  /** Returns the pairs that still have no row. */
  async #attempt(part: Part, traceparent: string): Promise<readonly number[]> {
    const { peers, hidden } = this.#options;
    const work = partOf(this.#frame, hidden, part.pairs);
    if (part.rank === peers.self.rank) return this.#here(part, work);
    if (part.rank < 0) return part.pairs; // the engine's table was outdated: use the newest plan
    const pauseMs = Math.min(this.#attempts.busyUntil(part.rank) - performance.now(), this.#leftMs());
    if (pauseMs > 0) await sleep(pauseMs);
    return this.#send(part, work, traceparent);
  }

  async #here(part: Part, work: Pairs): Promise<readonly number[]> {
    const { runner, hidden } = this.#options;
    const { layer, phase } = this.#frame;
    try {
      const signal = AbortSignal.timeout(Math.max(1, Math.floor(this.#leftMs())));
      const of = { layer, phase, origin: "local" } as const;
      const rows = await (part.onDemand ? runner.runOnDemand(of, work, signal) : runner.run(of, work));
      this.#lent(part);
      scatterRows(this.#out, hidden, part.pairs, rows);
      return [];
    } catch (caught) {
      const missing = missingExperts(caught);
      const error = AppError.from(caught);
      // Another rank's store may be intact.
      if (missing.length === 0 && !(part.onDemand && loadFailed.has(error.code))) throw caught;
      if (missing.length === 0) this.#lastError = error;
      this.#attempts.fail(part, missing.length > 0 ? missing : this.#experts(part));
      return part.pairs;
    }
  }

  async #send(part: Part, work: Pairs, traceparent: string): Promise<readonly number[]> {
    const { peers, hidden, report } = this.#options;
    const { layer, phase } = this.#frame;
    const startedAt = performance.now();
    let reply: DispatchReply;
    try {
      const message = {
        layer,
        layerEpoch: BigInt(this.#epoch()),
        hidden,
        rows: bytesOf(work.rows),
        pairRows: Array.from(work.pairRows),
        pairExperts: Array.from(work.pairExperts),
        decode: phase === "decode",
        onDemand: part.onDemand,
        traceparent,
      };
      report.bytes("sent", work.rows.byteLength);
      reply = await this.#outbound.stream(part.rank).send(message, this.#leftMs());
    } catch (caught) {
      const error = AppError.from(caught);
      if (error.code === "Busy") return this.#busy(part, 0);
      report.frame("error", 0);
      // A timeout does not make a rank suspect: its process answers, but its engine is busy.
      if (error.code !== "DeadlineExceeded") {
        report.stall("detection", (performance.now() - startedAt) / 1000);
        this.#repairSince ??= performance.now();
        peers.suspect(part.rank, error);
      }
      if (part.onDemand) this.#attempts.fail(part, this.#experts(part));
      return part.pairs;
    }
    return this.#answered(part, reply, (performance.now() - startedAt) / 1000);
  }

  #answered(part: Part, { result }: DispatchReply, seconds: number): readonly number[] {
    const { hidden, report, onNewerEpoch } = this.#options;
    if (result.case === "rows") {
      if (result.value.byteLength !== part.pairs.length * hidden * 4) {
        throw new AppError(`rank ${part.rank} answered ${result.value.byteLength} bytes for ${part.pairs.length} rows`, {
          code: "InvalidReply",
        });
      }
      report.frame("ok", seconds);
      this.#lent(part);
      report.bytes("received", result.value.byteLength);
      scatterRows(this.#out, hidden, part.pairs, viewF32(result.value));
      return [];
    }
    if (result.case === "notHosted") {
      report.frame("not_hosted", 0);
      this.#attempts.fail(part, result.value.experts);
      const epoch = Number(result.value.layerEpoch);
      if (epoch > this.#epoch()) onNewerEpoch(part.rank, epoch);
      return part.pairs;
    }
    if (result.case === "busy") return this.#busy(part, result.value.retryAfterMs);
    report.frame("rejected", 0);
    const reason = result.case === "rejected" ? result.value.reason : "empty reply";
    throw new AppError(`rank ${part.rank} rejected a frame: ${reason}`, { code: "FrameRejected", operation: "dispatching" });
  }

  #lent(part: Part): void {
    if (!part.onDemand) return;
    for (const expert of this.#experts(part)) this.#outbound.lenders.set(`${this.#frame.layer}.${expert}`, part.rank);
  }

  #busy(part: Part, retryAfterMs: number): readonly number[] {
    this.#options.report.frame("busy", 0);
    this.#attempts.busy(part, this.#experts(part), performance.now() + busyPauseMs(retryAfterMs, Math.random()));
    return part.pairs;
  }

  #experts({ pairs }: Part): number[] {
    return pairs.map((pair) => this.#frame.pairExperts[pair] ?? 0);
  }

  #epoch(): number {
    return Math.max(this.#frame.epoch, this.#options.placement(this.#frame.layer)[0]?.epoch ?? 0);
  }

  #reroute(pairs: readonly number[]): Part[] {
    const parts = new Map<string, Choice & { pairs: number[] }>();
    const choices = new Map<number, Choice>();
    for (const pair of pairs) {
      const expert = this.#frame.pairExperts[pair] ?? 0;
      const choice = choices.get(expert) ?? this.#choose(expert);
      choices.set(expert, choice);
      const key = `${choice.rank}.${choice.onDemand}`;
      const part = parts.get(key) ?? { ...choice, pairs: [] };
      part.pairs.push(pair);
      parts.set(key, part);
    }
    if ([...parts.values()].some(({ onDemand }) => onDemand)) this.#repairSince ??= performance.now();
    return [...parts.values()];
  }

  #choose(expert: number): Choice {
    const { peers, placement } = this.#options;
    const { layer } = this.#frame;
    const hosts = placement(layer).flatMap((plan) => plan.hosts[expert] ?? []);
    const lender = this.#outbound.lenders.get(`${layer}.${expert}`);
    return this.#attempts.choose({
      layer,
      expert,
      self: peers.self.rank,
      live: peers.live(),
      nowMs: performance.now(),
      lender: lender !== undefined && peers.usable(lender) ? lender : undefined,
      hosts: hosts.filter((rank) => peers.usable(rank)),
    });
  }

  #unavailable(): AppError {
    const why = this.#lastError ? `: ${this.#lastError.message}` : "";
    return new AppError(`experts of layer ${this.#frame.layer} had no host for ${this.#waitMs / 1000} s${why}`, {
      code: "ExpertUnavailable",
      operation: "dispatching",
      ...(this.#lastError ? { cause: this.#lastError } : {}),
      retry: { afterMs: 1_000 },
    });
  }
}
