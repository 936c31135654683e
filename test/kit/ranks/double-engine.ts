// A double of the engine with the same interface and a model of a few integers: the text depends on every expert's answer, so a
// wrong, missing or doubled row changes it. For tests of what lies around the engine: plans, dispatch, transfer, failure.
import { createHash } from "node:crypto";
import { AppError } from "../../../crds/common.ts";
import type { Engine, EngineInfo, EngineOptions, GenerateEvent, GenerateRequest, LoadCounters } from "../../../runtime/engine/engine.ts";
import { createRouter, noRank } from "../../../runtime/placement/dispatch.ts";
import type { ExpertIndex } from "../../../runtime/weights/store.ts";
import { EngineRows } from "./engine-rows.ts";

const topK = 2;

export interface DoubleOptions {
  /** Pause before each layer, so that a test can act in the middle of a text. */
  readonly layerMs?: number;
}

export function doubleEngine(index: ExpertIndex, double: DoubleOptions = {}): (options: EngineOptions) => Promise<Engine> {
  return async (options) => new DoubleEngine(index, options, double);
}

class DoubleEngine implements Engine {
  readonly connections: EngineRows;
  readonly #index: ExpertIndex;
  readonly #options: EngineOptions;
  readonly #double: DoubleOptions;
  /** The seed of an expert is the hash of its bytes: wrong bytes give another text. */
  readonly #seeds = new Map<string, number>();
  #router = createRouter(0);
  #rank = 0;
  #down: ReadonlySet<number> = new Set();
  #draining = false;
  #active = 0;
  #counts: LoadCounters;

  constructor(index: ExpertIndex, options: EngineOptions, double: DoubleOptions) {
    this.#index = index;
    this.#options = options;
    this.#double = double;
    this.#counts = this.#zero();
    const serve = (batch: Parameters<Engine["runExperts"]>[0]) => this.runExperts(batch);
    this.connections = new EngineRows({ info: this.describe(), serve, onDemand: options.onDemand });
  }
  describe(): EngineInfo {
    const { modelDigest, architecture, layers, experts, hidden } = this.#index;
    return {
      ...{
        modelDigest,
        architecture,
        layers,
        experts,
        topK,
        hidden,
        vocab: 256,
        codec: this.#options.codec,
        backend: "double",
        device: "double",
        numerics: "exact: double",
      },
      ...{ maxContext: 512, denseBytes: 1, kvBytes: 1, kvSlots: 8, kvBlocks: 64, kvBlockTokens: 64 },
      ...{ expertResidentBytes: 1000, speed: 1, sharesCores: true },
    };
  }
  async *generate(request: GenerateRequest): AsyncGenerator<GenerateEvent> {
    if (this.#draining) throw new AppError("draining", { code: "Draining" });
    this.#active += 1;
    try {
      yield { type: "queued", queuedTokens: 0 };
      yield { type: "started", queuedTokens: 0, cachedPromptTokens: 0 };
      let h = [...request.prompt].reduce((a, b) => (a * 31 + b) >>> 0, 7);
      const replay = [...(request.replay ?? [])];
      for (let position = 0; position < request.maxTokens; position++) {
        if (request.signal?.aborted) return yield { type: "finish", reason: "cancelled", outputTokens: position };
        if (this.#draining) return yield { type: "finish", reason: "draining", outputTokens: position };
        const known = replay[position];
        h = await this.#pass(h);
        const id = known ?? h % 256;
        h = (h * 31 + id) >>> 0;
        if (known === undefined) yield { type: "token", id, position, logprob: -1 };
      }
      yield { type: "finish", reason: "length", outputTokens: request.maxTokens };
    } finally {
      this.#active -= 1;
    }
  }
  async #pass(start: number): Promise<number> {
    let h = start;
    for (let layer = 0; layer < this.#index.layers; layer++) {
      if (this.#double.layerMs) await new Promise((resolve) => setTimeout(resolve, this.#double.layerMs));
      const experts = [h % this.#index.experts, (h + 1 + ((h >>> 8) % (this.#index.experts - 1))) % this.#index.experts];
      const rows = new Float32Array(this.#index.hidden).fill(h % 65536);
      const answers = await Promise.all(experts.map((expert) => this.#expert(layer, expert, rows)));
      for (const answer of answers) h = (Math.imul(h, 33) + answer) >>> 0;
    }
    return h;
  }
  async #expert(layer: number, expert: number, rows: Float32Array): Promise<number> {
    this.#count("routed", layer, expert);
    const rank = this.#router.route(layer, expert);
    if (rank === noRank) throw new AppError("no plan", { code: "NotReady" });
    const [pairRows, pairExperts] = [Uint32Array.of(0), Uint32Array.of(expert)];
    const local = rank === this.#rank && this.#seeds.has(`${layer}.${expert}`);
    const frame = { layer, phase: "decode", rows, pairRows, pairExperts } as const;
    const epoch = this.#router.epochOf(layer);
    const out = local ? await this.runExperts(frame) : await this.connections.rows({ ...frame, epoch, rank });
    if (out.length !== this.#index.hidden || new Set(out).size !== 1) throw new AppError("an answer is not one row", { code: "Internal" });
    return out[0]!;
  }
  async loadExpert(layer: number, expert: number, unit: Uint8Array): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, 1));
    this.#seeds.set(`${layer}.${expert}`, createHash("sha256").update(unit).digest().readUInt16LE(0));
  }
  async unloadExpert(layer: number, expert: number): Promise<void> {
    this.#seeds.delete(`${layer}.${expert}`);
  }
  hosted(): number[][] {
    return Array.from({ length: this.#index.layers }, (_, layer) =>
      Array.from({ length: this.#index.experts }, (_, expert) => expert).filter((expert) => this.#seeds.has(`${layer}.${expert}`)),
    );
  }
  async runExperts(frame: Parameters<Engine["runExperts"]>[0]): Promise<Float32Array> {
    const missing = [...new Set(frame.pairExperts)].filter((expert) => !this.#seeds.has(`${frame.layer}.${expert}`));
    if (missing.length > 0) throw new AppError("not hosted", { code: "NotHosted", cause: { experts: missing } });
    const { hidden } = this.#index;
    const out = new Float32Array(frame.pairExperts.length * hidden);
    frame.pairExperts.forEach((expert, pair) => {
      this.#count("served", frame.layer, expert);
      const x = frame.rows[frame.pairRows[pair]! * hidden]!;
      out.fill((x * 7 + this.#seeds.get(`${frame.layer}.${expert}`)!) % 65521, pair * hidden, (pair + 1) * hidden);
    });
    return out;
  }
  async setRouting(tables: Parameters<Engine["setRouting"]>[0]): Promise<void> {
    this.connections.outbound.setRouting(tables);
    if (tables.rank !== this.#rank) this.#router = createRouter(tables.rank);
    this.#rank = tables.rank;
    this.#router.setDown(this.#down);
    this.#router.setTables(tables.layers);
  }
  async setDown(ranks: readonly number[]): Promise<void> {
    this.#down = new Set(ranks);
    this.#router.setDown(this.#down);
  }
  async counters(): Promise<LoadCounters> {
    const counts = this.#counts;
    this.#counts = this.#zero();
    return counts;
  }
  async stats() {
    return {
      ...{ prefillTokens: 0, decodeTokens: 0, cachedTokens: 0, stepSeconds: { prefill: [], decode: [], mixed: [] } },
      ...{ blocksUsed: 0, blocksKept: 0, preemptions: 0, drafted: 0, accepted: 0 },
      ...{ slotsUsed: this.#active, slotsKept: 0, queuedRequests: 0, hostedExperts: this.#seeds.size, rowsFor: { local: 0, remote: 0 } },
    };
  }
  passed(): number {
    return 0;
  }

  load() {
    return { queuedTokens: 0, activeRequests: this.#active };
  }
  async drain(on: boolean): Promise<void> {
    this.#draining = on;
  }
  async close(): Promise<void> {
    this.connections.close();
  }

  #zero(): LoadCounters {
    const cells = () => new Uint32Array(this.#index.layers * this.#index.experts);
    const compute = { runs: 0, calls: 0, rows: 0, micros: 0, squares: [0, 0, 0, 0, 0, 0], times: [0, 0, 0] };
    const counts = () => ({ routed: cells(), served: cells(), compute });
    return { prefill: counts(), decode: counts() };
  }
  #count(kind: "routed" | "served", layer: number, expert: number): void {
    const cell = layer * this.#index.experts + expert;
    this.#counts.decode[kind][cell] = this.#counts.decode[kind][cell]! + 1;
  }
}
