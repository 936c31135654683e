// Retries a frame until every pair has its row, at the hosts that `Attempts` names one after another.
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import { frameBytesMax } from "../../net/frame-codec.ts";
import { type Declined, framePairsMax } from "../../net/rows-codec.ts";
import { noRank } from "../../placement/dispatch.ts";
import { partOf, splitPairs } from "../../placement/frames/frames.ts";
import { missingExperts } from "../../placement/frames/not-hosted.ts";
import { type Pairs, scatterRows } from "../../placement/frames/pairs.ts";
import type { FrameAnswer, OnDemandFrame, RemoteFrame } from "../api.ts";
import type { AskedBatch } from "../pass/expert-table.ts";
import { Attempts, busyPauseMs, type Choice, loadWaitMs, type Question } from "./attempts.ts";
import type { PeerConnections } from "./peer-connections.ts";

const retryFirstMs = 20;
const retryMaxMs = 500;
const loadFailed: ReadonlySet<string> = new Set(["CorruptShard", "Unavailable"]);
/** An expert that is loaded again quickly is no stall. */
const repairMsLeast = 50;
/** Rounds after which failed ranks are tried again. */
const roundsRemembered = 4;

const notInTime = () => new AppError("the frame was not answered in its time", { code: "DeadlineExceeded", retry: "backoff" });

export interface FrameWays {
  readonly connections: Pick<PeerConnections, "ask" | "reach" | "rank" | "usable" | "changed" | "counters" | "hidden" | "pending">;
  /** Rejects with `NotHosted` where an expert is missing. */
  readonly serve: (batch: AskedBatch) => Promise<Float32Array>;
  readonly onDemand: (frame: OnDemandFrame) => Promise<Float32Array>;
  /** True for experts that this rank loads when rows choose them; unset: none. */
  readonly loads?: ((layer: number, experts: readonly number[]) => boolean) | undefined;
}

/** What all frames of a rank share. */
export interface Hosts {
  readonly ways: FrameWays;
  readonly waitMs: number;
  readonly rank: number;
  /** Why frames fail at once. */
  readonly failed: AppError | undefined;
  /** The rank that last loaded "layer.expert" on demand. */
  readonly lenders: Map<string, number>;
  hostsOf(layer: number, expert: number): Required<Pick<Question, "hosts" | "former">>;
  epochOf(layer: number): number;
  /** Usable ranks, this one included. */
  live(): ReadonlySet<number>;
}

interface Part extends Choice {
  readonly pairs: readonly number[];
}

export class FrameRun {
  readonly #shared: Hosts;
  readonly #frame: RemoteFrame;
  readonly #first: Declined | AppError | undefined;
  readonly #endsAt: number;
  readonly #attempts: Attempts;
  readonly #out: Float32Array;
  readonly #hidden: number;
  #lastError: AppError | undefined;
  /** When the frame began to wait for an expert without a host. */
  #repairSince: number | undefined;

  /** `first`: why the first attempt, at the frame's own rank, gave no rows. */
  constructor(shared: Hosts, frame: RemoteFrame, endsAt: number, first: Declined | AppError | undefined) {
    this.#shared = shared;
    this.#frame = frame;
    // Where hosts load what rows choose, many frames wait, and no other rank is to load it.
    this.#attempts = new Attempts(shared.ways.loads && Number.POSITIVE_INFINITY);
    this.#first = first;
    this.#endsAt = endsAt;
    this.#hidden = shared.ways.connections.hidden;
    this.#out = new Float32Array(frame.pairExperts.length * this.#hidden);
  }

  /** Unweighted rows [pairs, hidden], the caller's own. */
  async run(): Promise<Float32Array> {
    const { counters, changed } = this.#shared.ways.connections;
    let open = this.#begin();
    for (let round = 0; open.length > 0; round++) {
      this.#check();
      const unsent = open.flatMap((part) => this.#split(part));
      const left = await Promise.all(unsent.map((part) => this.#attempt(part)));
      const pairs = left.flat().sort((a, b) => a - b);
      if (pairs.length === 0) break;
      counters.retried();
      if (round > 0) await changed.wait(Math.min(retryFirstMs * 2 ** Math.min(round, 6), retryMaxMs));
      if (round % roundsRemembered === roundsRemembered - 1) this.#attempts.forget();
      open = this.#reroute(pairs);
    }
    const repairMs = performance.now() - (this.#repairSince ?? Number.POSITIVE_INFINITY);
    if (repairMs >= repairMsLeast) counters.stalled("repair", repairMs / 1000);
    return this.#out;
  }

  #begin(): Part[] {
    const { rank, pairExperts } = this.#frame;
    const whole: Part = { pairs: [...pairExperts.keys()], rank, onDemand: false };
    if (this.#first !== undefined) {
      this.#shared.ways.connections.counters.retried();
      return this.#reroute(
        this.#first instanceof AppError
          ? this.#broke(whole, this.#first, this.#shared.waitMs - this.#leftMs())
          : this.#declined(whole, this.#first),
      );
    }
    // The engine only asks for this rank's own experts if they are not in memory: another host is faster than a load.
    if (rank === this.#shared.rank) this.#attempts.fail(whole, pairExperts);
    // Skips hosts that are down: a timeout would cost every frame its patience.
    else if (this.#shared.live().has(rank)) return [whole];
    return this.#reroute(whole.pairs);
  }

  #check(): void {
    if (this.#shared.failed) throw this.#shared.failed;
    if (this.#leftMs() <= 0) throw this.#unavailable();
  }

  #leftMs(): number {
    return this.#endsAt - performance.now();
  }

  #split(part: Part): Part[] {
    if (part.rank === this.#shared.rank) return [part];
    const bytesMax = Math.min(frameBytesMax, framePairsMax * this.#hidden * 4);
    return splitPairs(part.pairs, this.#hidden, bytesMax).map((pairs) => ({ ...part, pairs }));
  }

  /** Returns the pairs that still have no row. */
  async #attempt(part: Part): Promise<readonly number[]> {
    const work = partOf(this.#frame, this.#hidden, part.pairs);
    const isOwn = part.rank === this.#shared.rank; // a process without peers is its only rank, -1
    if (part.rank < 0 && !isOwn) return part.pairs; // the engine's table was outdated: use the newest plan
    const pauseMs = Math.min(this.#attempts.busyUntil(part.rank) - performance.now(), this.#leftMs());
    if (pauseMs > 0) await sleep(pauseMs);
    return isOwn ? this.#here(part, work) : this.#send(part, work);
  }

  async #here(part: Part, work: Pairs): Promise<readonly number[]> {
    const { serve, onDemand } = this.#shared.ways;
    const frame = { ...this.#frame, ...work, origin: "local" } as const;
    try {
      const computed = part.onDemand ? onDemand({ ...frame, leftMs: this.#leftMs() }) : serve(frame);
      const rows = await this.#inTime(computed, () => this.#unavailable());
      this.#lent(part);
      scatterRows(this.#out, this.#hidden, part.pairs, rows);
      return [];
    } catch (caught) {
      const missing = missingExperts(caught);
      const error = AppError.from(caught);
      if (error.code === "Busy") {
        this.#lastError = error;
        return this.#busy(part, loadWaitMs);
      }
      // Another rank's store may be intact.
      if (missing.length === 0 && !(part.onDemand && loadFailed.has(error.code))) throw caught;
      if (missing.length === 0) this.#lastError = error;
      this.#attempts.fail(part, missing.length > 0 ? missing : this.#experts(part));
      return part.pairs;
    }
  }

  async #send(part: Part, work: Pairs): Promise<readonly number[]> {
    const { connections } = this.#shared.ways;
    const { rank, onDemand, pairs } = part;
    const startedAt = performance.now();
    try {
      const reached = await connections.reach(rank, this.#leftMs());
      const answered = reached ? connections.ask({ ...this.#frame, ...work, rank, onDemand, epoch: this.#epoch() }) : undefined;
      if (answered === undefined) throw new AppError(`rank ${rank} is not reached`, { code: "Unavailable", retry: "backoff" });
      const answer = await this.#inTime<FrameAnswer | Declined>(answered, notInTime);
      if ("type" in answer) return this.#declined(part, answer);
      this.#lent(part);
      scatterRows(this.#out, this.#hidden, pairs, answer as Float32Array);
      return [];
    } catch (caught) {
      const error = AppError.from(caught);
      if (error.code === "FrameRejected" || error.code === "InvalidReply") throw error;
      return this.#broke(part, error, performance.now() - startedAt);
    }
  }

  /** The connection ended, or the rank did not answer in time. */
  #broke(part: Part, error: AppError, ms: number): readonly number[] {
    if (error.code === "InvalidReply") throw error;
    const { counters } = this.#shared.ways.connections;
    counters.failed("error");
    this.#attempts.fail(part, this.#experts(part));
    if (error.code !== "DeadlineExceeded") {
      counters.stalled("detection", ms / 1000);
      this.#repairSince ??= performance.now();
    }
    return part.pairs;
  }

  #declined(part: Part, answer: Declined): readonly number[] {
    const { counters } = this.#shared.ways.connections;
    if (answer.type === "rejected") {
      counters.failed("rejected");
      throw new AppError(`rank ${part.rank} rejected a frame: ${answer.reason}`, { code: "FrameRejected", operation: "dispatching" });
    }
    if (answer.type === "busy") {
      counters.failed("busy");
      return this.#busy(part, answer.afterMs);
    }
    counters.failed("not_hosted");
    this.#attempts.fail(part, answer.experts);
    if (answer.epoch > this.#epoch()) counters.newer(part.rank);
    return part.pairs;
  }

  #busy(part: Part, afterMs: number): readonly number[] {
    this.#attempts.busy(part, this.#experts(part), performance.now() + busyPauseMs(afterMs, Math.random()));
    return part.pairs;
  }

  async #inTime<T>(work: Promise<T>, late: () => AppError): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(late()), Math.max(1, this.#leftMs()));
    });
    return Promise.race([work, deadline]).finally(() => clearTimeout(timer));
  }

  #lent(part: Part): void {
    if (!part.onDemand) return;
    for (const expert of this.#experts(part)) this.#shared.lenders.set(`${this.#frame.layer}.${expert}`, part.rank);
  }

  #experts({ pairs }: Part): number[] {
    return pairs.map((pair) => this.#frame.pairExperts[pair] ?? 0);
  }

  #epoch(): number {
    return Math.max(this.#frame.epoch, this.#shared.epochOf(this.#frame.layer));
  }

  #reroute(pairs: readonly number[]): Part[] {
    const parts = new Map<string, Choice & { pairs: number[] }>();
    const choices = new Map<number, Choice>();
    const usable = this.#shared.live();
    const live = [...usable];
    for (const pair of pairs) {
      const expert = this.#frame.pairExperts[pair] ?? 0;
      const choice = choices.get(expert) ?? this.#choose(expert, usable, live);
      choices.set(expert, choice);
      const key = `${choice.rank}.${choice.onDemand}`;
      const part = parts.get(key) ?? { ...choice, pairs: [] };
      part.pairs.push(pair);
      parts.set(key, part);
    }
    if ([...parts.values()].some(({ onDemand }) => onDemand)) this.#repairSince ??= performance.now();
    return [...parts.values()];
  }

  #choose(expert: number, usable: ReadonlySet<number>, live: readonly number[]): Choice {
    const { layer } = this.#frame;
    const { rank: self, lenders } = this.#shared;
    const { hosts, former } = this.#shared.hostsOf(layer, expert);
    const isUsable = (rank: number) => usable.has(rank);
    return this.#attempts.choose({
      ...{ layer, expert, self, live, nowMs: performance.now() },
      lender: [lenders.get(`${layer}.${expert}`) ?? noRank].find(isUsable),
      hosts: hosts.filter(isUsable),
      former: former.filter(isUsable),
    });
  }

  #unavailable(): AppError {
    const why = this.#lastError ? `: ${this.#lastError.message}` : "";
    return new AppError(`experts of layer ${this.#frame.layer} had no host for ${this.#shared.waitMs / 1000} s${why}`, {
      code: "ExpertUnavailable",
      operation: "dispatching",
      ...(this.#lastError ? { cause: this.#lastError } : {}),
      retry: { afterMs: 1_000 },
    });
  }
}
