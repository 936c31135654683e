// The head: tokens from the rows after the last layer, by whole rows of logits or by a device's candidates.
import { AppError } from "../../../crds/common.ts";
import type { Backend, Compiled, HeadOutputs, HeadRows, RangeOutputs } from "../../compute/backend.ts";
import type { ModelProgram, Segment } from "../../kernels/segment.ts";
import type { Weights } from "../../kernels/weights.ts";
import { gatherRows } from "../../placement/frames/pairs.ts";
import { candidatesMost, chooseAmong, sharpnessOf } from "../schedule/sampling/head-candidates.ts";
import type { OpenSampling } from "../schedule/sampling/open-sampling.ts";
import { type Sampled, Sampler } from "../schedule/sampling/sampler.ts";
import type { Mutex } from "./mutex.ts";
import { floats, type StepHead } from "./step-tools.ts";

/** Undefined while it is not known which tokens may come. */
export type Choose = (i: number, request: OpenSampling, position: number) => Sampled | undefined;

function selectingHead({ head, vocab }: Pick<ModelProgram, "head" | "vocab">): Segment {
  const count = Math.min(candidatesMost, vocab);
  const names = { logits: "logits", sharpness: "sharpness", ids: "ids", values: "values", shares: "shares" } as const;
  return {
    ...head,
    inputs: [...head.inputs, { name: names.sharpness, dtype: "f32", width: 1 }],
    outputs: [
      { name: names.logits, dtype: "f32", width: vocab, kept: true },
      { name: names.ids, dtype: "i32", width: count },
      { name: names.values, dtype: "f32", width: count },
      { name: names.shares, dtype: "f32", width: 2 },
    ],
    ops: [...head.ops, Object.assign({ op: "candidates", count } as const, names)],
  };
}

/** Uses whole rows where the device lacks an operation for candidates. */
export async function compileHead(backend: Backend, program: ModelProgram, weights: Weights): Promise<Compiled> {
  const last = program.layers.length - 1;
  if (!backend.selectsTokens) return backend.compile(program.head, weights, last);
  try {
    return await backend.compile(selectingHead(program), weights, last);
  } catch (caught) {
    if (AppError.from(caught).code !== "UnsupportedOp") throw caught;
    return backend.compile(program.head, weights, last);
  }
}

interface WantedRow {
  readonly row: number;
  readonly sampling: OpenSampling;
}

/** A longer run than the shortest before it, times this, counts as this long: a graph that has not run for a while is slow at first. */
const mostLonger = 1.1;

export class Head {
  readonly #compiled: Compiled;
  readonly #program: Pick<ModelProgram, "hidden" | "vocab">;
  readonly #lock: Mutex;
  readonly #sampler = new Sampler();
  /** Milliseconds of a run by itself, by its rows. */
  readonly #took = new Map<number, number>();
  #wholeRows = 0;

  constructor(compiled: Compiled, program: Pick<ModelProgram, "hidden" | "vocab">, lock: Mutex) {
    this.#compiled = compiled;
    this.#program = program;
    this.#lock = lock;
  }

  get wholeRows(): number {
    return this.#wholeRows;
  }

  /** Computes logits for these rows of x [n, hidden]; `use` must choose tokens at once, since the next graph overwrites the logits. */
  async run<T>(x: Float32Array, wanted: readonly WantedRow[], use: (choose: Choose) => T): Promise<T> {
    if (wanted.length === 0) return use(noRow);
    return this.#compute(x, this.rowsOf(wanted), (head) => use(this.chooser(head)));
  }

  rowsOf(wanted: readonly WantedRow[]): HeadRows & Pick<StepHead, "ms"> {
    return {
      ms: this.#took.get(wanted.length) ?? 0,
      rows: wanted.map(({ row }) => row),
      sharpness: Float32Array.from(wanted, ({ sampling }) => sharpnessOf(sampling.sampling)),
    };
  }

  async each(x: Float32Array, rows: readonly number[], use: (logits: Float32Array, i: number) => void): Promise<void> {
    const { vocab } = this.#program;
    await this.#compute(x, { rows, sharpness: new Float32Array(rows.length).fill(1) }, ({ outputs, keptRow }) => {
      const all = outputs.logits && floats(outputs, "logits");
      for (const i of rows.keys()) use(all?.subarray(i * vocab, (i + 1) * vocab) ?? keptRow("logits", i), i);
    });
  }

  #compute<T>(x: Float32Array, { rows, sharpness }: HeadRows, use: (head: HeadOutputs) => T): Promise<T> {
    const { hidden } = this.#program;
    const inputs = {
      x: { shape: [rows.length, hidden], data: gatherRows(x, hidden, rows) },
      sharpness: { shape: [rows.length, 1], data: sharpness },
    };
    const keptRow: HeadOutputs["keptRow"] = (output, row) => this.#compiled.keptRow?.(output, row) as Float32Array;
    return this.#lock.run(async () => {
      const startedAt = performance.now();
      const outputs = await this.#compiled.run(inputs);
      const known = this.#took.get(rows.length) ?? Number.POSITIVE_INFINITY;
      this.#took.set(rows.length, Math.min(performance.now() - startedAt, mostLonger * known));
      return use({ outputs, keptRow });
    });
  }

  /** Chooses tokens of the rows whose head a range has computed. */
  chooser(head: RangeOutputs["head"]): Choose {
    if (head === undefined) return noRow;
    const { outputs, keptRow } = head;
    const { vocab } = this.#program;
    if (outputs.logits !== undefined) {
      const logits = floats(outputs, "logits");
      return (i, request, position) => this.#whole(logits.subarray(i * vocab, (i + 1) * vocab), request, position);
    }
    const ids = outputs.ids?.data as Int32Array;
    const [values, shares] = [floats(outputs, "values"), floats(outputs, "shares")];
    const count = Math.min(candidatesMost, vocab);
    return (i, request, position) => {
      const [from, to] = [i * count, (i + 1) * count];
      const [share = 0, sharpShare = 0] = shares.subarray(2 * i, 2 * i + 2);
      const candidates = { ids: ids.subarray(from, to), values: values.subarray(from, to), share, sharpShare, vocab };
      return chooseAmong(candidates, request, position) ?? this.#whole(keptRow("logits", i), request, position);
    };
  }

  #whole(logits: Float32Array, request: OpenSampling, position: number): Sampled | undefined {
    this.#wholeRows += 1;
    return this.#sampler.sample(logits, request, position);
  }
}

function noRow(): never {
  throw new RangeError("no rows were given");
}
