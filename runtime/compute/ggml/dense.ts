// The weights of a dense segment (embedding, attention, router, norms, head): placed once, as they are, as f32 or int8 blocks, and
// multiplied.
import { gateLogits, kernelOf } from "../../kernels/index.ts";
import type { Segment } from "../../kernels/segment.ts";
import { asF32, blockOf, type WeightData, type WeightForm, type WeightForms, type Weights } from "../../kernels/weights.ts";
import type { Memory } from "./cpu-threads.ts";
import type { GgmlDevice, Metadata } from "./device.ts";
import { formsOf } from "./expert-matrices.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { WeightSource } from "./lowering.ts";
import { type Matrix, type MatrixStorage, multiplied, storagesOf } from "./matrix-storage.ts";
import { dimensions, numberOf, type WeightType, weightBytes } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";
import type { StreamedWeights, WeightStream } from "./weight-stream.ts";

interface Placed extends Matrix {
  readonly tensor: Pointer;
  readonly storage: MatrixStorage;
}

interface Joined extends Matrix {
  readonly names: readonly string[];
  readonly each: readonly number[];
}

const floats: ReadonlySet<WeightType> = new Set(["f32", "f16", "bf16"]);

/** Matrices that only a router uses stay f32. */
function routerMatrices({ ops }: Segment): ReadonlySet<string> {
  const routers = new Set(gateLogits(ops));
  const matrices = new Set<string>();
  for (const op of ops.toReversed()) {
    if (!("out" in op) || !routers.has(op.out)) continue;
    if (op.op === "matMul") {
      matrices.add(op.weight);
      routers.add(op.x);
    }
    if (op.op === "add") routers.add(op.a).add(op.b);
    if (op.op === "addRow") routers.add(op.x);
    if (op.op === "gru") routers.add(op.given).add(op.held);
  }
  return matrices;
}

/** Weights that only produce the queries, keys and values of one attention. */
function attentionInputs({ ops, outputs }: Segment): readonly (readonly { readonly name: string; readonly x: string }[])[] {
  const read = [...outputs.map(({ name }) => name), ...ops.flatMap((op) => kernelOf(op).reads(op))];
  return ops.flatMap((op) => {
    if (op.op !== "attention") return [];
    const products = [op.q, op.k, op.v].map((value) => ops.find((each) => each.op === "matMul" && each.out === value));
    const own = products.flatMap((each) => (each?.op === "matMul" && read.filter((name) => name === each.out).length === 1 ? [each] : []));
    return [own.map(({ weight, x }) => ({ name: weight, x }))];
  });
}

interface Part {
  readonly matrix: Joined;
  readonly storage: MatrixStorage;
  /** Bytes within its memory. */
  readonly at: number;
}

interface Layout {
  readonly parts: readonly Part[];
  readonly sizes: ReadonlyMap<Memory, number>;
  readonly bytes: number;
}

/** How weights of these forms lie in a device's memory; `bits`: as in BackendOptions. */
export function layoutOf(device: GgmlDevice, segment: Segment, forms: WeightForms, bits: 8 | 16 | 32): Layout {
  const routers = routerMatrices(segment);
  const typeOf = (name: string, shape: readonly number[]): WeightType => {
    if (shape.length < 2 || routers.has(name)) return "f32";
    const form = forms[name] as WeightForm;
    if (!floats.has(form) || bits === 16) return form;
    return bits === 8 && (shape[1] as number) % blockOf("q8_0") === 0 ? "q8_0" : "f32";
  };
  const tables = new Set(segment.ops.flatMap((op) => (op.op === "gather" ? [op.table] : [])));
  const shapes = new Map(segment.weights.map(({ name, shape }) => [name, shape]));
  const matrices = joinedIn(device, segment, (name) => {
    const shape = shapes.get(name) ?? [];
    const [rows, columns] = dimensions(shape);
    return { type: typeOf(name, shape), rows, columns };
  });
  const sizes = new Map<Memory, number>();
  const parts = matrices.map((matrix) => {
    const isTable = matrix.names.some((name) => tables.has(name));
    const storage = isTable ? storagesOf(device).plain(matrix) : storagesOf(device).of(matrix);
    const at = sizes.get(storage.memory) ?? 0;
    sizes.set(storage.memory, at + device.aligned(storage.bytes));
    return { matrix, storage, at };
  });
  return { parts, sizes, bytes: [...sizes.values()].reduce((sum, size) => sum + size, 0) };
}

/** Joins weights that produce the inputs of one attention from the same rows in the same type; all others stay separate. */
function joinedIn(device: GgmlDevice, segment: Segment, matrixOf: (name: string) => Matrix): readonly Joined[] {
  const groups = new Map<string, string[]>(segment.weights.map(({ name }) => [name, [name]]));
  for (const inputs of device.exact ? attentionInputs(segment) : []) {
    for (const { name, x } of inputs) {
      const { type, columns } = matrixOf(name);
      const alike = inputs.filter((each) => each.x === x && matrixOf(each.name).type === type && matrixOf(each.name).columns === columns);
      const [first] = alike;
      if (first === undefined || groups.get(name)?.length !== 1) continue;
      for (const each of alike) groups.delete(each.name);
      groups.set(
        first.name,
        alike.map((each) => each.name),
      );
    }
  }
  return [...groups.values()].map((names) => {
    const each = names.map((name) => matrixOf(name).rows);
    return Object.assign({}, matrixOf(names[0] as string), { names, each, rows: each.reduce((sum, rows) => sum + rows, 0) });
  });
}

interface Placing {
  readonly bits: 8 | 16 | 32;
  /** Unset: they stay in the device's memory. */
  readonly stream?: WeightStream | undefined;
}

export class DenseWeights implements WeightSource {
  /** Bytes of the device. */
  readonly bytes: number;
  readonly #device: GgmlDevice;
  readonly #metadata: Metadata;
  readonly #buffers = new Map<Memory, DeviceBuffer>();
  readonly #stream: WeightStream | undefined;
  readonly #streamed: StreamedWeights | undefined;
  readonly #placed = new Map<string, Placed & { readonly joined: Joined }>();
  readonly #products = new WeakMap<GraphBuilder, Map<Joined, { readonly x: Value; readonly product: Value }>>();

  constructor(device: GgmlDevice, segment: Segment, weights: Weights, { bits, stream }: Placing) {
    this.#device = device;
    this.#stream = stream;
    const { parts, sizes, bytes } = layoutOf(device, segment, formsOf(segment, weights), bits);
    this.#streamed = stream?.add(bytes);
    this.bytes = this.#streamed?.bytes ?? bytes;
    this.#metadata = device.metadata(segment.weights.length);
    try {
      if (stream === undefined)
        for (const [memory, size] of sizes) this.#buffers.set(memory, device.weightMemory.take(size, memory.handle));
      for (const { matrix, storage, at } of parts) {
        const buffer = this.#streamed?.slot.buffer ?? (this.#buffers.get(storage.memory) as DeviceBuffer);
        const tensor = storagesOf(device).tensor(this.#metadata.context, matrix, buffer, buffer.base + BigInt(at));
        const data = this.#bytesOf(matrix, weights);
        if (this.#streamed) this.#streamed.writes.push({ tensor, data: asBytes(data) });
        else device.ggml.ggml_backend_tensor_set(tensor, data, 0, data.byteLength);
        const { rows, columns, type } = matrix;
        for (const name of matrix.names) this.#placed.set(name, { tensor, rows, columns, type, storage, joined: matrix });
      }
    } catch (caught) {
      void this.free();
      throw caught;
    }
  }

  get isStreamed(): boolean {
    return this.#streamed !== undefined;
  }

  /** Work that reads them. */
  whileHere<T>(work: () => Promise<T>): Promise<T> {
    return this.#stream && this.#streamed ? this.#stream.use(this.#streamed, work) : work();
  }

  tensor(name: string): Pointer {
    return this.#find(name).tensor;
  }

  multiply(build: GraphBuilder, name: string, x: Value, rows: number): Value {
    const placed = this.#find(name);
    const { joined } = placed;
    if (joined.names.length === 1) return multiplied(build, placed, x, rows);
    const products = this.#products.get(build) ?? new Map<Joined, { readonly x: Value; readonly product: Value }>();
    this.#products.set(build, products);
    const known = products.get(joined);
    const whole = known?.x === x ? known.product : multiplied(build, placed, x, rows);
    products.set(joined, { x, product: whole });
    const at = joined.names.indexOf(name);
    const from = joined.each.slice(0, at).reduce((sum, each) => sum + each, 0);
    return build.part({ whole, from, width: joined.rows }, joined.each[at] as number, rows);
  }

  addRow(build: GraphBuilder, name: string, x: Value): Value {
    return build.step(this.#device.ggml.ggml_add(build.context, x.tensor, this.tensor(name)), [x]);
  }

  async free(): Promise<void> {
    for (const buffer of this.#buffers.values()) buffer.free();
    if (this.#streamed) await this.#stream?.remove(this.#streamed);
    this.#metadata.free();
  }

  #find(name: string): Placed & { readonly joined: Joined } {
    const placed = this.#placed.get(name);
    if (placed) return placed;
    throw new TypeError(`weight ${name} is not of this segment`);
  }

  #bytesOf({ type, columns, names, each }: Joined, weights: Weights): NodeJS.TypedArray {
    const all = names.map((name, i) => this.#bytesAs(type, weights[name] as WeightData, [each[i] as number, columns]));
    const [first] = all;
    return all.length === 1 && first !== undefined ? first : Buffer.concat(all.map(asBytes));
  }

  #bytesAs(type: WeightType, weight: WeightData, [rows, columns]: readonly [number, number]): NodeJS.TypedArray {
    if (type === weight.form) return weight.data;
    const values = asF32(weight);
    if (type === "f32") return values;
    const bytes = new Uint8Array(weightBytes(type, weight.shape));
    this.#device.ggml.ggml_quantize_chunk(numberOf(type), values, bytes, 0, rows, columns, 0n);
    return bytes;
  }
}

const asBytes = ({ buffer, byteOffset, byteLength }: NodeJS.TypedArray): Uint8Array => new Uint8Array(buffer, byteOffset, byteLength);
