// Finds the memory type in which a matrix of a given type and size multiplies fastest.
import type { Memory } from "./cpu-threads.ts";
import type { GgmlDevice } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { multipliesExactly, numberOf, type WeightType, weightBytes } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

export interface Matrix {
  readonly type: WeightType;
  readonly rows: number;
  readonly columns: number;
}

export interface MatrixStorage {
  readonly memory: Memory;
  readonly bytes: number;
  /** True where `mul_mat` keeps a row's bits with any number of rows beside it (../DECISIONS.md 4). */
  readonly exact: boolean;
  /** True where `mul_mat_id` can choose among several such matrices per row. */
  readonly choosable: boolean;
  /** Placeholder memory of that size, made at first use, since on a GPU it costs real memory. */
  readonly emptyBuffer: () => DeviceBuffer;
}

class MatrixStorages {
  readonly #device: GgmlDevice;
  readonly #storages = new Map<string, MatrixStorage>();

  constructor(device: GgmlDevice) {
    this.#device = device;
  }

  of(matrix: Matrix): MatrixStorage {
    const key = `${matrix.type} ${matrix.rows} ${matrix.columns}`;
    const storage = this.#storages.get(key) ?? this.#find(matrix);
    this.#storages.set(key, storage);
    return storage;
  }

  plain(matrix: Matrix): MatrixStorage {
    const memory = this.#device.memories.at(-1) as Memory;
    return this.#try(matrix, { memory, exact: this.#isExact(matrix, memory) }) as MatrixStorage;
  }

  tensor(context: Pointer, { type, rows, columns }: Matrix, buffer: DeviceBuffer, at: Pointer): Pointer {
    const { ggml } = this.#device;
    const tensor = ggml.ggml_new_tensor_4d(context, numberOf(type), columns, rows, 1, 1);
    ggml.ggml_backend_tensor_alloc(buffer.handle, tensor, at);
    return tensor;
  }

  /** Exact products come before packed ones; the last type, the plain one, takes everything. */
  #find(matrix: Matrix): MatrixStorage {
    const { memories } = this.#device;
    const kinds = memories.map((memory) => ({ memory, exact: this.#isExact(matrix, memory) }));
    for (const kind of [...kinds.filter(({ exact }) => exact), ...kinds.filter(({ exact }) => !exact)]) {
      if (matrix.rows === 1 && kind.memory.name !== "plain") continue;
      const storage = this.#try(matrix, kind);
      if (storage !== undefined) return storage;
    }
    throw new TypeError("a device without plain memory");
  }

  /** Where bits are free, the plain product counts as exact. */
  #isExact({ type }: Matrix, { name }: Memory): boolean {
    return !this.#device.exact || multipliesExactly(type, name, this.#device.ggml.cpuBuild);
  }

  #try(matrix: Matrix, { memory, exact }: Pick<MatrixStorage, "memory" | "exact">): MatrixStorage | undefined {
    const device = this.#device;
    const { ggml } = device;
    const metadata = device.metadata(6);
    const { context } = metadata;
    const vector = (type: "f32" | "i32", size: number): Pointer => ggml.ggml_new_tensor_4d(context, numberOf(type), size, 1, 1, 1);
    try {
      const sized = ggml.ggml_new_tensor_4d(context, numberOf(matrix.type), matrix.columns, matrix.rows, 1, 1);
      const bytes = ggml.ggml_backend_buft_get_alloc_size(memory.handle, sized);
      let made: DeviceBuffer | undefined;
      const emptyBuffer = (): DeviceBuffer => {
        made ??= device.allocate(bytes, memory.handle);
        return made;
      };
      if (memory.name === "plain") return { memory, bytes, exact, emptyBuffer, choosable: true };
      const weight = this.tensor(context, matrix, emptyBuffer(), emptyBuffer().base);
      const x = vector("f32", matrix.columns);
      const product = exact ? ggml.ggml_mul_mat(context, weight, x) : ggml.ggml_mul_mat_id(context, weight, x, vector("i32", 1));
      if (device.supports(product)) return { memory, bytes, exact, emptyBuffer, choosable: this.#isChoosable(matrix, memory, bytes) };
      emptyBuffer().free();
      return undefined;
    } finally {
      metadata.free();
    }
  }

  /** In packed memory a matrix must be as small as in the file, so that slots are contiguous. */
  #isChoosable({ type, rows, columns }: Matrix, { handle }: Memory, bytes: number): boolean {
    const device = this.#device;
    const { ggml } = device;
    if (bytes !== weightBytes(type, [rows, columns])) return false;
    const metadata = device.metadata(4);
    const { context } = metadata;
    const buffer = device.allocate(2 * bytes, handle);
    const tensor = (of: WeightType | "i32", ...shape: readonly [number, number, number]): Pointer =>
      ggml.ggml_new_tensor_4d(context, numberOf(of), ...shape, 1);
    try {
      const two = tensor(type, columns, rows, 2);
      ggml.ggml_backend_tensor_alloc(buffer.handle, two, buffer.base);
      return device.supports(ggml.ggml_mul_mat_id(context, two, tensor("f32", columns, 1, 1), tensor("i32", 1, 1, 1)));
    } finally {
      buffer.free();
      metadata.free();
    }
  }
}

const known = new WeakMap<GgmlDevice, MatrixStorages>();

export function storagesOf(device: GgmlDevice): MatrixStorages {
  const storages = known.get(device) ?? new MatrixStorages(device);
  known.set(device, storages);
  return storages;
}

const zeros = "zeros.";

/** The graph input that selects the only matrix: a zero for each of so many rows. */
export const zeroIds = (build: GraphBuilder, rows: number): Value => build.input(`${zeros}${rows}`, "i32", [1, rows]);

/** What that input is given; undefined for any other name. */
export const zerosFor = (name: string): Int32Array | undefined =>
  name.startsWith(zeros) ? new Int32Array(Number(name.slice(zeros.length))) : undefined;

/** x [from, rows] -> [from, 1, rows] for an operation with an index per row. */
function ofChosen(
  build: GraphBuilder,
  x: Value,
  { from, to, rows }: { readonly from: number; readonly to: number; readonly rows: number },
  operation: (apart: Value) => Value,
): Value {
  const { ggml } = build.device;
  const out = operation(build.view(ggml.ggml_reshape_3d(build.context, x.tensor, from, 1, rows), x));
  return build.view(ggml.ggml_reshape_2d(build.context, out.tensor, to, rows), out);
}

export function multiplied(
  build: GraphBuilder,
  weight: Matrix & { readonly storage: MatrixStorage; readonly tensor: Pointer },
  x: Value,
  rows: number,
): Value {
  const { ggml } = build.device;
  if (weight.storage.exact) return build.step(ggml.ggml_mul_mat(build.context, weight.tensor, x.tensor), [x]);
  const ids = zeroIds(build, rows);
  return ofChosen(build, x, { from: weight.columns, to: weight.rows, rows }, (apart) =>
    build.step(ggml.ggml_mul_mat_id(build.context, weight.tensor, apart.tensor, ids.tensor), [apart, ids]),
  );
}
