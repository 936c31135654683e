// The weights of a segment that every row passes: embedding, attention, router, norms, head. Placed once, in f32 or in blocks of int8,
// and multiplied so that a row's bits do not depend on the rows beside it.
import { gateLogits } from "../../kernels/index.ts";
import type { Segment } from "../../kernels/segment.ts";
import { blockOf, type WeightData, type Weights } from "../../kernels/weights.ts";
import type { DeviceBuffer, GgmlDevice } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { ofChosen, type WeightSource } from "./lower.ts";
import { dimensions, multipliesExactly, numberOf, type WeightType, weightBytes } from "./types.ts";

interface Placed {
  readonly tensor: Pointer;
  readonly type: WeightType;
  readonly shape: readonly number[];
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
  readonly #buffer: DeviceBuffer;
  readonly #placed = new Map<string, Placed>();

  /** `bits`: 8 keeps f32 matrices of whole blocks in int8, with a scale for each 32. */
  constructor(device: GgmlDevice, segment: Segment, weights: Weights, bits: 8 | 32) {
    this.#device = device;
    const routers = routerMatrices(segment);
    const typeOf = ({ name, shape }: Segment["weights"][number]): WeightType => {
      const { form } = weights[name] as WeightData;
      const coarser =
        form === "f32" && bits === 8 && shape.length === 2 && (shape[1] as number) % blockOf("q8_0") === 0 && !routers.has(name);
      return coarser ? "q8_0" : form;
    };
    this.#metadata = device.metadata(segment.weights.length);
    const tensors = segment.weights.map((weight) => ({ ...this.#tensor(typeOf(weight), weight.shape), name: weight.name }));
    const aligned = (bytes: number): number => Math.ceil(bytes / device.alignment) * device.alignment;
    this.bytes = tensors.reduce((sum, { tensor }) => sum + aligned(device.bytesOf(tensor)), 0);
    this.#buffer = device.allocate(this.bytes);
    let at = this.#buffer.base;
    for (const placed of tensors) {
      this.#place(placed.name, placed, weights[placed.name] as WeightData, at);
      at += BigInt(aligned(device.bytesOf(placed.tensor)));
    }
  }

  tensor(name: string): Pointer {
    return this.#find(name).tensor;
  }

  multiply(build: GraphBuilder, name: string, x: Value, rows: number): Value {
    const { ggml, exact } = this.#device;
    const { tensor, type, shape } = this.#find(name);
    if (!exact || multipliesExactly(type, false)) return build.step(ggml.ggml_mul_mat(build.context, tensor, x.tensor), [x]);
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

  #tensor(type: WeightType, shape: readonly number[]): Placed {
    const [rows, columns] = dimensions(shape);
    return { tensor: this.#device.ggml.ggml_new_tensor_4d(this.#metadata, numberOf(type), columns, rows, 1, 1), type, shape };
  }

  #place(name: string, placed: Placed, weight: WeightData, at: Pointer): void {
    const { ggml } = this.#device;
    const { tensor, type } = placed;
    ggml.ggml_backend_tensor_alloc(this.#buffer.handle, tensor, at);
    const bytes = type === weight.form ? weight.data : this.#quantize(type, weight);
    ggml.ggml_backend_tensor_set(tensor, bytes, 0, bytes.byteLength);
    this.#placed.set(name, placed);
  }

  #quantize(type: WeightType, weight: WeightData): Uint8Array {
    const [rows, columns] = dimensions(weight.shape);
    const blocks = new Uint8Array(weightBytes(type, weight.shape));
    this.#device.ggml.ggml_quantize_chunk(numberOf(type), weight.data, blocks, 0, rows, columns, 0n);
    return blocks;
  }
}
