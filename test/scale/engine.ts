// The engine of a rank that computes nothing: it knows which experts it was given, refuses frames for others, and answers the rows that
// it was sent. What a rank says of its memory is the production plane's own count, by the bytes that this engine's info names.
import { AppError } from "../../crds/common.ts";
import type { Engine, EngineInfo, EngineOptions, EngineStats, LoadCounters, RoutingTables } from "../../runtime/engine/engine.ts";
import { LoadCounter } from "../../runtime/engine/pass/load-counter.ts";
import { notHosted } from "../../runtime/placement/frames/not-hosted.ts";
import { EngineRows } from "../kit/ranks/engine-rows.ts";

/** What was routed and served here since it was asked last. */
export type CountersOf = () => LoadCounters;

const idle: EngineStats = {
  ...{ prefillTokens: 0, decodeTokens: 0, cachedTokens: 0, slotsUsed: 0, slotsKept: 0, blocksUsed: 0, blocksKept: 0 },
  ...{ preemptions: 0, drafted: 0, accepted: 0, queuedRequests: 0, hostedExperts: 0 },
  stepSeconds: { prefill: [], decode: [], mixed: [] },
  rowsFor: { local: 0, remote: 0 },
};

export class BookEngine implements Engine {
  readonly connections: EngineRows;
  readonly #info: EngineInfo;
  readonly #counters: CountersOf;
  readonly #experts: Set<number>[];
  #hosted: readonly (readonly number[])[];
  #draining = false;
  #ended = false;

  constructor(info: EngineInfo, onDemand: EngineOptions["onDemand"], counters: CountersOf = () => new LoadCounter(info).take()) {
    this.connections = new EngineRows({ info, serve: (batch) => this.runExperts(batch), onDemand });
    this.#info = info;
    this.#counters = counters;
    this.#experts = Array.from({ length: info.layers }, () => new Set<number>());
    this.#hosted = this.#experts.map(() => []);
  }

  get draining(): boolean {
    return this.#draining;
  }

  describe(): EngineInfo {
    return this.#info;
  }
  generate(): never {
    throw new AppError("a rank of the node simulator computes no text", { code: "Internal" });
  }

  async loadExpert(layer: number, expert: number): Promise<void> {
    this.#live();
    this.#experts[layer]?.add(expert);
    this.#changed(layer);
  }
  async unloadExpert(layer: number, expert: number): Promise<void> {
    this.#live();
    this.#experts[layer]?.delete(expert);
    this.#changed(layer);
  }
  hosted(): readonly (readonly number[])[] {
    return this.#hosted;
  }

  async runExperts({ layer, rows, pairRows, pairExperts }: Parameters<Engine["runExperts"]>[0]): Promise<Float32Array> {
    this.#live();
    const absent = [...pairExperts].filter((expert) => !this.#experts[layer]?.has(expert));
    if (absent.length > 0) throw notHosted(absent, `experts ${absent} of layer ${layer} are not here`);
    const { hidden } = this.#info;
    const answer = new Float32Array(pairRows.length * hidden);
    for (const [pair, row] of pairRows.entries()) answer.set(rows.subarray(row * hidden, (row + 1) * hidden), pair * hidden);
    return answer;
  }

  async setRouting(tables: RoutingTables): Promise<void> {
    this.#live();
    this.connections.outbound.setRouting(tables);
  }
  async setDown(): Promise<void> {
    this.#live();
  }
  async counters(): Promise<LoadCounters> {
    this.#live();
    return this.#counters();
  }
  async stats(): Promise<EngineStats> {
    this.#live();
    return idle;
  }
  passed(): number {
    return 0;
  }

  load() {
    return { queuedTokens: 0, activeRequests: 0 };
  }
  async drain(on: boolean): Promise<void> {
    this.#live();
    this.#draining = on;
  }
  async close(): Promise<void> {
    this.#ended = true;
    this.connections.close();
  }

  #live(): void {
    if (this.#ended) throw new AppError("engine: it was closed", { code: "EngineStopped", retry: "backoff" });
  }
  #changed(layer: number): void {
    this.#hosted = this.#hosted.with(
      layer,
      [...(this.#experts[layer] ?? [])].sort((a, b) => a - b),
    );
  }
}
