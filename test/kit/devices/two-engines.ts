// A device with a processor beside it, and copies of some experts: one row is sooner on the processor, several on the device.
import type { Backend } from "../../../runtime/compute/backend.ts";
import { type BesideOptions, withProcessor } from "../../../runtime/compute/engines/index.ts";
import { createGgmlBackend } from "../../../runtime/compute/ggml/index.ts";

const times = { device: { start: 0, seconds: [4, 4, 4] }, processor: { start: 0, seconds: [1, 20, 40] } };

/** `copiesBytes`: of each layer. */
export async function twoEngines(device: Backend, copiesBytes: number, options: Partial<BesideOptions> = { times }): Promise<Backend> {
  return withProcessor(device, await createGgmlBackend({ threads: 1 }), { deviceBytes: copiesBytes, layers: 1, ...options });
}
