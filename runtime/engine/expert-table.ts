// The experts this rank holds, compiled, and the batch that runs (row, expert) pairs on them. Counts rows served, and what they took.
// Not here: which expert belongs where (placement), fetching of units (runtime/experts).
import { AppError } from "../../crds/common.ts";
import type { CodecName } from "../../crds/names.ts";
import type { Phase } from "../../crds/telemetry.ts";
import type { Backend, Compiled } from "../compute/backend.ts";
import type { ModelProgram, Segment } from "../kernels/segment.ts";
import { notHosted } from "../placement/frames/not-hosted.ts";
import { gatherRows, type Pairs, scatterRows } from "../placement/frames/pairs.ts";
import { describeGrid, gridOf } from "../placement/grid.ts";
import type { ModelStore } from "../weights/store.ts";
import { groupPairs } from "./core/combine.ts";
import type { LoadCounter } from "./load-counter.ts";
import { Mutex } from "./mutex.ts";

export interface PairBatch extends Pairs {
  readonly layer: number;
  readonly phase: Phase;
}

interface Tools {
  readonly backend: Backend;
  readonly store: Pick<ModelStore, "decodeUnit">;
  readonly program: Pick<ModelProgram, "layers" | "hidden">;
  readonly codec: CodecName;
  readonly counter: LoadCounter;
}

export class ExpertTable {
  readonly lock = new Mutex();
  readonly #tools: Tools;
  readonly #layers: (Compiled | undefined)[][];
  #count = 0;

  constructor(tools: Tools) {
    this.#tools = tools;
    this.#layers = tools.program.layers.map((layer) =>
      layer.kind === "moe" ? new Array<Compiled | undefined>(layer.experts).fill(undefined) : [],
    );
  }

  get count(): number {
    return this.#count;
  }

  has(layer: number, expert: number): boolean {
    return this.#layers[layer]?.[expert] !== undefined;
  }

  async load(layer: number, expert: number, unit: Uint8Array): Promise<void> {
    const row = this.#row(layer, expert);
    if (row[expert]) return;
    const { backend, store, codec } = this.#tools;
    const form = this.#form(layer);
    const compiled = await this.lock.run(() => backend.compile(form, store.decodeUnit(unit, codec, layer)));
    if (row[expert])
      await compiled.dispose(); // two loads of one expert at once
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
    await this.lock.run(() => compiled.dispose());
  }

  /** Answers [pairs, width]; throws AppError `NotHosted` naming what is missing, before anything is computed. */
  async run(batch: PairBatch): Promise<Float32Array> {
    const programs = this.#programs(batch); // taken now: an unload that comes later waits for the lock behind this run
    return this.lock.run(() => this.#compute(batch, programs));
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

  async #compute(batch: PairBatch, programs: ReadonlyMap<number, Compiled>): Promise<Float32Array> {
    const { layer, phase, rows, pairRows, pairExperts } = batch;
    if (pairRows.length === 0) return new Float32Array(0);
    const started = performance.now();
    const { hidden } = this.#tools.program;
    const groups = groupPairs(pairRows.length, (pair) => pairExperts[pair] as number);
    const calls = groups.map(({ key, pairs }) => {
      const rowsOf = pairs.map((pair) => pairRows[pair] as number);
      const data = gatherRows(rows, hidden, rowsOf);
      this.#tools.counter.served(phase, layer, key, pairs.length);
      return { program: programs.get(key) as Compiled, inputs: { x: { shape: [pairs.length, hidden], data } } };
    });
    const outputs = await this.#tools.backend.runMany(calls);
    const out = new Float32Array(pairRows.length * hidden);
    groups.forEach(({ pairs }, g) => {
      scatterRows(out, hidden, pairs, outputs[g]?.y?.data as Float32Array);
    });
    this.#tools.counter.computed(phase, groups.length, pairRows.length, (performance.now() - started) / 1000);
    return out;
  }

  #row(layer: number, expert: number): (Compiled | undefined)[] {
    const row = this.#layers[layer];
    if (row && expert >= 0 && expert < row.length) return row;
    const model = describeGrid(gridOf(this.#layers.map(({ length }) => length)));
    throw new AppError(`no expert ${expert} in layer ${layer}: the model has ${model}`, { code: "ExpertNotFound" });
  }

  #form(layer: number): Segment {
    const found = this.#tools.program.layers[layer];
    if (found?.kind === "moe") return found.expert;
    throw new AppError(`layer ${layer} has no experts`, { code: "ExpertNotFound" });
  }
}
