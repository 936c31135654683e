// Experts multiplied one after another, each by the fastest products that its types have in the device's memory. A graph is made for a
// number of rows, not for an expert: its matrices are stand-ins, which are pointed at those of the expert whose turn it is. Matrices that
// multiply the same rows, as gate and up do, lie one after the other and are one product.
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData, WeightForms, Weights } from "../../kernels/weights.ts";
import { widthsOf } from "../../kernels/widths.ts";
import type { Compiled, Inputs, KvCall, Outputs, Room } from "../backend.ts";
import { checkInputs } from "../check.ts";
import { inPieces, keptRoom } from "../kept.ts";
import type { DeviceBuffer, GgmlDevice } from "./device.ts";
import type { Pointer } from "./functions.ts";
import { buildGraph, type Graph, type GraphBuilder, type Value } from "./graph.ts";
import { type Home, homesOf, type Matrix, multiplied, zeroIds } from "./homes.ts";
import type { WeightSource } from "./lower.ts";
import { lowerOps } from "./program.ts";
import { Recent } from "./recent.ts";
import { dimensions } from "./types.ts";

/** Graphs kept for each shape of expert, by number of rows: those of decode steps, and of some prefills. */
const graphsMax = 64;
const nodesPerOp = 5;

/** A weight of a shape of expert, or several that are one matrix. */
interface Part extends Matrix {
  readonly weights: readonly { readonly name: string; readonly rows: number }[];
  readonly home: Home;
}

interface Built {
  readonly graph: Graph;
  /** In the order of the parts. */
  readonly standIns: readonly Pointer[];
  /** Whose matrices they point at. */
  of: SingleExpert | undefined;
}

/** What experts of one form have in common. */
interface Shape {
  readonly segment: Segment;
  readonly parts: readonly Part[];
  readonly graphs: Recent<Built>;
}

export class SingleExpert implements Compiled {
  readonly residentBytes: number;
  readonly shape: Shape;
  /** Where each part's data lies. */
  readonly addresses: readonly Pointer[];
  readonly #experts: SingleExperts;
  #buffers: readonly DeviceBuffer[];

  constructor(
    experts: SingleExperts,
    shape: Shape,
    placed: { readonly addresses: readonly Pointer[]; readonly buffers: readonly DeviceBuffer[] },
  ) {
    this.#experts = experts;
    this.shape = shape;
    this.addresses = placed.addresses;
    this.#buffers = placed.buffers;
    this.residentBytes = placed.buffers.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async run(inputs: Inputs, _kv?: KvCall, room?: Room): Promise<Outputs> {
    return this.#experts.run(this, inputs, room);
  }

  get gone(): boolean {
    return this.#buffers.length === 0;
  }

  async dispose(): Promise<void> {
    for (const buffer of this.#buffers) buffer.free();
    this.#buffers = [];
  }
}

export class SingleExperts {
  readonly #device: GgmlDevice;
  readonly #shapes = new Map<string, Shape>();
  /** Of outputs that the caller has no room for. */
  readonly #kept = keptRoom();

  constructor(device: GgmlDevice) {
    this.#device = device;
  }

  put(segment: Segment, weights: Weights): SingleExpert {
    const key = JSON.stringify([segment.ops, segment.weights.map(({ name, shape }) => [name, shape, (weights[name] as WeightData).form])]);
    const shape = this.#shapes.get(key) ?? this.#shapeOf(segment, weights);
    this.#shapes.set(key, shape);
    return new SingleExpert(this, shape, this.#place(shape, weights));
  }

  /** Bytes of an expert whose matrices and biases have these forms. */
  bytesOf(segment: Segment, forms: WeightForms): number {
    return segment.weights.reduce((sum, { name, shape }) => {
      const [rows, columns] = dimensions(shape);
      return sum + this.#device.aligned(homesOf(this.#device).of({ type: forms[name] ?? "f32", rows, columns }).bytes);
    }, 0);
  }

  /** Answers in the order of the calls; undefined where some are of something else. */
  runMany(calls: readonly { readonly program: Compiled; readonly inputs: Inputs }[]): readonly Outputs[] | undefined {
    const experts = calls.flatMap(({ program, inputs }) => (program instanceof SingleExpert ? [{ program, inputs }] : []));
    if (experts.length !== calls.length) return undefined;
    const lengths = experts.map(({ program: { shape }, inputs }) => outputLength(shape.segment, inputs));
    const all = lengths.reduce((sum, length) => sum + length, 0);
    const next = inPieces(this.#kept("y", all));
    return experts.map(({ program, inputs }) => this.run(program, inputs, (_output, length) => next(length)));
  }

  run(expert: SingleExpert, inputs: Inputs, room: Room = this.#kept): Outputs {
    const { segment, graphs } = expert.shape;
    if (expert.gone) throw new TypeError(`${segment.name} is run after it was disposed of`);
    const rows = checkInputs(segment, inputs);
    const { input, output } = endsOf(segment);
    const data = room(output.name, rows * output.width);
    if (rows > 0) {
      const built = graphs.take(
        `${rows}`,
        ({ graph }) => graph.valid,
        () => this.#build(expert.shape, rows),
      );
      if (built.of !== expert) {
        for (const [i, standIn] of built.standIns.entries()) this.#device.pointAt(standIn, expert.addresses[i] as Pointer);
        built.of = expert;
      }
      const x = inputs[input.name]?.data as Float32Array;
      built.graph.run((name) => (name === "x" ? x : name === zeroIds ? new Int32Array(rows) : undefined));
      built.graph.read("y", data);
    }
    return { [output.name]: { shape: [rows, output.width], data } };
  }

  #shapeOf(segment: Segment, weights: Weights): Shape {
    const matrices = new Map<string, Omit<Part, "home">>();
    for (const { name, shape } of segment.weights) {
      const [rows, columns] = dimensions(shape);
      const { form: type } = weights[name] as WeightData;
      const product = segment.ops.find((op) => op.op === "matMul" && op.weight === name);
      const key = product?.op === "matMul" ? `${product.x} ${type} ${columns}` : `one ${name}`;
      const known = matrices.get(key);
      const all = [...(known?.weights ?? []), { name, rows }];
      matrices.set(key, { type, columns, weights: all, rows: rows + (known?.rows ?? 0) });
    }
    const parts = [...matrices.values()].map((matrix) => ({ ...matrix, home: homesOf(this.#device).of(matrix) }));
    return { segment, parts, graphs: new Recent<Built>(graphsMax, ({ graph }) => graph.free()) };
  }

  /** One piece of memory of each kind. */
  #place({ parts }: Shape, weights: Weights): { readonly addresses: readonly Pointer[]; readonly buffers: readonly DeviceBuffer[] } {
    const sizes = new Map<Home["memory"], number>();
    const offsets = parts.map(({ home: { memory, bytes } }) => {
      const at = sizes.get(memory) ?? 0;
      sizes.set(memory, at + this.#device.aligned(bytes));
      return at;
    });
    const context = this.#device.metadata(parts.length);
    const buffers = new Map<Home["memory"], DeviceBuffer>();
    try {
      for (const [memory, bytes] of sizes) buffers.set(memory, this.#device.allocate(bytes, memory.handle));
      const addresses = parts.map((part, i) => {
        const buffer = buffers.get(part.home.memory) as DeviceBuffer;
        const at = buffer.base + BigInt(offsets[i] as number);
        const bytes = joined(part.weights.map(({ name }) => (weights[name] as WeightData).data));
        this.#device.ggml.ggml_backend_tensor_set(homesOf(this.#device).tensor(context, part, buffer, at), bytes, 0, bytes.byteLength);
        return at;
      });
      return { addresses, buffers: [...buffers.values()] };
    } catch (caught) {
      for (const buffer of buffers.values()) buffer.free();
      throw caught;
    } finally {
      this.#device.release(context);
    }
  }

  #build({ segment, parts }: Shape, rows: number): Built {
    const { input, output } = endsOf(segment);
    const standIns: Pointer[] = [];
    const graph = buildGraph(this.#device, nodesPerOp * segment.ops.length + parts.length + 2, (build) => {
      for (const part of parts) {
        const nobody = part.home.nobody();
        standIns.push(homesOf(this.#device).tensor(build.context, part, nobody, nobody.base));
      }
      const values = new Map<string, Value>([[input.name, build.input("x", "f32", [input.width, rows])]]);
      lowerOps(build, segment.ops, values, { rows, weights: sourceOf(parts, standIns), widths: widthsOf(segment) });
      return { y: values.get(output.name) as Value };
    });
    return { graph, standIns, of: undefined };
  }
}

function sourceOf(parts: readonly Part[], tensors: readonly Pointer[]): WeightSource {
  const products = new Map<Part, Value>();
  const indexOf = (name: string): number => parts.findIndex(({ weights }) => weights.some((weight) => weight.name === name));
  const tensor = (name: string): Pointer => tensors[indexOf(name)] as Pointer;
  return {
    tensor,
    multiply: (build, name, x, rows) => {
      const part = parts[indexOf(name)] as Part;
      const product = products.get(part) ?? multiplied(build, { ...part, tensor: tensor(name) }, x, rows);
      products.set(part, product);
      return part.weights.length === 1 ? product : columnsOf(build, { product, part, rows }, name);
    },
    addRow: (build, name, x) => build.step(build.device.ggml.ggml_add(build.context, x.tensor, tensor(name)), [x]),
  };
}

/** Those columns of a product of several weights that are one's own: [its rows, rows], where they are. */
function columnsOf(build: GraphBuilder, { product, part, rows }: { product: Value; part: Part; rows: number }, name: string): Value {
  const at = part.weights.findIndex((weight) => weight.name === name);
  const before = part.weights.slice(0, at).reduce((sum, weight) => sum + weight.rows, 0);
  const bytes = Float32Array.BYTES_PER_ELEMENT;
  const own = part.weights[at]?.rows ?? 0;
  const view = build.device.ggml.ggml_view_2d(build.context, product.tensor, own, rows, part.rows * bytes, before * bytes);
  return build.view(view, product);
}

function joined(parts: readonly NodeJS.TypedArray[]): NodeJS.TypedArray {
  const [first] = parts;
  if (parts.length === 1 && first !== undefined) return first;
  return Buffer.concat(parts.map(({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)));
}

type End = Segment["inputs"][number];

function endsOf({ inputs, outputs }: Segment): { readonly input: End; readonly output: End } {
  return { input: inputs[0] as End, output: outputs[0] as End };
}

/** Values of the output for these inputs; as many as run() checks. */
function outputLength(segment: Segment, inputs: Inputs): number {
  const { input, output } = endsOf(segment);
  return ((inputs[input.name]?.data.length ?? 0) / input.width) * output.width;
}
