// The child process that tries a kind of GPU: it prints a JSON line per device, or the reason why there is none. node gpu-probe.ts
// vulkan [software]
import { writeSync } from "node:fs";
import { ggmlLibrary, gpuRegistry } from "./library.ts";
import { gpuNames, visibleDevices } from "./packages.ts";

const [wanted, software] = process.argv.slice(2);
const print = (line: object): void => void writeSync(1, `${JSON.stringify(line)}\n`);

try {
  const kind = gpuNames.find((name) => name === wanted);
  if (kind === undefined) throw new TypeError(`${wanted} is none of ${gpuNames.join(", ")}`);
  const ggml = ggmlLibrary();
  if (software !== undefined) ggml.setEnvironment(visibleDevices, "0");
  const registry = gpuRegistry(kind);
  const count = ggml.ggml_backend_reg_dev_count(registry);
  for (let index = 0; index < count; index++) {
    const device = ggml.ggml_backend_reg_dev_get(registry, index);
    const backend = ggml.ggml_backend_dev_init(device, 0n);
    if (backend === 0n) continue;
    print({ index, description: ggml.ggml_backend_dev_description(device) });
    ggml.ggml_backend_free(backend);
  }
} catch (caught) {
  print({ reason: caught instanceof Error ? caught.message : String(caught) });
}
