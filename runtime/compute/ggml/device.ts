// A device of ggml's: its memory, its scratch arena, and the running of graphs on it. Today the processor; a GPU's backend has the same
// functions. One thread opens it and uses it: ggml's calls block, and nothing here is shared between threads.
import { cpus } from "node:os";
import { AppError } from "../../../crds/common.ts";
import type { Pointer } from "./functions.ts";
import { type GgmlLibrary, ggmlLibrary } from "./library.ts";

/** Between two steps of a graph ggml's threads look so long for the next one before they sleep, 0 to 100; 50 is ggml's own choice. */
const pollLevel = 50;
/** Others of its kind, such as that of AMX, are not known to give the same bits for any number of rows. */
const packedMemoryName = "CPU_REPACK";
/** `struct ggml_threadpool_params`: 512 bytes of CPU mask, then threads, priority, poll level and two flags. */
const threadpoolParams = { bytes: 532, poll: 520 } as const;

/** Memory of the device, which tensors are placed in. */
export interface DeviceBuffer {
  readonly handle: Pointer;
  readonly base: Pointer;
  readonly bytes: number;
  free(): void;
}

export interface DeviceOptions {
  /** More than one only on processors that nobody else uses: ggml's threads wait for each other by spinning. */
  readonly threads: number;
}

export class CpuDevice {
  readonly ggml: GgmlLibrary;
  readonly description: string;
  /** The kind of memory that any tensor may lie in. */
  readonly plainMemory: Pointer;
  /** Memory in which matrices of some types are rearranged as they are written, so that they multiply faster. */
  readonly packedMemory: Pointer | undefined;
  readonly #backend: Pointer;
  readonly #device: Pointer;
  readonly #threadpool: Pointer | undefined;
  #scratch: DeviceBuffer | undefined;
  #generation = 0;

  constructor({ threads }: DeviceOptions) {
    this.ggml = ggmlLibrary();
    const { ggml } = this;
    this.#backend = ggml.ggml_backend_cpu_init();
    if (this.#backend === 0n) throw new AppError("ggml's CPU backend does not start", { code: "BackendUnavailable" });
    this.#device = ggml.ggml_backend_get_device(this.#backend);
    // The reference path of attention, whose sums do not depend on how many rows or threads there are.
    ggml.ggml_backend_cpu_set_use_ref(this.#backend, true);
    ggml.ggml_backend_cpu_set_n_threads(this.#backend, threads);
    this.#threadpool = threads > 1 ? this.#startThreads(threads) : undefined;
    this.plainMemory = ggml.ggml_backend_dev_buffer_type(this.#device);
    this.packedMemory = this.#findPackedMemory();
    const model = cpus()[0]?.model.trim() ?? "unknown processor";
    this.description = `ggml: ${model}, ${ggml.cpuBuild}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  }

  /** Counts how often the scratch memory moved; tensors placed in an older one have lost their memory. */
  get generation(): number {
    return this.#generation;
  }

  /** `memory`: plain unless said otherwise. Bounds are the caller's: ggml may promise more than the machine has. */
  allocate(bytes: number, memory = this.plainMemory): DeviceBuffer {
    const { ggml } = this;
    const size = Math.max(bytes, 1);
    const handle = ggml.ggml_backend_buft_alloc_buffer(memory, size);
    if (handle === 0n) throw new AppError(`${size} bytes of device memory are not to be had`, { code: "OutOfMemory" });
    return {
      handle,
      base: ggml.ggml_backend_buffer_get_base(handle),
      bytes: size,
      free: () => ggml.ggml_backend_buffer_free(handle),
    };
  }

  /** Scratch memory for one graph at a time, at least so large; it may move (see `generation`). */
  scratch(bytes: number): DeviceBuffer {
    if (this.#scratch !== undefined && this.#scratch.bytes >= bytes) return this.#scratch;
    this.#scratch?.free();
    this.#generation += 1;
    this.#scratch = this.allocate(Math.max(bytes, 2 * (this.#scratch?.bytes ?? 0)));
    return this.#scratch;
  }

  /** True where the device computes this node; it must be asked before weights of a type are written into packed memory. */
  supports(node: Pointer): boolean {
    return this.ggml.ggml_backend_dev_supports_op(this.#device, node);
  }

  /** Runs a graph to its end. */
  compute(graph: Pointer): void {
    const status = this.ggml.ggml_backend_graph_compute(this.#backend, graph);
    if (status !== 0) throw new AppError(`ggml stopped in a graph with status ${status}`, { code: "DeviceFault" });
  }

  close(): void {
    this.#scratch?.free();
    this.#scratch = undefined;
    this.ggml.ggml_backend_free(this.#backend);
    if (this.#threadpool !== undefined) this.ggml.ggml_threadpool_free(this.#threadpool);
  }

  #startThreads(threads: number): Pointer {
    const params = new Uint8Array(threadpoolParams.bytes);
    this.ggml.ggml_threadpool_params_init(params, threads);
    new DataView(params.buffer).setUint32(threadpoolParams.poll, pollLevel, true);
    const pool = this.ggml.ggml_threadpool_new(params);
    this.ggml.ggml_backend_cpu_set_threadpool(this.#backend, pool);
    return pool;
  }

  #findPackedMemory(): Pointer | undefined {
    const { ggml } = this;
    const address = ggml.ggml_backend_reg_get_proc_address(ggml.ggml_backend_cpu_reg(), "ggml_backend_dev_get_extra_bufts");
    if (address === 0n) return undefined;
    const list = ggml.functionAt(address, ["pointer", "pointer"])(this.#device) as Pointer;
    if (list === 0n) return undefined;
    for (let at = list, found = ggml.pointerAt(at); found !== 0n; at += 8n, found = ggml.pointerAt(at)) {
      if (ggml.ggml_backend_buft_name(found) === packedMemoryName) return found;
    }
    return undefined;
  }
}
