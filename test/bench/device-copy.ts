// The speed of a plain copy within a device's memory: what no step that reads as many weights exceeds by much.
import { CpuDevice, type GgmlDevice } from "../../runtime/compute/ggml/device.ts";
import { openGpu } from "../../runtime/compute/ggml/gpu.ts";
import { gpuNames } from "../../runtime/compute/ggml/packages.ts";
import { numberOf } from "../../runtime/compute/ggml/types.ts";

/** Far more than a device's caches hold. */
const copyBytes = 512 * 2 ** 20;
const runs = 5;

/** Bytes read and written per second, in GB/s, of the best of some copies; on the processor by one thread. */
export function deviceCopy(backend: string): number {
  const kind = gpuNames.find((name) => name === backend);
  const device: GgmlDevice = kind === undefined ? new CpuDevice({ threads: 1 }) : openGpu(kind);
  try {
    return measured(device);
  } finally {
    device.close();
  }
}

function measured(device: GgmlDevice): number {
  const { ggml } = device;
  const { context } = device.metadata(2);
  const [from = 0n, to = 0n] = [0, 1].map(() => {
    const tensor = ggml.ggml_new_tensor_4d(context, numberOf("f32"), copyBytes / Float32Array.BYTES_PER_ELEMENT, 1, 1, 1);
    const { handle, base } = device.allocate(device.bytesOf(tensor));
    ggml.ggml_backend_buffer_clear(handle, 1); // memory that was never written may not be there yet
    ggml.ggml_backend_tensor_alloc(handle, tensor, base);
    return tensor;
  });
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run <= runs; run++) {
    const start = performance.now();
    ggml.ggml_backend_tensor_copy(from, to);
    ggml.ggml_backend_tensor_get(to, new Uint8Array(4), copyBytes - 4, 4); // waits for it
    best = Math.min(best, performance.now() - start);
  }
  return (2 * copyBytes) / best / 1e6;
}
