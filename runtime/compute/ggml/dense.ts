// The weights of a segment that every row passes: embedding, attention, router, norms, head. Placed once, as they
// are, in f32 or in blocks of int8, and multiplied so that a row's bits do not depend on the rows beside it.
import { gateLogits } from "../../kernels/index.ts";
import type { Segment } from "../../kernels/segment.ts";
import { asF32, blockOf, type WeightData, type Weights } from "../../kernels/weights.ts";
import type { DeviceBuffer, GgmlDevice, Memory } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { type Home, homesOf, type Matrix, multiplied } from "./homes.ts";
import type { WeightSource } from "./lower.ts";
import { dimensions, numberOf, type WeightType, weightBytes } from "./types.ts";

interface Placed extends Matrix {
  readonly tensor: Pointer;
  readonly home: Home;
}

/** Types of plain values: f32 and its halves. */
const floats: ReadonlySet<WeightType> = new Set(["f32", "f16", "bf16"]);

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

  /** `bits`: of floats at most, as BackendOptions say. */
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
    const parts = segment.weights.map(({ name, shape }) => {
      const [rows, columns] = dimensions(shape);
      const matrix: Matrix = { type: typeOf(name, shape), rows, columns };
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
    try {
      for (const [memory, bytes] of sizes) this.#buffers.set(memory, device.allocate(bytes, memory.handle));
      for (const [i, { name, matrix, home }] of parts.entries()) {
        const buffer = this.#buffers.get(home.memory) as DeviceBuffer;
        const tensor = homesOf(device).tensor(this.#metadata, matrix, buffer, buffer.base + BigInt(offsets[i] as number));
        this.#write(tensor, matrix, weights[name] as WeightData);
        this.#placed.set(name, { tensor, rows: matrix.rows, columns: matrix.columns, type: matrix.type, home });
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
      const values = asF32(weight);
      bytes = type === "f32" ? values : new Uint8Array(weightBytes(type, weight.shape));
      if (type !== "f32") ggml.ggml_quantize_chunk(numberOf(type), values, bytes, 0, rows, columns, 0n);
    }
    ggml.ggml_backend_tensor_set(tensor, bytes, 0, bytes.byteLength);
  }
}
