// The compiled experts of this rank and the batches that run on them.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { type Phase, phases } from "../../../crds/telemetry.ts";
import type { Backend, BufferAllocator, Compiled, ComputeQueue, ExpertSlab } from "../../compute/backend.ts";
import { inPieces, reusedBuffers } from "../../compute/output-buffers.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { notHosted } from "../../placement/frames/not-hosted.ts";
import type { Pairs } from "../../placement/frames/pairs.ts";
import { describeGrid, gridOf } from "../../placement/grid.ts";
import type { ModelStore } from "../../weights/store.ts";
import type { RowOrigin } from "../api.ts";
import type { Queued, Share } from "../schedule/frame-queue.ts";
import { type Group, groupPairs } from "./combine.ts";
import type { LoadCounter } from "./load-counter.ts";
import { Mutex } from "./mutex.ts";

export interface PairBatch extends Pairs {
  readonly layer: number;
  readonly phase: Phase;
}

export interface AskedBatch extends PairBatch {
  readonly origin: RowOrigin;
  /** The rank whose rows they are, if it is another. */
  readonly from?: number;
}

export interface ExpertWork extends Queued {
  readonly batch: PairBatch;
  readonly origin: RowOrigin;
  readonly programs: ReadonlyMap<number, Compiled>;
  /** [pairs, width]; `compute` fills it. */
  readonly out: Float32Array;
}

interface Tools {
  readonly backend: Backend;
  readonly store: Pick<ModelStore, "decodeUnit">;
  readonly program: Pick<ModelProgram, "layers" | "hidden">;
  readonly codec: CodecName;
  readonly counter: LoadCounter;
}

interface Wanted {
  readonly frame: ExpertWork;
  readonly pair: number;
}

export class ExpertTable {
  /** The lock of the prefill queue; whoever holds both took it first. */
  readonly prefillLock = new Mutex();
  readonly lock = new Mutex();
  /** The work that will use an expert; its removal waits for it. */
  readonly #users = new Map<Compiled, Set<ExpertWork>>();
  readonly #unused = new Map<Compiled, () => void>();
  readonly #leaving = new Map<string, Promise<void>>();
  readonly #tools: Tools;
  readonly #kept = reusedBuffers();
  readonly #layers: (Compiled | undefined)[][];
  readonly #expertSlabs: readonly (ExpertSlab | undefined)[];
  #count = 0;

  constructor(tools: Tools) {
    this.#tools = tools;
    this.#expertSlabs = tools.program.layers.map((layer, i) =>
      layer.kind === "moe" ? tools.backend.createExpertSlab(layer.expert, layer.experts, i) : undefined,
    );
    this.#layers = tools.program.layers.map((layer) =>
      layer.kind === "moe" ? new Array<Compiled | undefined>(layer.experts).fill(undefined) : [],
    );
  }

  get count(): number {
    return this.#count;
  }

  /** Undefined for a layer without experts. */
  expertSlab(layer: number): ExpertSlab | undefined {
    return this.#expertSlabs[layer];
  }

  has(layer: number, expert: number): boolean {
    return this.#layers[layer]?.[expert] !== undefined;
  }

  /** Takes the unit's memory over: it lived too long for a young generation, and the next collection of all may be far. */
  async load(layer: number, expert: number, unit: Uint8Array): Promise<void> {
    const row = this.#row(layer, expert);
    const key = `${layer}.${expert}`;
    for (let leaving = this.#leaving.get(key); leaving !== undefined; leaving = this.#leaving.get(key)) await leaving;
    if (row[expert]) return;
    const { store, codec } = this.#tools;
    const expertSlab = this.#expertSlabs[layer] as ExpertSlab;
    const weights = store.decodeUnit(unit, codec, layer, expert);
    const compiled = await this.lock.run(() => expertSlab.put(expert, weights, (until) => this.lock.pause(until)));
    if (expertSlab.copies && unit.buffer instanceof ArrayBuffer) unit.buffer.transfer(0);
    if (row[expert]) await this.#alone(() => compiled.dispose());
    else {
      row[expert] = compiled;
      this.#count += 1;
    }
  }

  async unload(layer: number, expert: number): Promise<void> {
    const row = this.#row(layer, expert);
    const compiled = row[expert];
    if (!compiled) return;
    row[expert] = undefined;
    this.#count -= 1;
    const key = `${layer}.${expert}`;
    const gone = this.#dispose(compiled).finally(() => this.#leaving.delete(key));
    this.#leaving.set(
      key,
      gone.catch(() => undefined),
    );
    await gone;
  }

  async #dispose(compiled: Compiled): Promise<void> {
    if (this.#users.has(compiled)) await new Promise<void>((resolve) => this.#unused.set(compiled, resolve));
    this.#unused.delete(compiled);
    await this.#alone(() => compiled.dispose()); // a concurrent load of the same expert was faster
  }

  /** While no queue computes. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    return this.prefillLock.run(() => this.lock.run(work));
  }

  /** Returns [pairs, width]; throws AppError `NotHosted`, which names missing experts, before it computes. */
  async run(batch: PairBatch, allocate?: BufferAllocator): Promise<Float32Array> {
    const work = this.prepare(batch, allocate);
    try {
      await this.lock.run(() => this.compute([{ frame: work, pairs: work.order, last: true }]));
      return work.out;
    } finally {
      this.release(work);
    }
  }

  /** Takes the experts of a batch for one or more pieces; throws like `run`. */
  prepare(batch: PairBatch, allocate: BufferAllocator = freshBuffers, origin: RowOrigin = "local"): ExpertWork {
    const programs = this.#programs(batch);
    const { layer, phase, pairExperts } = batch;
    const order = groupPairs(pairExperts.length, (pair) => pairExperts[pair] as number).flatMap(({ pairs }) => pairs);
    const out = allocate("pairs", order.length * this.#tools.program.hidden);
    const work = { batch, origin, layer, phase, programs, order, out };
    for (const program of programs.values()) this.#users.set(program, (this.#users.get(program) ?? new Set<ExpertWork>()).add(work));
    return work;
  }

  /** Idempotent. */
  release(work: ExpertWork): void {
    for (const program of work.programs.values()) {
      const users = this.#users.get(program);
      if (!users?.delete(work) || users.size > 0) continue;
      this.#users.delete(program);
      this.#unused.get(program)?.();
    }
  }

  #programs({ layer, rows, pairRows, pairExperts }: PairBatch): ReadonlyMap<number, Compiled> {
    const row = this.#layers[layer];
    const n = rows.length / this.#tools.program.hidden;
    if (!row || !Number.isInteger(n) || pairRows.length !== pairExperts.length || pairRows.some((index) => index >= n)) {
      throw new AppError(`expert frame of layer ${layer}: rows and pairs do not fit the model`, { code: "InvalidFrame" });
    }
    const programs = new Map<number, Compiled>();
    const missing = new Set<number>();
    for (const expert of pairExperts) {
      const compiled = row[expert];
      if (compiled) programs.set(expert, compiled);
      else missing.add(expert);
    }
    if (missing.size === 0) return programs;
    throw notHosted([...missing], `layer ${layer}: experts ${[...missing].join(", ")} are not hosted here`);
  }

  /** Computes pairs of one layer and any phases into their `out`. The caller holds the lock, or that of the queue. */
  async compute(shares: readonly Share<ExpertWork>[], queue: ComputeQueue = "main"): Promise<void> {
    const all = shares.flatMap(({ frame, pairs }) => pairs.map((pair) => ({ frame, pair })));
    if (all.length === 0) return;
    const started = performance.now();
    const { hidden } = this.#tools.program;
    const groups = groupPairs(all.length, (i) => expertOf(all[i] as Wanted));
    const next = inPieces(this.#kept(queue, all.length * hidden));
    const calls = groups.map(({ key, pairs }) => {
      const data = next(pairs.length * hidden);
      for (let i = 0; i < pairs.length; i++) copyIn(data, i, all[pairs[i] as number] as Wanted, hidden);
      return { program: programOf(shares, key), inputs: { x: { shape: [pairs.length, hidden], data } } };
    });
    const outputs = await this.#tools.backend.runMany(calls, queue);
    for (const [g, { pairs }] of groups.entries()) {
      const y = outputs[g]?.y?.data as Float32Array;
      for (let i = 0; i < pairs.length; i++) copyOut(y, i, all[pairs[i] as number] as Wanted, hidden);
    }
    this.#note(all as [Wanted, ...Wanted[]], groups, (performance.now() - started) / 1000);
  }

  #note(all: readonly [Wanted, ...Wanted[]], groups: readonly Group[], seconds: number): void {
    const { counter } = this.#tools;
    const { layer } = all[0].frame;
    counter.ran(
      layer,
      groups.map(({ key }) => key),
    );
    let decodes = 0;
    for (const { key, pairs } of groups) {
      const rows = { decode: 0, prefill: 0 };
      const remote = { decode: 0, prefill: 0 };
      for (const at of pairs) {
        const { phase, origin } = (all[at] as Wanted).frame;
        rows[phase] += 1;
        if (origin === "remote") remote[phase] += 1;
      }
      decodes += rows.decode;
      for (const phase of phases) if (rows[phase] > 0) counter.served(phase, [layer, key], rows[phase], remote[phase]);
    }
    counter.computed(2 * decodes > all.length ? "decode" : "prefill", groups.length, all.length, seconds);
  }

  #row(layer: number, expert: number): (Compiled | undefined)[] {
    const row = this.#layers[layer];
    if (row && expert >= 0 && expert < row.length) return row;
    const model = describeGrid(gridOf(this.#layers.map(({ length }) => length)));
    throw new AppError(`no expert ${expert} in layer ${layer}: the model has ${model}`, { code: "ExpertNotFound" });
  }
}

const expertOf = ({ frame, pair }: Wanted): number => frame.batch.pairExperts[pair] as number;

function copyIn(data: Float32Array, at: number, { frame: { batch }, pair }: Wanted, width: number): void {
  const row = batch.pairRows[pair] as number;
  data.set(batch.rows.subarray(row * width, (row + 1) * width), at * width);
}

function copyOut(y: Float32Array, at: number, { frame, pair }: Wanted, width: number): void {
  frame.out.set(y.subarray(at * width, (at + 1) * width), pair * width);
}

const freshBuffers: BufferAllocator = (_output, length) => new Float32Array(length);

function programOf(shares: readonly Share<ExpertWork>[], expert: number): Compiled {
  return shares.map(({ frame }) => frame.programs.get(expert)).find((program) => program !== undefined) as Compiled;
}
