// The registry of backends by spec.runtime.backend. To add one: its folder, its name in crds, one line here.
import { AppError } from "../../crds/common.ts";
import { type BackendChoice, type BackendName, backendNames } from "../../crds/names.ts";
import type { Backend, BackendFactory, BackendOptions, Capabilities } from "./backend.ts";
import type { GpuName } from "./ggml/packages.ts";

interface Entry {
  load(): Promise<BackendFactory>;
  /** Loads no native library. */
  capabilities(): Promise<Capabilities>;
  /** True where Auto may choose it; absent: only by name. */
  suits?(): Promise<boolean>;
}

/** Auto chooses it if its library is installed and finds a hardware device. */
function gpu(kind: GpuName): Entry {
  return {
    load: async () => (await import("./ggml/index.ts")).gpuBackend(kind),
    capabilities: async () => (await import("./ggml/lower.ts")).ggmlCapabilities,
    suits: async () => (await import("./ggml/gpu.ts")).findHardware(kind) !== undefined,
  };
}

const backends = {
  cuda: gpu("cuda"),
  vulkan: gpu("vulkan"),
  metal: gpu("metal"),
  cpu: {
    load: async () => (await import("./ggml/index.ts")).createGgmlBackend,
    capabilities: async () => (await import("./ggml/lower.ts")).ggmlCapabilities,
    suits: async () => true,
  },
  reference: {
    load: async () => (await import("./reference.ts")).createReferenceBackend,
    capabilities: async () => (await import("./reference.ts")).referenceCapabilities,
  },
} as const satisfies Readonly<Record<BackendName, Entry>>;

/** Auto takes the first that suits the machine. */
export async function chooseBackend(choice: BackendChoice): Promise<BackendName> {
  const named = backendNames.find((name) => name === choice);
  if (named !== undefined) return named;
  for (const [name, { suits }] of Object.entries<Entry>(backends)) if (await suits?.()) return name as BackendName;
  throw new AppError("no backend suits this machine; set spec.runtime.backend", {
    code: "BackendUnavailable",
    operation: "choosing a backend",
  });
}

/** Also works on a machine that cannot run the backend. */
export function capabilitiesOf(name: BackendName): Promise<Capabilities> {
  return backends[name].capabilities();
}

export async function openDevices(choice: BackendChoice, options: BackendOptions, devices: number): Promise<readonly Backend[]> {
  const opened: Backend[] = [];
  try {
    for (let deviceIndex = 0; deviceIndex < devices; deviceIndex++)
      opened.push(await createBackend(choice, Object.assign({}, options, { deviceIndex })));
    return opened;
  } catch (caught) {
    for (const backend of opened) await backend.close();
    throw caught;
  }
}

export async function createBackend(choice: BackendChoice, options: BackendOptions): Promise<Backend> {
  const chosen = await chooseBackend(choice);
  try {
    return await (await backends[chosen].load())(options);
  } catch (caught) {
    if (caught instanceof AppError) throw caught;
    throw new AppError(`backend ${chosen} does not start: ${caught instanceof Error ? caught.message : String(caught)}`, {
      code: "BackendUnavailable",
      operation: `starting backend ${chosen}`,
      cause: caught,
    });
  }
}
