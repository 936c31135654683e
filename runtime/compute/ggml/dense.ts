// The weights of a segment that every row passes: embedding, attention, router, norms, head. Placed once, in f32 or in blocks of int8,
// and multiplied so that a row's bits do not depend on the rows beside it.
import { gateLogits } from "../../kernels/index.ts";
import type { Segment } from "../../kernels/segment.ts";
import { blockOf, type WeightData, type Weights } from "../../kernels/weights.ts";
import type { DeviceBuffer, GgmlDevice, Memory } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { type Home, homesOf, type Matrix, multiplied } from "./homes.ts";
import type { WeightSource } from "./lower.ts";
import { dimensions, numberOf, weightBytes } from "./types.ts";

interface Placed extends Matrix {
  readonly tensor: Pointer;
  readonly home: Home;
}

/** Names of the matrices that only a router multiplies by: they stay f32, since a near tie between experts hangs on them. */
function routerMatrices({ ops }: Segment): ReadonlySet<string> {
  const logits = gateLogits(ops);
  return new Set(ops.flatMap((op) => (op.op === "matMul" && logits.has(op.out) ? [op.weight] : [])));
}

export class DenseWeights implements WeightSource {
  readonly bytes: number;
  readonly #device: GgmlDevice;
  readonly #metadata: Pointer;
  /** One of each kind of memory. */
  readonly #buffers = new Map<Memory, DeviceBuffer>();
  readonly #placed = new Map<string, Placed>();

  /** `bits`: 8 keeps f32 matrices of whole blocks in int8, with a scale for each 32. */
  constructor(device: GgmlDevice, segment: Segment, weights: Weights, bits: 8 | 32) {
    this.#device = device;
    const routers = routerMatrices(segment);
    const tables = new Set(segment.ops.flatMap((op) => (op.op === "gather" ? [op.table] : [])));
    const parts = segment.weights.map(({ name, shape }) => {
      const { form } = weights[name] as WeightData;
      const coarser =
        form === "f32" && bits === 8 && shape.length === 2 && (shape[1] as number) % blockOf("q8_0") === 0 && !routers.has(name);
      const [rows, columns] = dimensions(shape);
      const matrix: Matrix = { type: coarser ? "q8_0" : form, rows, columns };
      return { name, matrix, home: tables.has(name) ? homesOf(device).plain(matrix) : homesOf(device).of(matrix) };
    });
    const sizes = new Map<Memory, number>();
    const offsets = parts.map(({ home: { memory, bytes } }) => {
      const at = sizes.get(memory) ?? 0;
      sizes.set(memory, at + device.aligned(bytes));
      return at;
    });
    this.bytes = [...sizes.values()].reduce((sum, size) => sum + size, 0);
    this.#metadata = device.metadata(segment.weights.length);
    for (const [memory, bytes] of sizes) this.#buffers.set(memory, device.allocate(bytes, memory.handle));
    for (const [i, { name, matrix, home }] of parts.entries()) {
      const buffer = this.#buffers.get(home.memory) as DeviceBuffer;
      const tensor = homesOf(device).tensor(this.#metadata, matrix, buffer, buffer.base + BigInt(offsets[i] as number));
      this.#write(tensor, matrix, weights[name] as WeightData);
      this.#placed.set(name, { tensor, rows: matrix.rows, columns: matrix.columns, type: matrix.type, home });
    }
  }

  tensor(name: string): Pointer {
    return this.#find(name).tensor;
  }

  multiply(build: GraphBuilder, name: string, x: Value, rows: number): Value {
    return multiplied(build, this.#find(name), x, rows);
  }

  addRow(build: GraphBuilder, name: string, x: Value): Value {
    return build.step(this.#device.ggml.ggml_add(build.context, x.tensor, this.tensor(name)), [x]);
  }

  free(): void {
    for (const buffer of this.#buffers.values()) buffer.free();
    this.#device.release(this.#metadata);
  }

  #find(name: string): Placed {
    const placed = this.#placed.get(name);
    if (placed) return placed;
    throw new TypeError(`weight ${name} is not of this segment`);
  }

  #write(tensor: Pointer, { type, rows, columns }: Matrix, weight: WeightData): void {
    const { ggml } = this.#device;
    let bytes = weight.data;
    if (type !== weight.form) {
      const blocks = new Uint8Array(weightBytes(type, weight.shape));
      ggml.ggml_quantize_chunk(numberOf(type), bytes, blocks, 0, rows, columns, 0n);
      bytes = blocks;
    }
    ggml.ggml_backend_tensor_set(tensor, bytes, 0, bytes.byteLength);
  }
}
