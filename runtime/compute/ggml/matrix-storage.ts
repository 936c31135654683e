// The best memory for a matrix: of the kinds of memory that the device has, the fastest in which it multiplies by a matrix of that type and
// size. And empty memory, in which a graph's matrices are placed before they are pointed at real ones.
import type { GgmlDevice, Memory } from "./device.ts";
import type { Pointer } from "./functions.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { ofChosen } from "./lowering.ts";
import { multipliesExactly, numberOf, type WeightType, weightBytes } from "./types.ts";
import type { DeviceBuffer } from "./weight-memory.ts";

export interface Matrix {
  readonly type: WeightType;
  readonly rows: number;
  readonly columns: number;
}

export interface MatrixStorage {
  readonly memory: Memory;
  /** Bytes of such a matrix there, which may be more than in a file. */
  readonly bytes: number;
  /** True where `mul_mat` gives a row the same bits with any number of rows beside it; else only `mul_mat_id` does. */
  readonly exact: boolean;
  /** True where `mul_mat_id` multiplies there by one of several such matrices, each row by its own. */
  readonly choosable: boolean;
  /** Memory of its size that holds nothing, made when it is first asked for: on a GPU it is as large as what is in use. */
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

  /** In memory in which rows can be looked up, too. */
  plain(matrix: Matrix): MatrixStorage {
    const memory = this.#device.memories.at(-1) as Memory;
    return this.#try(matrix, { memory, exact: this.#isExact(matrix, memory) }) as MatrixStorage;
  }

  /** A matrix's tensor in its memory, at an address of that. */
  tensor(context: Pointer, { type, rows, columns }: Matrix, buffer: DeviceBuffer, at: Pointer): Pointer {
    const { ggml } = this.#device;
    const tensor = ggml.ggml_new_tensor_4d(context, numberOf(type), columns, rows, 1, 1);
    ggml.ggml_backend_tensor_alloc(buffer.handle, tensor, at);
    return tensor;
  }

  /** Exact products before packed ones; the last kind of memory, the plain one, takes everything. */
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

  /** Where bits are free, the plain product always is as good as any. */
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

  /** Of packed memory: where a matrix there is no larger than in a file, so that one begins where another ends. */
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

/** The storages of a device, each found once. */
export function storagesOf(device: GgmlDevice): MatrixStorages {
  const storages = known.get(device) ?? new MatrixStorages(device);
  known.set(device, storages);
  return storages;
}

/** The graph input by which `mul_mat_id` takes the one matrix that there is: a zero for each row. */
export const zeroIds = "zeros";

/** Rows times a matrix, so that a row's bits do not depend on the rows beside it. */
export function multiplied(
  build: GraphBuilder,
  weight: Matrix & { readonly storage: MatrixStorage; readonly tensor: Pointer },
  x: Value,
  rows: number,
): Value {
  const { ggml } = build.device;
  if (weight.storage.exact) return build.step(ggml.ggml_mul_mat(build.context, weight.tensor, x.tensor), [x]);
  const ids = build.input(zeroIds, "i32", [1, rows]);
  return ofChosen(build, x, { from: weight.columns, to: weight.rows, rows }, (apart) =>
    build.step(ggml.ggml_mul_mat_id(build.context, weight.tensor, apart.tensor, ids.tensor), [apart, ids]),
  );
}
