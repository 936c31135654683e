// A dense segment as a program, with one cached graph per shape of call.
import { checkIds } from "../../kernels/gather.ts";
import type { Op, Segment, Tensor } from "../../kernels/segment.ts";
import type { Weights } from "../../kernels/weights.ts";
import { widthsOf } from "../../kernels/widths.ts";
import type { BufferAllocator, Compiled, ComputeQueue, Inputs, KvCall, Outputs } from "../backend.ts";
import { checkInputs, checkKv } from "../call-checks.ts";
import { reusedBuffers } from "../output-buffers.ts";
import { DenseWeights } from "./dense.ts";
import type { GgmlDevice } from "./device.ts";
import { buildGraph, type Graph, type GraphBuilder, type Value } from "./graph.ts";
import { KvGraph, kvKey } from "./kv.ts";
import { lower } from "./lower.ts";
import type { Lowering } from "./lowering.ts";
import { zerosFor } from "./matrix-storage.ts";
import { Recent } from "./recent.ts";

const graphsMax = 8;
const nodesPerOp = 32;
const nodesPerGroup = 20;
/** An output of graphs with a cache where bits are free: of each row, a number if its values are. */
const sumsName = "sums of rows";

interface Built {
  readonly graph: Graph;
  readonly kv: KvGraph | undefined;
}

/** Lowers some ops; `values` has their inputs and receives their outputs. */
export function lowerOps(
  build: GraphBuilder,
  ops: readonly Op[],
  values: Map<string, Value>,
  tools: Pick<Lowering, "rows" | "weights" | "widths"> & { readonly kv?: KvGraph },
): void {
  const waiting = new Map<string, () => Value>();
  const read = (name: string): Value => {
    const value = values.get(name) ?? waiting.get(name)?.();
    if (!value) throw new TypeError(`${name} is read before it is written`);
    values.set(name, value);
    return value;
  };
  const later = waiting.set.bind(waiting);
  const lowering = { ...tools, build, kv: tools.kv, read, write: values.set.bind(values), later };
  for (const op of ops) lower(lowering, op);
  for (const name of waiting.keys()) read(name);
}

export class DenseProgram implements Compiled {
  readonly residentBytes: number;
  readonly segment: Segment;
  readonly #device: GgmlDevice;
  readonly #weights: DenseWeights;
  readonly #isPart: boolean;
  readonly #parts: DenseProgram[] = [];
  readonly #widths: ReadonlyMap<string, number>;
  readonly #kvOps: readonly Extract<Op, { op: "attention" }>[];
  readonly #kept: BufferAllocator = reusedBuffers();
  readonly #graphs: Readonly<Record<ComputeQueue, Recent<Built>>> = {
    main: new Recent<Built>(graphsMax, ({ graph }) => this.#drop(graph)),
    prefill: new Recent<Built>(graphsMax, ({ graph }) => graph.free()),
  };
  #last: { readonly graph: Graph; readonly keptRow: NonNullable<Compiled["keptRow"]> } | undefined;

  /** `weights` that are placed stay another program's. */
  constructor(
    device: GgmlDevice,
    segment: Segment,
    weights: Weights | DenseWeights,
    placing: ConstructorParameters<typeof DenseWeights>[3] = { bits: 32 },
  ) {
    this.#device = device;
    this.segment = segment;
    this.#isPart = weights instanceof DenseWeights;
    this.#weights = weights instanceof DenseWeights ? weights : new DenseWeights(device, segment, weights, placing);
    this.residentBytes = this.#isPart ? 0 : this.#weights.bytes;
    this.#widths = widthsOf(segment);
    this.#kvOps = segment.ops.filter((op) => op.op === "attention");
  }

  nodes(kv: KvGraph | undefined): number {
    const parts = this.#kvOps.reduce((sum, op) => sum + (kv?.partsFor(op).length ?? 0), 0);
    return nodesPerOp * this.segment.ops.length + nodesPerGroup * parts;
  }

  /** True where others' weights may lie in the memory of its own. */
  get isStreamed(): boolean {
    return this.#weights.isStreamed;
  }

  run(inputs: Inputs, call?: KvCall, allocate: BufferAllocator = this.#kept, queue: ComputeQueue = "main"): Promise<Outputs> {
    return this.#weights.whileHere(() => this.#compute(inputs, call, allocate, queue));
  }

  async #compute(inputs: Inputs, call: KvCall | undefined, allocate: BufferAllocator, queue: ComputeQueue): Promise<Outputs> {
    const rows = checkInputs(this.segment, inputs);
    checkKv(this.segment, call, rows);
    this.checkIds(inputs);
    const kv = this.#kvOps.length > 0 ? call : undefined;
    const built = rows > 0 ? this.#graph(rows, kv, queue) : undefined;
    const outputs = this.memoryOf(rows, allocate);
    const sums = new Float32Array(kv === undefined || this.#device.exact ? 0 : rows);
    const compute = async ({ graph, kv: own }: Built): Promise<void> => {
      const running = graph.runInQueue((name) => inputs[name]?.data ?? (kv && own?.input(kv, name)) ?? zerosFor(name));
      if (running) await running;
      const wanted = Object.entries(outputs).map(([name, { data }]) => [name, data] as const);
      graph.readAll(sums.length === 0 ? wanted : [...wanted, [sumsName, sums]]);
      if (queue === "main") this.#last = { graph, keptRow: this.keptRows(graph, rows) };
    };
    if (built) await compute(built);
    // A second time with clamps, so that what the first one stored is gone.
    if (kv && !sums.every(Number.isFinite)) {
      const again = this.#build(rows, kv, true);
      await compute(again);
      this.#drop(again.graph);
    }
    return outputs;
  }

  keptRow(name: string, row: number): Float32Array {
    if (this.#last === undefined) throw new TypeError(`${this.segment.name}: ${name} is read after another run`);
    return this.#last.keptRow(name, row);
  }

  /** Reads rows of the graph's last run. */
  keptRows(graph: Graph, rows: number): NonNullable<Compiled["keptRow"]> {
    const run = this.#device.runs;
    return (name, row) => {
      // A later graph may have moved the memory of the row.
      if (!graph.valid || run !== this.#device.runs) throw new TypeError(`${this.segment.name}: ${name} is read after another run`);
      if (!(row >= 0 && row < rows)) throw new TypeError(`${this.segment.name}: row ${row} of ${name} is read, the run had ${rows}`);
      const { width = 0 } = this.segment.outputs.find((each) => each.name === name) ?? {};
      const values = new Float32Array(width);
      graph.read(name, values, row * values.byteLength);
      return values;
    };
  }

  /** Memory for the outputs of so many rows that are read at once. */
  memoryOf(rows: number, allocate: BufferAllocator): Record<string, Tensor> {
    const outputs: Record<string, Tensor> = {};
    for (const { name, dtype, width, kept } of this.segment.outputs) {
      if (kept) continue;
      const length = rows * width;
      outputs[name] = { shape: [rows, width], data: dtype === "i32" ? new Int32Array(length) : allocate(name, length) };
    }
    return outputs;
  }

  get keptOutputs(): ReadonlySet<string> {
    return new Set(this.segment.outputs.flatMap(({ name, kept }) => (kept ? [name] : [])));
  }

  async dispose(): Promise<void> {
    for (const part of this.#parts) await part.dispose();
    for (const graphs of Object.values(this.#graphs)) graphs.clear();
    if (!this.#isPart) await this.#weights.free();
  }

  part(segment: Segment): DenseProgram {
    const part = new DenseProgram(this.#device, segment, this.#weights);
    this.#parts.push(part);
    return part;
  }

  /** Throws AppError `UnsupportedOp` where the device lacks an operation for so many rows. */
  tryOut(rows: number, call: KvCall | undefined): void {
    this.#build(rows, this.#kvOps.length > 0 ? call : undefined).graph.free();
  }

  lower(build: GraphBuilder, values: Map<string, Value>, rows: number, kv: KvGraph | undefined): void {
    lowerOps(build, this.segment.ops, values, { rows, weights: this.#weights, widths: this.#widths, ...(kv ? { kv } : {}) });
  }

  /** Lowers it behind the given values; other inputs are the graph's. Returns its outputs, each in one piece. */
  lowerWhole(build: GraphBuilder, given: Readonly<Record<string, Value>>, rows: number, kv?: KvGraph): Record<string, Value> {
    const { inputs, outputs } = this.segment;
    const values = new Map(Object.entries(given));
    for (const { name, dtype, width } of inputs)
      if (!values.has(name)) values.set(name, build.input(name, dtype, width === 0 ? [rows] : [width, rows]));
    this.lower(build, values, rows, kv);
    return Object.fromEntries(outputs.map(({ name }) => [name, build.whole(values.get(name) as Value)]));
  }

  #drop(graph: Graph): void {
    if (this.#last?.graph === graph) this.#last = undefined;
    graph.free();
  }

  #graph(rows: number, kv: KvCall | undefined, queue: ComputeQueue): Built {
    return this.#graphs[queue].take(
      kv ? kvKey(kv) : `${rows}`,
      ({ graph }) => graph.valid,
      () => this.#build(rows, kv, this.#device.exact, queue),
    );
  }

  #build(rows: number, call: KvCall | undefined, clamps = this.#device.exact, queue: ComputeQueue = "main"): Built {
    const kv = call && new KvGraph(call, clamps);
    const graph = buildGraph(
      this.#device,
      this.nodes(kv),
      (build) => {
        const found = this.lowerWhole(build, {}, rows, kv);
        const first = found[this.segment.outputs.find(({ dtype }) => dtype === "f32")?.name ?? ""];
        if (kv && !this.#device.exact && first) found[sumsName] = sumsOfSquares(build, first);
        return found;
      },
      { alone: this.keptOutputs, queue },
    );
    return { graph, kv };
  }

  /** ggml would end the process on a bad index. */
  checkIds(inputs: Inputs): void {
    for (const op of this.segment.ops) {
      if (op.op !== "gather") continue;
      const table = this.segment.weights.find(({ name }) => name === op.table);
      checkIds(inputs[op.ids]?.data as Int32Array, table?.shape[0] ?? 0);
    }
  }
}

/** No number where a value of the row is none, or where a norm could not square it. */
export function sumsOfSquares(build: GraphBuilder, x: Value): Value {
  const { ggml } = build.device;
  const squares = build.step(ggml.ggml_mul(build.context, x.tensor, x.tensor), [x]);
  return build.step(ggml.ggml_sum_rows(build.context, squares.tensor), [squares]);
}
