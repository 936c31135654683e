// The processor as a device that pads rows of blocks, as CUDA does: what lies behind a new tensor of them, up to the next 512 columns, is
// its own and is set to zero; a tensor that its buffer has no room for throws, where ggml would end the process.
import { CpuDevice, type GgmlDevice } from "../../../runtime/compute/ggml/device.ts";
import type { Pointer } from "../../../runtime/compute/ggml/functions.ts";
import type { GgmlLibrary } from "../../../runtime/compute/ggml/library.ts";
import { buildWithoutTiles } from "./cpu-build.ts";

const columnsPadded = 512;
/** ggml's numbers of types: blocks are behind the floats, and bytes are what padding is set to zero as. */
const [lastFloat, bytesType] = [1, 24];
const plainTypes: ReadonlySet<number> = new Set([24, 25, 26, 27, 28, 30]);
const bigEnough = 4096;

export function paddingDevice(): GgmlDevice {
  const device = new CpuDevice({ threads: 1, pages: false, build: buildWithoutTiles });
  const { ggml } = device;
  /** Bytes behind each tensor of blocks, by its context. */
  const paddings = new Map<Pointer, Map<Pointer, number>>();
  const sizes = new Map<Pointer, number>();
  const paddingOf = (tensor: Pointer): number => [...paddings.values()].map((each) => each.get(tensor)).find(Boolean) ?? 0;
  const zero = (handle: Pointer, at: Pointer, bytes: number): void => {
    const context = ggml.ggml_init({ mem_size: bigEnough, mem_buffer: 0n, no_alloc: true });
    const tensor = ggml.ggml_new_tensor_4d(context, bytesType, bytes, 1, 1, 1);
    ggml.ggml_backend_tensor_alloc(handle, tensor, at);
    ggml.ggml_backend_tensor_set(tensor, new Uint8Array(bytes), 0, bytes);
    ggml.ggml_free(context);
  };
  const padded: GgmlLibrary = {
    ...ggml,
    ggml_new_tensor_4d: (context, type, columns, ...others) => {
      const tensor = ggml.ggml_new_tensor_4d(context, type, columns, ...others);
      const over = columns % columnsPadded;
      if (type <= lastFloat || plainTypes.has(type) || over === 0) return tensor;
      const probe = ggml.ggml_init({ mem_size: bigEnough, mem_buffer: 0n, no_alloc: true });
      const behind = ggml.ggml_nbytes(ggml.ggml_new_tensor_4d(probe, type, columnsPadded - over, 1, 1, 1));
      ggml.ggml_free(probe);
      const own = paddings.get(context) ?? new Map<Pointer, number>();
      paddings.set(context, own.set(tensor, behind));
      return tensor;
    },
    ggml_free: (context) => {
      paddings.delete(context);
      ggml.ggml_free(context);
    },
    ggml_backend_buft_alloc_buffer: (memory, bytes) => {
      const handle = ggml.ggml_backend_buft_alloc_buffer(memory, bytes);
      if (memory === device.plainMemory) sizes.set(handle, bytes);
      else sizes.delete(handle);
      return handle;
    },
    ggml_backend_buft_get_alloc_size: (memory, tensor) =>
      ggml.ggml_backend_buft_get_alloc_size(memory, tensor) + (memory === device.plainMemory ? paddingOf(tensor) : 0),
    ggml_backend_tensor_alloc: (handle, tensor, at) => {
      const status = ggml.ggml_backend_tensor_alloc(handle, tensor, at);
      const [behind, size] = [paddingOf(tensor), sizes.get(handle)];
      if (behind === 0 || size === undefined) return status;
      const end = at + BigInt(ggml.ggml_nbytes(tensor));
      const over = end + BigInt(behind) - ggml.ggml_backend_buffer_get_base(handle) - BigInt(size);
      if (over > 0n) throw new RangeError(`a tensor ends ${over} bytes behind its buffer`);
      zero(handle, end, behind);
      return status;
    },
  };
  return Object.assign(device, { ggml: padded });
}
