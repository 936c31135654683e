// A segment of the dense part as a program: a graph for each shape of call, kept while such calls come, and the ops at its end that the
// host computes. Its weights are its own (dense.ts).
import { AppError } from "../../../crds/common.ts";
import { checkIds } from "../../kernels/gather.ts";
import { kernelOf } from "../../kernels/index.ts";
import type { Op, Segment, Tensor } from "../../kernels/segment.ts";
import { copyF32, type WeightData, type Weights } from "../../kernels/weights.ts";
import { widthsOf } from "../../kernels/widths.ts";
import type { Compiled, Inputs, KvCall, Outputs } from "../backend.ts";
import { checkInputs, checkKv } from "../check.ts";
import { DenseWeights } from "./dense.ts";
import type { GgmlDevice } from "./device.ts";
import { buildGraph, type Graph, type GraphBuilder, type Value } from "./graph.ts";
import { zeroIds } from "./homes.ts";
import { KvGraph, kvKey } from "./kv.ts";
import { isHostOp, type Lowering, lower } from "./lower.ts";
import { Recent } from "./recent.ts";

/** Graphs kept for each program, by batch, slot and length of context: decode steps of some lengths, and some sizes of prefill. */
const graphsMax = 8;
/** Bytes of outputs that are kept for a graph's next run: logits of a few rows. */
const keptBytesMax = 2 * 2 ** 20;
/** Nodes that an op becomes, at most: attention whose heads turn in part, by neighbouring pairs, has forty tensors. */
const nodesPerOp = 32;

interface Built {
  readonly graph: Graph;
  readonly kv: KvGraph | undefined;
  /** The memory of outputs, used again at each run: logits are large. Not of a layer, whose outputs its caller looks at for longer. */
  readonly outputs: ReadonlyMap<string, Tensor> | undefined;
}

/** The names that graphs give to the host: outputs, and what host ops read. */
function deviceOutputs(segment: Segment, onHost: readonly Op[]): readonly string[] {
  const written = new Set(
    onHost.flatMap((op) =>
      kernelOf(op)
        .outputs(op)
        .map(({ name }) => name),
    ),
  );
  const weights = new Set(segment.weights.map(({ name }) => name));
  const wanted = [...segment.outputs.map(({ name }) => name), ...onHost.flatMap((op) => kernelOf(op).reads(op))];
  return [...new Set(wanted.filter((name) => !written.has(name) && !weights.has(name)))];
}

/** A graph runs in one piece, so nothing that it computes may wait for the host. */
function checkHostLast(segment: Segment, onDevice: readonly Op[], onHost: readonly Op[]): void {
  const written = new Set(
    onHost.flatMap((op) =>
      kernelOf(op)
        .outputs(op)
        .map(({ name }) => name),
    ),
  );
  const late = onDevice.find((op) =>
    kernelOf(op)
      .reads(op)
      .some((name) => written.has(name)),
  );
  if (late === undefined) return;
  throw new AppError(`${segment.name}: op ${late.op} reads what the host computes (ggml)`, {
    code: "UnsupportedOp",
    operation: "opening a model",
  });
}

function hostWeights(segment: Segment, onHost: readonly Op[], weights: Weights): Readonly<Record<string, Tensor>> {
  const read = new Set(onHost.flatMap((op) => kernelOf(op).reads(op)));
  const kept = segment.weights.filter(({ name }) => read.has(name));
  return Object.fromEntries(kept.map(({ name, shape }) => [name, { shape, data: copyF32(weights[name] as WeightData) }]));
}

/** The nodes of some ops; `values` has what they read, and gets what they write. */
export function lowerOps(
  build: GraphBuilder,
  ops: readonly Op[],
  values: Map<string, Value>,
  tools: Pick<Lowering, "rows" | "weights" | "widths"> & { readonly kv?: KvGraph },
): void {
  const read = (name: string): Value => {
    const value = values.get(name);
    if (!value) throw new TypeError(`${name} is read before it is written`);
    return value;
  };
  const lowering = { ...tools, build, kv: tools.kv, read, write: values.set.bind(values) };
  for (const op of ops) lower(lowering, op);
}

export class DenseProgram implements Compiled {
  readonly residentBytes: number;
  readonly #device: GgmlDevice;
  readonly #segment: Segment;
  readonly #weights: DenseWeights;
  readonly #onDevice: readonly Op[];
  readonly #onHost: readonly Op[];
  readonly #read: readonly string[];
  /** Weights that host ops read. */
  readonly #hostWeights: Readonly<Record<string, Tensor>>;
  readonly #widths: ReadonlyMap<string, number>;
  readonly #usesKv: boolean;
  readonly #graphs = new Recent<Built>(graphsMax, ({ graph }) => graph.free());
  #gone = false;

  constructor(device: GgmlDevice, segment: Segment, weights: Weights, bits: 8 | 16 | 32) {
    this.#device = device;
    this.#segment = segment;
    this.#weights = new DenseWeights(device, segment, weights, bits);
    this.residentBytes = this.#weights.bytes;
    this.#onHost = segment.ops.filter(isHostOp);
    this.#onDevice = segment.ops.filter((op) => !isHostOp(op));
    checkHostLast(segment, this.#onDevice, this.#onHost);
    this.#read = deviceOutputs(segment, this.#onHost);
    this.#hostWeights = hostWeights(segment, this.#onHost, weights);
    this.#widths = widthsOf(segment);
    this.#usesKv = segment.ops.some((op) => kernelOf(op).kvLayer !== undefined);
  }

  async run(inputs: Inputs, call?: KvCall): Promise<Outputs> {
    const rows = checkInputs(this.#segment, inputs);
    checkKv(this.#segment, call, rows);
    this.#checkIds(inputs);
    const kv = this.#usesKv ? call : undefined;
    const built = rows > 0 && this.#onDevice.length > 0 ? this.#graph(rows, kv) : undefined;
    const values: Record<string, Tensor> = {};
    for (const name of this.#read) values[name] = inputs[name] ?? built?.outputs?.get(name) ?? this.#empty(name, rows);
    if (built) {
      const { graph } = built;
      graph.run((name) => inputs[name]?.data ?? (kv && built.kv?.input(kv, name)) ?? (name === zeroIds ? new Int32Array(rows) : undefined));
      for (const name of this.#read) if (!inputs[name]) graph.read(name, (values[name] as Tensor).data);
    }
    this.#runHost(values);
    const outputs: Record<string, Tensor> = {};
    for (const { name } of this.#segment.outputs) outputs[name] = values[name] as Tensor;
    return outputs;
  }

  get gone(): boolean {
    return this.#gone;
  }

  async dispose(): Promise<void> {
    this.#gone = true;
    this.#graphs.clear();
    this.#weights.free();
  }

  /** Throws AppError `UnsupportedOp` where the device lacks an operation of a graph for so many rows. */
  tryOut(rows: number, call: KvCall | undefined): void {
    if (this.#onDevice.length > 0) this.#build(rows, this.#usesKv ? call : undefined).graph.free();
  }

  #graph(rows: number, kv: KvCall | undefined): Built {
    return this.#graphs.take(
      kv ? kvKey(kv) : `${rows}`,
      ({ graph }) => graph.valid,
      () => this.#build(rows, kv),
    );
  }

  #build(rows: number, call: KvCall | undefined): Built {
    const kv = call && new KvGraph(call);
    const graph = buildGraph(this.#device, nodesPerOp * this.#segment.ops.length, (build) => {
      const values = new Map<string, Value>();
      for (const { name, dtype, width } of this.#segment.inputs) {
        values.set(name, build.input(name, dtype, width === 0 ? [rows] : [width, rows]));
      }
      lowerOps(build, this.#onDevice, values, { rows, weights: this.#weights, widths: this.#widths, ...(kv ? { kv } : {}) });
      return Object.fromEntries(this.#read.map((name) => [name, values.get(name) as Value]));
    });
    const outputBytes = this.#read.reduce((sum, name) => sum + rows * (this.#widths.get(name) ?? 1) * Float32Array.BYTES_PER_ELEMENT, 0);
    const outputs = call || outputBytes > keptBytesMax ? undefined : new Map(this.#read.map((name) => [name, this.#empty(name, rows)]));
    return { graph, kv, outputs };
  }

  #empty(name: string, rows: number): Tensor {
    const width = this.#widths.get(name) ?? 1;
    return { shape: [rows, width], data: new Float32Array(rows * width) };
  }

  #runHost(values: Record<string, Tensor>): void {
    for (const op of this.#onHost)
      Object.assign(values, kernelOf(op).forward(op, { read: (name) => (values[name] ?? this.#hostWeights[name]) as Tensor }));
  }

  /** Indices are checked here: ggml would end the process. */
  #checkIds(inputs: Inputs): void {
    for (const op of this.#segment.ops) {
      if (op.op !== "gather") continue;
      const table = this.#segment.weights.find(({ name }) => name === op.table);
      checkIds(inputs[op.ids]?.data as Int32Array, table?.shape[0] ?? 0);
    }
  }
}
