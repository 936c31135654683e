// Graphs in which experts multiply rows that are sorted by expert; they are kept by the numbers of rows and pointed at the experts.
import type { Segment } from "../../kernels/segment.ts";
import type { Weights } from "../../kernels/weights.ts";
import { widthsOf } from "../../kernels/widths.ts";
import type { ComputeQueue } from "../backend.ts";
import type { GgmlDevice } from "./device.ts";
import { columnsOf, computedRows, formsOf, type Part, type Product, partIndex, partsOf } from "./expert-matrices.ts";
import type { Pointer } from "./functions.ts";
import { buildGraph, type Graph, type GraphBuilder, type Value } from "./graph.ts";
import type { WeightSource } from "./lowering.ts";
import { storagesOf, zeroIds } from "./matrix-storage.ts";
import { lowerOps } from "./program.ts";
import { Recent } from "./recent.ts";

/** The experts of all graphs that a shape keeps. */
const keptExpertsMax = 1_024;
/** The bytes of a graph's largest value, unless one expert has more rows. */
const graphBytesMax = 64 * 2 ** 20;
const nodesPerOp = 5;

export interface ExpertShape {
  readonly segment: Segment;
  readonly parts: readonly Part[];
  readonly graphs: Readonly<Record<ComputeQueue, Recent<Built>>>;
}

/** An expert's matrices, and how many rows it multiplies. */
export interface ExpertRows {
  readonly addresses: readonly Pointer[];
  readonly rows: number;
}

/** Where the rows of a graph come from and go to. */
export interface RowEnds {
  readonly key: string;
  begin(build: GraphBuilder, width: number, total: number): Value;
  end(build: GraphBuilder, y: Value): Readonly<Record<string, Value>>;
}

interface Group {
  readonly from: number;
  readonly rows: number;
  /** The tensor of each part. */
  readonly tensors: readonly Pointer[];
}

interface Built {
  readonly graph: Graph;
  readonly groups: readonly Group[];
  readonly of: (readonly Pointer[])[];
}

export class ExpertGraphs {
  readonly #device: GgmlDevice;
  readonly #shapes = new Map<string, ExpertShape>();

  constructor(device: GgmlDevice) {
    this.#device = device;
  }

  shapeOf(segment: Segment, weights: Weights): ExpertShape {
    const forms = formsOf(segment, weights);
    const key = JSON.stringify([segment.ops, segment.weights.map(({ name, shape }) => [name, shape, forms[name]])]);
    const known = this.#shapes.get(key);
    if (known !== undefined) return known;
    const graphs = (): Recent<Built> =>
      new Recent(
        keptExpertsMax,
        ({ graph }) => graph.free(),
        ({ groups }) => groups.length,
      );
    const shape = { segment, parts: partsOf(this.#device, segment, forms), graphs: { main: graphs(), prefill: graphs() } };
    this.#shapes.set(key, shape);
    return shape;
  }

  /** A graph that computes consecutive rows of each expert; inputs that it has no `zerosFor` are the caller's. */
  of(shape: ExpertShape, experts: readonly ExpertRows[], ends: RowEnds, queue: ComputeQueue = "main"): Graph {
    const sizes = experts.map(({ rows }) => rows);
    const { graph, groups, of } = shape.graphs[queue].take(
      `${ends.key} ${sizes}`,
      (built) => built.graph.valid,
      () => this.#build(shape, sizes, ends, queue),
    );
    for (const [i, { addresses }] of experts.entries()) {
      if (of[i] === addresses) continue;
      for (const [part, tensor] of (groups[i] as Group).tensors.entries()) this.#device.pointAt(tensor, addresses[part] as Pointer);
      of[i] = addresses;
    }
    return graph;
  }

  #build({ segment, parts }: ExpertShape, sizes: readonly number[], ends: RowEnds, queue: ComputeQueue): Built {
    const groups: Group[] = [];
    const nodes = nodesPerOp * segment.ops.length + 2 * parts.length * sizes.length + 8;
    const work = (build: GraphBuilder): Readonly<Record<string, Value>> => {
      let total = 0;
      for (const rows of sizes) {
        groups.push({ from: total, rows, tensors: parts.map((part) => this.#placeholder(build, part)) });
        total += rows;
      }
      const [input, output] = endsOf(segment);
      const values = new Map([[input.name, ends.begin(build, input.width, total)]]);
      lowerOps(build, segment.ops, values, { rows: total, weights: sourceOf(parts, groups, total), widths: widthsOf(segment) });
      return ends.end(build, values.get(output.name) as Value);
    };
    return { graph: buildGraph(this.#device, nodes, work, { queue }), groups, of: [] };
  }

  #placeholder(build: GraphBuilder, part: Part): Pointer {
    const emptyBuffer = part.storage.emptyBuffer();
    return storagesOf(this.#device).tensor(build.context, part, emptyBuffer, emptyBuffer.base);
  }
}

export const totalOf = (experts: readonly { readonly rows: number }[]): number => experts.reduce((sum, { rows }) => sum + rows, 0);

/** Cuts a list of experts where a graph's values would be too large. */
export function inGraphs<T extends ExpertRows>({ parts }: ExpertShape, experts: readonly T[]): readonly (readonly T[])[] {
  const rowsMax = graphBytesMax / (f32Bytes * Math.max(...parts.map(({ rows, columns }) => Math.max(rows, columns))));
  const graphs: T[][] = [];
  let total = 0;
  for (const expert of experts) {
    total += expert.rows;
    const last = graphs.at(-1);
    if (last !== undefined && total <= rowsMax) last.push(expert);
    else {
      graphs.push([expert]);
      total = expert.rows;
    }
  }
  return graphs;
}

type End = Segment["inputs"][number];

export function endsOf({ inputs, outputs }: Segment): readonly [End, End] {
  return [inputs[0] as End, outputs[0] as End];
}

const f32Bytes = Float32Array.BYTES_PER_ELEMENT;

function sourceOf(parts: readonly Part[], groups: readonly Group[], total: number): WeightSource {
  const products = new Map<Part, Product>();
  const strides = new Map<Value, number>();
  return {
    multiply: (build, name, x) => {
      const at = partIndex(parts, name);
      const part = parts[at] as Part;
      const known = products.get(part);
      const product = known?.of === x ? known.value : multiplied(build, { part, at, groups, total }, x);
      products.set(part, { of: x, value: product });
      const own = columnsOf(build, { product, part, rows: total }, name);
      strides.set(own, part.rows * f32Bytes);
      return own;
    },
    addRow: (build, name, x) => {
      const { ggml } = build.device;
      const at = partIndex(parts, name);
      const width = (parts[at] as Part).columns;
      const step = strides.get(x) ?? width * f32Bytes;
      const block = build.block(width, total);
      for (const { from, rows, tensors } of groups) {
        const own = build.view(ggml.ggml_view_2d(build.context, x.tensor, width, rows, step, from * step), x);
        build.into(ggml.ggml_add(build.context, own.tensor, tensors[at] as Pointer), block, from * width * f32Bytes, [own]);
      }
      return block;
    },
    tensor: (name) => {
      throw new TypeError(`${name} is a weight of an expert, which rows do not share`);
    },
  };
}

interface PartOf {
  readonly part: Part;
  readonly at: number;
  readonly groups: readonly Group[];
  readonly total: number;
}

/** x [columns, total] -> [rows of the part, total]. */
function multiplied(build: GraphBuilder, { part, at, groups, total }: PartOf, x: Value): Value {
  const { ggml } = build.device;
  const { columns, rows: width, storage } = part;
  const block = build.block(width, total);
  const zeros = storage.exact ? undefined : zeroIds(build, total);
  for (const { from, rows, tensors } of groups) {
    const [step, offset] = [columns * f32Bytes, from * width * f32Bytes];
    const weight = tensors[at] as Pointer;
    if (zeros === undefined) {
      const own = build.view(ggml.ggml_view_2d(build.context, x.tensor, columns, rows, step, from * step), x);
      build.into(ggml.ggml_mul_mat(build.context, weight, own.tensor), block, offset, [own]);
      continue;
    }
    const own = build.view(ggml.ggml_view_3d(build.context, x.tensor, columns, 1, rows, step, step, from * step), x);
    const ids = build.view(ggml.ggml_view_2d(build.context, zeros.tensor, 1, rows, f32Bytes, from * f32Bytes), zeros);
    build.into(ggml.ggml_mul_mat_id(build.context, weight, own.tensor, ids.tensor), block, offset, [own, ids]);
  }
  return block;
}

/** The rows that an expert of that shape is given for so many, which may be faster. */
export const paddedRows = ({ parts }: ExpertShape, rows: number): number => (rows === 0 ? 0 : computedRows(parts, rows));
