// A processor's backends: one of the calling thread, and one of graphs beside it, each with threads of its own.
import { AppError } from "../../../crds/common.ts";
import type { Pointer } from "./functions.ts";
import type { GgmlLibrary } from "./library.ts";
import { type GraphCost, ThreadGovernor } from "./threads.ts";
import type { MemoryName } from "./types.ts";

export interface Memory {
  readonly name: MemoryName;
  readonly handle: Pointer;
}

/** How long ggml's threads spin before they sleep, 0 to 100; 50 is ggml's default. */
const pollLevel = 50;
const packedMemories = ["AMX", "CPU_REPACK"] as const;
/** `struct ggml_threadpool_params`: 512 bytes of CPU mask, threads, priority, poll level and two flags. */
const threadpoolParams = { bytes: 532, poll: 520 } as const;

/** The reference attention, whose sums do not depend on the number of rows or threads; it turns fusing off. */
export function openCpu(ggml: GgmlLibrary): Pointer {
  const backend = ggml.ggml_backend_cpu_init();
  if (backend === 0n) throw new AppError("ggml's CPU backend does not start", { code: "BackendUnavailable" });
  ggml.ggml_backend_cpu_set_use_ref(backend, true);
  return backend;
}

/** A second backend, for graphs beside those of this thread; its threads do not spin between graphs. */
export function startBeside(ggml: GgmlLibrary, threads: number) {
  const backend = openCpu(ggml);
  const threadpool = startThreads(ggml, backend, threads, 0);
  const governor = new ThreadGovernor(threads, () => performance.now());
  const compute = async (graph: Pointer, cost: GraphCost): Promise<number> => {
    const count = governor.choose(cost);
    ggml.ggml_backend_cpu_set_n_threads(backend, count);
    const startedAt = performance.now();
    const status = await ggml.computeApart(backend, graph);
    governor.took(cost, count, performance.now() - startedAt);
    return status;
  };
  const close = (): void => {
    ggml.ggml_backend_free(backend);
    ggml.ggml_threadpool_free(threadpool);
  };
  return { compute, close };
}

/** ggml starts threads for each graph if it has no pool. */
export function startThreads(ggml: GgmlLibrary, backend: Pointer, threads: number, poll = pollLevel): Pointer {
  const params = new Uint8Array(threadpoolParams.bytes);
  ggml.ggml_threadpool_params_init(params, threads);
  new DataView(params.buffer).setUint32(threadpoolParams.poll, poll, true);
  const pool = ggml.ggml_threadpool_new(params);
  ggml.ggml_backend_cpu_set_threadpool(backend, pool);
  return pool;
}

export function packedMemoriesOf(ggml: GgmlLibrary, device: Pointer): readonly Memory[] {
  const address = ggml.ggml_backend_reg_get_proc_address(ggml.ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts");
  if (address === 0n) return [];
  const list = ggml.functionAt(address, ["pointer", "pointer"])(device) as Pointer;
  if (list === 0n) return [];
  const found = new Map<string, Pointer>();
  for (let at = list, handle = ggml.pointerAt(at); handle !== 0n; at += 8n, handle = ggml.pointerAt(at)) {
    found.set(ggml.ggml_backend_buft_name(handle), handle);
  }
  return packedMemories.flatMap((name) => {
    const handle = found.get(name);
    return handle === undefined ? [] : [{ name, handle }];
  });
}
