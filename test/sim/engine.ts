// A worker's engine without a model: steps, routing and the table of experts are production code; what computes is replaced. An
// expert is the bytes that it was loaded from, its rows say which bytes these are, and every layer of a step looks at the rows of
// the one before it: a token that wrong bytes have served is seen where it came from.
import { AppError } from "../../crds/common.ts";
import type { StepKind } from "../../crds/telemetry.ts";
import type { Backend, Compiled, Outputs } from "../../runtime/compute/backend.ts";
import type { Engine, EngineInfo, EngineOptions, LoadCounters, OnDemandFrame, RoutingTables } from "../../runtime/engine/engine.ts";
import { ExpertTable } from "../../runtime/engine/pass/expert-table.ts";
import { LoadCounter } from "../../runtime/engine/pass/load-counter.ts";
import { forward } from "../../runtime/engine/pass/step.ts";
import { StepTimes } from "../../runtime/engine/pass/step-times.ts";
import type { StepTools } from "../../runtime/engine/pass/step-tools.ts";
import type { RowsNetwork } from "../../runtime/engine/rows/peer-connections.ts";
import type { Layer } from "../../runtime/kernels/segment.ts";
import type { Weights } from "../../runtime/kernels/weights.ts";
import { createRouter } from "../../runtime/placement/dispatch.ts";
import { expertsIn } from "../../runtime/placement/grid.ts";
import { EngineRows } from "../kit/ranks/engine-rows.ts";
import type { VirtualClock } from "./clock.ts";
import { fingerprint, hidden, type SimModel } from "./model.ts";

/** A batch of expert work; some wait for a busy device. */
const computeMs = { least: 0.5, most: 4, busy: 1_500 };
const busyShare = 0.01;
/** A step of a source, and the pause after it. */
const stepEveryMs = 1_000;

export interface EngineParts {
  readonly clock: VirtualClock;
  readonly model: SimModel;
  readonly info: EngineInfo;
  readonly onDemand: EngineOptions["onDemand"];
  readonly network: RowsNetwork;
  readonly counters: () => LoadCounters;
  readonly activeRequests: () => number;
  /** Called before an expert goes, and `onMemory` after one has come or gone. */
  readonly onFree: (layer: number, expert: number) => void;
  readonly onMemory: (layer: number, expert: number) => void;
  /** A step began, ended well, failed, or gave rows that are not those of the declared bytes. */
  readonly onStep: (event: "begun" | "done" | "failed" | "wrong", detail: string) => void;
}

/** A program that stands for the bytes of an expert. */
interface Held extends Compiled {
  readonly key: number;
}

export class SimEngine implements Engine {
  readonly connections: EngineRows;
  /** Fingerprints of the bytes held, by the model's key. */
  readonly memory = new Map<number, number>();
  readonly #parts: EngineParts;
  readonly #table: ExpertTable;
  readonly #tools: StepTools;
  readonly #units = new WeakMap<object, number>();
  #router = { rank: -1, table: createRouter(-1) };
  #down: ReadonlySet<number> = new Set();
  #deferred: (() => void)[] = [];
  #stepping = false;
  #turn = 0;
  #chosen = new Int32Array(0);
  #ended = false;

  constructor(parts: EngineParts) {
    this.#parts = parts;
    const { shape } = parts.model;
    const { layers, experts } = shape;
    const program = { layers: Array.from({ length: layers }, (_, layer) => layerOf(expertsIn(shape, layer))), hidden };
    const counter = new LoadCounter(shape);
    // The store hands on as it is what ExpertTable would decode: compile() finds out whose bytes they are.
    const store = { decodeUnit: (unit: Uint8Array) => unit as unknown as Weights };
    this.#table = new ExpertTable({ backend: this.#backend(), store, program, codec: parts.info.codec, counter });
    const serve = (batch: Parameters<Engine["runExperts"]>[0]) => this.runExperts(batch);
    const loads = (layer: number, wanted: readonly number[]): boolean =>
      shape.oversubscribed === true && wanted.every((expert) => this.#router.table.hostsOf(layer, expert).includes(this.#router.rank));
    // It is asked by a message in production, so that a step takes what it has before anything leaves.
    const onDemand = { run: async (frame: OnDemandFrame) => Promise.resolve().then(() => parts.onDemand.run(frame)) };
    this.connections = new EngineRows({ info: parts.info, serve, onDemand, network: parts.network, loads });
    this.#tools = {
      ...{ program, experts: this.#table, counter, times: new StepTimes() },
      embed: dense(async () => ({ x: rowsOf(new Float32Array(experts * hidden)) })),
      blocks: Array.from({ length: layers }, (_, layer) => dense(async (inputs) => this.#block(layer, inputs.x?.data as Float32Array))),
      allocators: { prefill: [], decode: [] },
      router: () => this.#router,
      dispatch: (frame) => this.connections.rows(frame),
      scheduler: {
        ...{ pieceRows: (_kind: StepKind, rows: number) => rows, took: () => {}, begin: () => {} },
        ...{ layersAtOnce: () => 1, tookLayers: () => {}, betweenGraphs: () => undefined, reached: () => {} },
        ownExperts: (batches, allocate) => Promise.all(batches.map((batch) => this.#table.run(batch, allocate))),
        ended: () => undefined,
        waitFor: async (answers) => void (await answers),
        waitedMs: 0,
      },
    };
  }

  #backend(): Backend {
    const compile = async (_segment: unknown, weights: Weights): Promise<Held> => {
      const key = this.#units.get(weights) as number;
      return { key, residentBytes: this.#parts.info.expertResidentBytes, run: async () => ({}), dispose: async () => {} };
    };
    const runMany: Backend["runMany"] = async (calls) => {
      const { clock } = this.#parts;
      const busy = clock.random() < busyShare;
      await clock.sleep(busy ? clock.random() * computeMs.busy : computeMs.least + clock.random() * (computeMs.most - computeMs.least));
      return calls.map(({ program, inputs }) => {
        const x = inputs.x?.data as Float32Array;
        const says = this.memory.get((program as Held).key) ?? 0;
        return { y: rowsOf(x.map((value, i) => (i % hidden === 0 ? says : value))) };
      });
    };
    const createExpertSlab = () => ({ put: (_expert: number, weights: Weights) => compile(undefined, weights) });
    return { createExpertSlab, runMany } as unknown as Backend;
  }

  /** Attention and gate: checks what the layer before gave, and asks every expert of this one, each row another. */
  #block(layer: number, x: Float32Array): Outputs {
    if (layer > 0) this.#check(layer - 1, x);
    const { shape } = this.#parts.model;
    const { experts } = shape;
    const count = expertsIn(shape, layer);
    if (count === 0) {
      this.#chosen = new Int32Array(0);
      return { y: rowsOf(new Float32Array(experts * hidden)) };
    }
    this.#chosen = Int32Array.from({ length: experts }, (_, row) => (row + this.#turn + layer) % count);
    const gates = { shape: [experts, 1], data: new Float32Array(experts).fill(1) };
    const ids = { shape: [experts, 1], data: this.#chosen };
    return { h: rowsOf(new Float32Array(experts * hidden)), f: rowsOf(new Float32Array(experts * hidden)), gates, ids };
  }

  #check(layer: number, x: Float32Array): void {
    for (const [row, expert] of this.#chosen.entries()) {
      if (x[row * hidden] !== this.#parts.model.fingerprint(layer, expert))
        this.#parts.onStep("wrong", `a row of ${layer}/${expert} was not computed from the declared bytes`);
    }
  }

  /** One step of a request after another, while `ready`. */
  run(ready: () => boolean): void {
    const { clock } = this.#parts;
    const next = async (): Promise<void> => {
      if (ready() && !this.#ended) await this.#step();
      clock.after(stepEveryMs * (0.5 + clock.random()), () => void next());
    };
    clock.after(stepEveryMs * clock.random(), () => void next());
  }

  async #step(): Promise<void> {
    const { shape } = this.#parts.model;
    this.#turn++;
    this.#stepping = true;
    const decodes = this.#turn % 4 === 0 ? 0 : shape.experts;
    this.#parts.onStep("begun", "");
    try {
      const x = await forward(this.#tools, new Int32Array(shape.experts), undefined as never, decodes);
      this.#check(shape.layers - 1, x);
      this.#parts.onStep("done", "");
    } catch (caught) {
      const error = AppError.from(caught);
      this.#parts.onStep("failed", `${error.code}: ${error.message}`);
    }
    this.#stepping = false;
    for (const change of this.#deferred.splice(0)) change();
  }

  /** Changes the state of steps, after the end of a running one. */
  #between(change: () => void): Promise<void> {
    if (this.#ended) return Promise.reject(stopped());
    return new Promise((resolve) => {
      const run = () => {
        change();
        resolve();
      };
      if (this.#stepping) this.#deferred.push(run);
      else run();
    });
  }

  get hasEnded(): boolean {
    return this.#ended;
  }

  /** The thread that computes is gone: no call is answered any more. */
  end(): void {
    this.#ended = true;
    this.connections.outbound.fail(stopped());
    this.connections.close();
  }

  describe(): EngineInfo {
    return this.#parts.info;
  }
  generate(_request: Parameters<Engine["generate"]>[0]): ReturnType<Engine["generate"]> {
    throw new Error("a simulated engine makes its own steps");
  }

  async loadExpert(layer: number, expert: number, unit: Uint8Array): Promise<void> {
    if (this.#ended) throw stopped();
    const key = this.#parts.model.key(layer, expert);
    this.#units.set(unit, key);
    this.memory.set(key, fingerprint(unit));
    await this.#table.load(layer, expert, unit);
    this.#parts.onMemory(layer, expert);
  }

  async unloadExpert(layer: number, expert: number): Promise<void> {
    if (this.#ended) throw stopped();
    this.#parts.onFree(layer, expert);
    await this.#table.unload(layer, expert);
    this.memory.delete(this.#parts.model.key(layer, expert));
    this.#parts.onMemory(layer, expert);
  }

  hosted(): readonly (readonly number[])[] {
    const { layers, experts } = this.#parts.model.shape;
    const ids = Array.from({ length: experts }, (_, expert) => expert);
    return Array.from({ length: layers }, (_, layer) => ids.filter((expert) => this.memory.has(this.#parts.model.key(layer, expert))));
  }

  async runExperts(frame: Parameters<Engine["runExperts"]>[0]): Promise<Float32Array> {
    if (this.#ended) throw stopped();
    const rows = await this.#table.run(frame);
    if (this.#ended) throw stopped();
    return rows;
  }

  setRouting({ rank, layers }: RoutingTables): Promise<void> {
    this.connections.outbound.setRouting({ rank, layers });
    return this.#between(() => {
      if (this.#router.rank !== rank) {
        this.#router = { rank, table: createRouter(rank) };
        this.#router.table.setDown(this.#down);
      }
      this.#router.table.setTables(layers);
    });
  }

  setDown(ranks: readonly number[]): Promise<void> {
    if (this.#ended) return Promise.reject(stopped());
    this.#down = new Set(ranks);
    this.#router.table.setDown(this.#down);
    return Promise.resolve();
  }

  async counters(): Promise<LoadCounters> {
    if (this.#ended) throw stopped();
    return this.#parts.counters();
  }

  async stats(): ReturnType<Engine["stats"]> {
    if (this.#ended) throw stopped();
    const counts = { prefillTokens: 0, decodeTokens: 0, cachedTokens: 0, slotsUsed: 0, slotsKept: 0, queuedRequests: 0 };
    const kv = { blocksUsed: 0, blocksKept: 0, preemptions: 0, drafted: 0, accepted: 0 };
    return {
      ...counts,
      ...kv,
      stepSeconds: { prefill: [], decode: [], mixed: [] },
      hostedExperts: this.memory.size,
      rowsFor: { local: 0, remote: 0 },
    };
  }

  passed(): number {
    return 0;
  }

  load() {
    return { queuedTokens: 0, activeRequests: this.#parts.activeRequests() };
  }
  async drain(): Promise<void> {
    if (this.#ended) throw stopped();
  }
  async close(): Promise<void> {}
}

const stopped = (): AppError => new AppError("engine: its thread ended", { code: "EngineStopped", retry: "backoff" });

const rowsOf = (data: Float32Array) => ({ shape: [data.length / hidden, hidden], data });

function dense(run: Compiled["run"]): Compiled {
  return { residentBytes: 1, run, dispose: async () => {} };
}

/** A layer as steps see it; its segments are never compiled. */
function layerOf(experts: number): Layer {
  const block = { inputs: [{ name: "x", width: hidden }], outputs: [{ name: "h", width: hidden }] };
  const kind = experts > 0 ? { kind: "moe", experts, topK: 1, expert: { name: "expert" } } : { kind: "dense" };
  return { ...kind, block } as unknown as Layer;
}
