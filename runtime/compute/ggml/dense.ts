// The weights of a segment that every row passes: embedding, attention, router, norms, head. Placed once, as they
// are, in f32 or in blocks of int8, and multiplied so that a row's bits do not depend on the rows beside it.
import { gateLogits } from "../../kernels/index.ts";
import type { Segment } from "../../kernels/segment.ts";
import { asF32, blockSize, type WeightData, type Weights } from "../../kernels/weights.ts";
import type { CpuDevice, DeviceBuffer } from "./device.ts";
import { tensorBytes, typeOfForm } from "./encode.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { ofChosen, type WeightSource } from "./lower.ts";
import { dimensions, multipliesExactly, numberOf, type WeightType, weightBytes } from "./types.ts";

interface Placed {
  readonly tensor: Pointer;
  readonly type: WeightType;
  readonly shape: readonly number[];
}

/** Types of plain values: f32 and its halves. */
const floats: ReadonlySet<WeightType> = new Set(["f32", "f16", "bf16"]);
const alignment = 64;
const aligned = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/** Names of the matrices that only a router multiplies by: they stay f32, since a near tie between experts hangs on them. */
function routerMatrices({ ops }: Segment): ReadonlySet<string> {
  const logits = gateLogits(ops);
  return new Set(ops.flatMap((op) => (op.op === "matMul" && logits.has(op.out) ? [op.weight] : [])));
}

export class DenseWeights implements WeightSource {
  readonly bytes: number;
  readonly #device: CpuDevice;
  readonly #metadata: Pointer;
  readonly #buffer: DeviceBuffer;
  readonly #placed = new Map<string, Placed>();

  /** `bits`: of floats at most, as BackendOptions say. */
  constructor(device: CpuDevice, segment: Segment, weights: Weights, bits: 8 | 16 | 32) {
    this.#device = device;
    const routers = routerMatrices(segment);
    const typeOf = ({ name, shape }: Segment["weights"][number]): WeightType => {
      if (shape.length < 2 || routers.has(name)) return "f32";
      const type = typeOfForm((weights[name] as WeightData).form);
      if (!floats.has(type) || bits === 16) return type;
      return bits === 8 && (shape[1] as number) % blockSize === 0 ? "q8_0" : "f32";
    };
    const sizes = segment.weights.map((weight) => aligned(weightBytes(typeOf(weight), weight.shape)));
    this.bytes = sizes.reduce((sum, size) => sum + size, 0);
    this.#metadata = device.metadata(segment.weights.length);
    this.#buffer = device.allocate(this.bytes);
    let at = this.#buffer.base;
    for (const [i, declared] of segment.weights.entries()) {
      this.#place(declared.name, typeOf(declared), weights[declared.name] as WeightData, at);
      at += BigInt(sizes[i] as number);
    }
  }

  tensor(name: string): Pointer {
    return this.#find(name).tensor;
  }

  multiply(build: GraphBuilder, name: string, x: Value, rows: number): Value {
    const { ggml } = this.#device;
    const { tensor, type, shape } = this.#find(name);
    if (multipliesExactly(type, false)) return build.step(ggml.ggml_mul_mat(build.context, tensor, x.tensor), [x]);
    const [n, k] = dimensions(shape);
    const ids = build.input("zeros", "i32", [1, rows]);
    return ofChosen(build, x, { from: k, to: n, rows }, (apart) =>
      build.step(ggml.ggml_mul_mat_id(build.context, tensor, apart.tensor, ids.tensor), [apart, ids]),
    );
  }

  addRow(build: GraphBuilder, name: string, x: Value): Value {
    return build.step(this.#device.ggml.ggml_add(build.context, x.tensor, this.tensor(name)), [x]);
  }

  free(): void {
    this.#buffer.free();
    this.#device.release(this.#metadata);
  }

  #find(name: string): Placed {
    const placed = this.#placed.get(name);
    if (placed) return placed;
    throw new TypeError(`weight ${name} is not of this segment`);
  }

  #place(name: string, type: WeightType, weight: WeightData, at: Pointer): void {
    const { ggml } = this.#device;
    const [rows, columns] = dimensions(weight.shape);
    const tensor = ggml.ggml_new_tensor_4d(this.#metadata, numberOf(type), columns, rows, 1, 1);
    ggml.ggml_backend_tensor_alloc(this.#buffer.handle, tensor, at);
    const bytes = type === typeOfForm(weight.form) ? tensorBytes(weight) : this.#converted(type, asF32(weight), [rows, columns]);
    ggml.ggml_backend_tensor_set(tensor, bytes, 0, bytes.byteLength);
    this.#placed.set(name, { tensor, type, shape: weight.shape });
  }

  #converted(type: WeightType, values: Float32Array, [rows, columns]: readonly [number, number]): Float32Array | Uint8Array {
    if (type === "f32") return values;
    const blocks = new Uint8Array(weightBytes(type, [rows, columns]));
    this.#device.ggml.ggml_quantize_chunk(numberOf(type), values, blocks, 0, rows, columns, 0n);
    return blocks;
  }
}
