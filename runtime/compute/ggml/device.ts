// A device of ggml's: its memory, its scratch arena, and the running of graphs on it. It owns all that is made on it, frees at its close
// what nobody freed before, and refuses what is asked of it later. Today the processor; a GPU's backend has the same functions. One thread
// opens it and uses it: ggml's calls block, and nothing here is shared between threads.
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
  readonly #buffers = new Set<Pointer>();
  readonly #contexts = new Set<Pointer>();
  #scratch: DeviceBuffer | undefined;
  #generation = 0;
  #closed = false;
  #fault: AppError | undefined;

  constructor({ threads }: DeviceOptions) {
    this.ggml = ggmlLibrary();
    const { ggml } = this;
    this.#backend = ggml.ggml_backend_cpu_init();
    if (this.#backend === 0n) throw new AppError("ggml's CPU backend does not start", { code: "BackendUnavailable" });
    this.#device = ggml.ggml_backend_get_device(this.#backend);
    // The reference path of attention, whose sums do not depend on how many rows or threads there are. It turns fusing off, too.
    ggml.ggml_backend_cpu_set_use_ref(this.#backend, true);
    ggml.ggml_backend_cpu_set_n_threads(this.#backend, threads);
    this.#threadpool = threads > 1 ? this.#startThreads(threads) : undefined;
    this.plainMemory = ggml.ggml_backend_dev_buffer_type(this.#device);
    this.packedMemory = this.#findPackedMemory();
    const model = cpus()[0]?.model.trim() ?? "unknown processor";
    this.description = `cpu: ${model}, ${ggml.cpuBuild}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  }

  /** Counts how often the scratch memory moved; tensors placed in an older one have lost their memory. */
  get generation(): number {
    return this.#generation;
  }

  /** The reason why it computes nothing any more. */
  get fault(): AppError | undefined {
    return this.#fault;
  }

  /** Throws AppError `EngineStopped` once the device is closed. */
  assertOpen(): void {
    if (this.#closed) throw new AppError("ggml: the device is closed", { code: "EngineStopped", retry: "backoff" });
  }

  /** Room for the metadata of so many tensors, and of a graph of so many nodes; their memory is placed by us. Beyond it ggml ends the
   *  process. */
  metadata(tensors: number, graphNodes = 0): Pointer {
    this.assertOpen();
    const { ggml } = this;
    const graphBytes = graphNodes > 0 ? ggml.ggml_graph_overhead_custom(graphNodes, false) : 0;
    const context = ggml.ggml_init({ mem_size: tensors * ggml.ggml_tensor_overhead() + graphBytes, mem_buffer: 0n, no_alloc: true });
    if (context === 0n) throw new AppError(`no memory for the metadata of ${tensors} tensors`, { code: "OutOfMemory" });
    this.#contexts.add(context);
    return context;
  }

  /** Frees metadata; a second time, or after the close, it does nothing. */
  release(context: Pointer): void {
    if (this.#contexts.delete(context)) this.ggml.ggml_free(context);
  }

  /** `memory`: plain unless said otherwise. Bounds are the caller's: ggml may promise more than the machine has. */
  allocate(bytes: number, memory = this.plainMemory): DeviceBuffer {
    this.assertOpen();
    const { ggml } = this;
    const size = Math.max(bytes, 1);
    const handle = ggml.ggml_backend_buft_alloc_buffer(memory, size);
    if (handle === 0n) throw new AppError(`${size} bytes of device memory are not to be had`, { code: "OutOfMemory" });
    this.#buffers.add(handle);
    const free = (): void => {
      if (this.#buffers.delete(handle)) ggml.ggml_backend_buffer_free(handle);
    };
    return { handle, base: ggml.ggml_backend_buffer_get_base(handle), bytes: size, free };
  }

  /** Gives the whole pages within a range of a buffer back to the machine; what was in them is lost. */
  discard(at: Pointer, bytes: number): void {
    if (!this.#closed) this.ggml.discard(at, bytes);
  }

  /** Scratch memory for one graph at a time, at least so large; it may move (see `generation`). */
  scratch(bytes: number): DeviceBuffer {
    this.assertOpen();
    const had = this.#scratch;
    if (had !== undefined && had.bytes >= bytes) return had;
    this.#scratch = undefined;
    this.#generation += 1;
    had?.free();
    this.#scratch = this.allocate(Math.max(bytes, 2 * (had?.bytes ?? 0)));
    return this.#scratch;
  }

  /** True where the device computes this node; it must be asked before weights of a type are written into packed memory. */
  supports(node: Pointer): boolean {
    return this.ggml.ggml_backend_dev_supports_op(this.#device, node);
  }

  /** Runs a graph to its end. */
  compute(graph: Pointer): void {
    this.assertOpen();
    const status = this.ggml.ggml_backend_graph_compute(this.#backend, graph);
    if (status === 0) return;
    this.#fault = new AppError(`ggml stopped in a graph with status ${status}`, { code: "DeviceFault" });
    throw this.#fault;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const { ggml } = this;
    for (const context of this.#contexts) ggml.ggml_free(context);
    for (const handle of this.#buffers) ggml.ggml_backend_buffer_free(handle);
    this.#contexts.clear();
    this.#buffers.clear();
    ggml.ggml_backend_free(this.#backend);
    if (this.#threadpool !== undefined) ggml.ggml_threadpool_free(this.#threadpool);
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
