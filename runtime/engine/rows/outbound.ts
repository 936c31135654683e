// Frames of this rank's steps: the first attempt at the routed host, and everything that retries share.
import { AppError } from "../../../crds/common.ts";
import type { Declined } from "../../net/rows-codec.ts";
import type { FrameAnswer, RemoteFrame, RoutingTables } from "../api.ts";
import { loadWaitMs } from "./attempts.ts";
import { FrameRun, type FrameWays, type Hosts } from "./frame-run.ts";

/** Milliseconds before a request fails with `ExpertUnavailable`, and where hosts load what rows choose. */
const expertWaitMs = 30_000;
const loadingWaitMs = 120_000;

interface Placed {
  readonly epoch: number;
  readonly hosts: readonly (readonly number[])[];
}

export class Outbound implements Hosts {
  readonly ways: FrameWays;
  readonly waitMs: number;
  readonly lenders = new Map<string, number>();
  /** Newest first, with those of the plan before. */
  readonly #hosts = new Map<number, readonly Placed[]>();
  failed: AppError | undefined;
  /** Frames that are tried again, and those that wait for loads here. */
  #waiting = 0;
  #rank = -1;

  constructor(ways: FrameWays, waitMs = ways.loads ? loadingWaitMs : expertWaitMs) {
    this.ways = ways;
    this.waitMs = waitMs;
  }

  get rank(): number {
    return this.ways.connections.rank ?? this.#rank;
  }
  get pending(): number {
    return this.#waiting + this.ways.connections.pending;
  }

  /** Retries go by the newest plan at once, steps from their end on. */
  setRouting({ rank, layers }: RoutingTables): void {
    this.#rank = rank;
    for (const { layer, epoch, hosts } of layers) {
      const [newest] = this.#hosts.get(layer) ?? [];
      const before = newest === undefined || newest.epoch === epoch ? (this.#hosts.get(layer) ?? []).slice(1) : [newest];
      this.#hosts.set(layer, [{ epoch, hosts }, ...before]);
    }
  }
  hostsOf(layer: number, expert: number): { hosts: readonly number[]; former: readonly number[] } {
    const [newest, before] = this.#hosts.get(layer) ?? [];
    return { hosts: newest?.hosts[expert] ?? [], former: before?.hosts[expert] ?? [] };
  }
  epochOf(layer: number): number {
    return this.#hosts.get(layer)?.[0]?.epoch ?? 0;
  }
  live(): Set<number> {
    return new Set([...this.ways.connections.usable(), this.rank]);
  }

  dispatch(frame: RemoteFrame, gatesOf: () => Float32Array): Promise<FrameAnswer> {
    if (this.failed) return Promise.reject(this.failed);
    const endsAt = performance.now() + this.waitMs;
    const answered = this.#loaded(frame) ?? this.ways.connections.ask(frame, gatesOf);
    if (answered === undefined) return this.#retry(frame, endsAt, undefined);
    return answered.then(
      (answer) => ("type" in answer ? this.#retry(frame, endsAt, answer) : answer),
      (caught) => this.#retry(frame, endsAt, AppError.from(caught)),
    );
  }

  /** Undefined where another rank computes the frame. */
  #loaded(frame: RemoteFrame): Promise<Float32Array | Declined> | undefined {
    const { loads, onDemand } = this.ways;
    if (frame.rank !== this.rank || !loads?.(frame.layer, [...frame.pairExperts])) return undefined;
    this.#waiting += 1;
    const busy = (caught: unknown): Declined => {
      if (AppError.from(caught).code !== "Busy") throw caught;
      return { type: "busy", afterMs: loadWaitMs };
    };
    return onDemand({ ...frame, origin: "local" })
      .catch(busy)
      .finally(() => {
        this.#waiting -= 1;
      });
  }

  /** Frames under way fail when their connections end. */
  fail(error: AppError): void {
    this.failed = error;
    this.ways.connections.changed.notify();
  }

  async #retry(frame: RemoteFrame, endsAt: number, first: Declined | AppError | undefined): Promise<Float32Array> {
    this.#waiting += 1;
    try {
      return await new FrameRun(this, frame, endsAt, first).run();
    } finally {
      this.#waiting -= 1;
    }
  }
}
