// The weights of a dense segment (embedding, attention, router, norms, head): placed once, as they are, as f32 or int8 blocks, and
// multiplied.
import { gateLogits, kernelOf } from "../../kernels/index.ts";
import type { Segment } from "../../kernels/segment.ts";
import { asF32, blockOf, type WeightData, type Weights } from "../../kernels/weights.ts";
import type { Memory } from "./cpu-threads.ts";
import type { GgmlDevice, Metadata } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import type { WeightSource } from "./lowering.ts";
import { type Matrix, type MatrixStorage, multiplied, storagesOf } from "./matrix-storage.ts";
import { dimensions, numberOf, type WeightType, weightBytes } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

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

export class DenseWeights implements WeightSource {
  readonly bytes: number;
  readonly #device: GgmlDevice;
  readonly #metadata: Metadata;
  readonly #buffers = new Map<Memory, DeviceBuffer>();
  readonly #placed = new Map<string, Placed & { readonly joined: Joined }>();
  readonly #products = new WeakMap<GraphBuilder, Map<Joined, { readonly x: Value; readonly product: Value }>>();

  /** `bits`: as in BackendOptions. */
  constructor(device: GgmlDevice, segment: Segment, weights: Weights, bits: 8 | 16 | 32) {
    this.#device = device;
    const routers = routerMatrices(segment);
    const typeOf = (name: string, shape: readonly number[]): WeightType => {
      if (shape.length < 2 || routers.has(name)) return "f32";
      const { form } = weights[name] as WeightData;
      if (!floats.has(form) || bits === 16) return form;
      return bits === 8 && (shape[1] as number) % blockOf("q8_0") === 0 ? "q8_0" : "f32";
    };
    const tables = new Set(segment.ops.flatMap((op) => (op.op === "gather" ? [op.table] : [])));
    const shapes = new Map(segment.weights.map(({ name, shape }) => [name, shape]));
    const parts = this.#join(segment, (name) => {
      const shape = shapes.get(name) ?? [];
      const [rows, columns] = dimensions(shape);
      return { type: typeOf(name, shape), rows, columns };
    }).map((matrix) => {
      const storage = matrix.names.some((name) => tables.has(name)) ? storagesOf(device).plain(matrix) : storagesOf(device).of(matrix);
      return { matrix, storage };
    });
    const sizes = new Map<Memory, number>();
    const offsets = parts.map(({ storage: { memory, bytes } }) => {
      const at = sizes.get(memory) ?? 0;
      sizes.set(memory, at + device.aligned(bytes));
      return at;
    });
    this.bytes = [...sizes.values()].reduce((sum, size) => sum + size, 0);
    this.#metadata = device.metadata(segment.weights.length);
    try {
      for (const [memory, bytes] of sizes) this.#buffers.set(memory, device.weightMemory.take(bytes, memory.handle));
      for (const [i, { matrix, storage }] of parts.entries()) {
        const buffer = this.#buffers.get(storage.memory) as DeviceBuffer;
        const tensor = storagesOf(device).tensor(this.#metadata.context, matrix, buffer, buffer.base + BigInt(offsets[i] as number));
        this.#write(tensor, matrix, weights);
        const { rows, columns, type } = matrix;
        for (const name of matrix.names) this.#placed.set(name, { tensor, rows, columns, type, storage, joined: matrix });
      }
    } catch (caught) {
      this.free();
      throw caught;
    }
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

  free(): void {
    for (const buffer of this.#buffers.values()) buffer.free();
    this.#metadata.free();
  }

  #find(name: string): Placed & { readonly joined: Joined } {
    const placed = this.#placed.get(name);
    if (placed) return placed;
    throw new TypeError(`weight ${name} is not of this segment`);
  }

  /** Joins weights that produce the inputs of one attention from the same rows in the same type; all others stay separate. */
  #join(segment: Segment, matrixOf: (name: string) => Matrix): readonly Joined[] {
    const groups = new Map<string, string[]>(segment.weights.map(({ name }) => [name, [name]]));
    for (const inputs of this.#device.exact ? attentionInputs(segment) : []) {
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

  #write(tensor: Pointer, { type, columns, names, each }: Joined, weights: Weights): void {
    const all = names.map((name, i) => this.#bytesAs(type, weights[name] as WeightData, [each[i] as number, columns]));
    const [first] = all;
    const bytes = all.length === 1 && first !== undefined ? first : Buffer.concat(all.map(asBytes));
    this.#device.ggml.ggml_backend_tensor_set(tensor, bytes, 0, bytes.byteLength);
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
