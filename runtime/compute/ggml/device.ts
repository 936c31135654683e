// A device of ggml's: its memory, its scratch arena, and the running of graphs on it. It owns all that is made on it, frees at its close
// what nobody freed before, and refuses what is asked of it later. One thread opens it and uses it: ggml's calls block, and nothing here
// is shared between threads. Here too: the processor as a device; a GPU is gpu.ts.
import { cpus } from "node:os";
import { AppError } from "../../../crds/common.ts";
import type { WeightForm } from "../../kernels/weights.ts";
import type { DeviceMemory } from "../backend.ts";
import type { Pointer } from "./functions.ts";
import { instructionsOf } from "./instructions.ts";
import { type GgmlLibrary, ggmlLibrary } from "./library.ts";
import { Spares } from "./spares.ts";
import { type Governor, type GraphCost, GraphCosts, ThreadGovernor } from "./threads.ts";
import { type MemoryName, numberOf } from "./types.ts";
import { WarmPages } from "./warm-pages.ts";
import { type DeviceBuffer, WeightMemory } from "./weight-memory.ts";

/** Between two steps of a graph ggml's threads look so long for the next one before they sleep, 0 to 100; 50 is ggml's own choice. */
const pollLevel = 50;
/** Kinds of memory that rearrange matrices as they are written, the fastest first: others that ggml may have are not known to us. */
const packedMemories = ["AMX", "CPU_REPACK"] as const;
/** Tensors of every device begin at multiples of so many bytes. */
const leastAlignment = 64;
/** `struct ggml_threadpool_params`: 512 bytes of CPU mask, then threads, priority, poll level and two flags. */
const threadpoolParams = { bytes: 532, poll: 520 } as const;

/** Room for the metadata of tensors. */
export interface Metadata {
  readonly context: Pointer;
  /** A second time, or after the close, it does nothing. */
  free(): void;
}

/** A kind of memory of the device. */
export interface Memory {
  readonly name: MemoryName;
  readonly handle: Pointer;
}

/** What a kind of device gives to be one. */
export interface DeviceParts {
  readonly ggml: GgmlLibrary;
  readonly backend: Pointer;
  readonly description: string;
  readonly exact: boolean;
  /** Memory is taken from the machine in pages as it is written, and goes back in pages. */
  readonly pages?: boolean;
  readonly computesWith: (form: WeightForm) => string;
  /** Memory in which matrices of some types multiply faster, the fastest first; none unless said. */
  readonly packed?: readonly Memory[];
  /** The number of threads of the next graph, for a device that can choose it. */
  readonly setThreads?: (threads: number) => void;
  readonly governor?: Governor;
  /** True for a GPU that is none: its kernels run on the processor. */
  readonly software?: boolean;
  /** For a device whose own word on it can be trusted. */
  readonly memory?: () => DeviceMemory;
  readonly close?: () => void;
}

export class GgmlDevice {
  readonly ggml: GgmlLibrary;
  readonly description: string;
  /** True where a row's bits depend on nothing but the row; others are fast instead, and compute a row alone in another order. */
  readonly exact: boolean;
  readonly software: boolean;
  /** The kind of memory that any tensor may lie in. */
  readonly plainMemory: Pointer;
  /** All kinds of memory there are, those first in which matrices of some types multiply faster, the plain one last. */
  readonly memories: readonly Memory[];
  /** Tensors begin at multiples of so many bytes. */
  readonly alignment: number;
  /** Bytes of one allocation, at most. */
  readonly largestBytes: number;
  /** What graphs cost on one thread. */
  readonly costs = new GraphCosts();
  readonly weightMemory = new WeightMemory(this);
  readonly warmPages = new WarmPages(this);
  readonly #parts: DeviceParts;
  readonly #backend: Pointer;
  readonly #device: Pointer;
  readonly #buffers = new Set<Pointer>();
  /** Of a driver in software; each is in the set above, too. */
  readonly #spares: Spares<Pick<DeviceBuffer, "handle" | "bytes"> & { readonly memory: Pointer }> | undefined;
  readonly #contexts = new Set<Pointer>();
  /** Where a tensor's struct has the address of its data, in bytes; looked for at its first use. */
  #dataOffset: bigint | undefined;
  #threads = 0;
  #scratch: DeviceBuffer | undefined;
  #generation = 0;
  #runs = 0;
  #closed = false;
  #fault: AppError | undefined;

  constructor(parts: DeviceParts) {
    const { ggml, backend } = parts;
    this.ggml = ggml;
    this.#parts = parts;
    this.#backend = backend;
    this.#device = ggml.ggml_backend_get_device(backend);
    this.description = parts.description;
    this.exact = parts.exact;
    this.software = parts.software ?? false;
    this.#spares = this.software ? new Spares() : undefined;
    this.plainMemory = ggml.ggml_backend_dev_buffer_type(this.#device);
    this.memories = [...(parts.packed ?? []), { name: "plain", handle: this.plainMemory }];
    this.alignment = Math.max(leastAlignment, ggml.ggml_backend_buft_get_alignment(this.plainMemory));
    this.largestBytes = Math.min(Number.MAX_SAFE_INTEGER, Number(ggml.ggml_backend_buft_get_max_size(this.plainMemory)));
  }

  /** The instructions or the hardware on which the bits of results depend. */
  computesWith(form: WeightForm): string {
    return this.#parts.computesWith(form);
  }

  /** Bytes of the pages in which memory is taken as it is written; undefined where all of an allocation is there from the start. */
  get pageBytes(): number | undefined {
    return this.#parts.pages ? this.ggml.pageBytes : undefined;
  }

  /** Counts how often the scratch memory moved; tensors placed in an older one have lost their memory. */
  get generation(): number {
    return this.#generation;
  }

  /** Bytes of the scratch memory now. */
  get scratchBytes(): number {
    return this.#scratch?.bytes ?? 0;
  }

  /** Bytes of its own memory that are free, and all of it; undefined of the processor. */
  get memory(): DeviceMemory | undefined {
    return this.#parts.memory?.();
  }

  /** Counts the graphs that ran; each overwrites what the one before left in the scratch memory. */
  get runs(): number {
    return this.#runs;
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
  metadata(tensors: number, graphNodes = 0): Metadata {
    this.assertOpen();
    const { ggml } = this;
    const graphBytes = graphNodes > 0 ? ggml.ggml_graph_overhead_custom(graphNodes, false) : 0;
    const context = ggml.ggml_init({ mem_size: tensors * ggml.ggml_tensor_overhead() + graphBytes, mem_buffer: 0n, no_alloc: true });
    if (context === 0n) throw new AppError(`no memory for the metadata of ${tensors} tensors`, { code: "OutOfMemory" });
    this.#contexts.add(context);
    let held = true;
    const free = (): void => {
      const mine = held && this.#contexts.delete(context);
      held = false; // other metadata may have the same address from now on
      if (mine) this.ggml.ggml_free(context);
    };
    return { context, free };
  }

  /** So many bytes, and those up to where the next tensor may begin. */
  aligned(bytes: number): number {
    return Math.ceil(bytes / this.alignment) * this.alignment;
  }

  /** Bytes that a tensor takes in plain memory, which may be more than its values have. */
  bytesOf(tensor: Pointer): number {
    return this.ggml.ggml_backend_buft_get_alloc_size(this.plainMemory, tensor);
  }

  /** `memory`: plain unless said otherwise. Of the processor's, bounds are the caller's: ggml may promise more than the machine has. */
  allocate(bytes: number, memory = this.plainMemory): DeviceBuffer {
    this.assertOpen();
    const { ggml } = this;
    const size = Math.max(bytes, 1);
    const spare = this.#spares?.take(size, memory);
    if (spare === undefined) this.#checkRoom(size);
    const handle = spare?.handle ?? ggml.ggml_backend_buft_alloc_buffer(memory, size);
    if (handle === 0n) throw new AppError(`${size} bytes of device memory are not to be had`, { code: "OutOfMemory" });
    this.#buffers.add(handle);
    const base = ggml.ggml_backend_buffer_get_base(handle);
    let held = true;
    const free = (): void => {
      const mine = held && this.#buffers.has(handle);
      held = false; // another buffer may have the same address from now on
      if (!mine) return;
      this.warmPages.release(base, size);
      this.discard(base, size); // malloc may keep the pages for itself
      if (this.#spares !== undefined) {
        this.#spares.keep(spare ?? { handle, bytes: size, memory });
        return;
      }
      this.#buffers.delete(handle);
      ggml.ggml_backend_buffer_free(handle);
    };
    return { handle, base, bytes: size, free };
  }

  /** Gives the whole pages within a range of a buffer back to the machine, where it has them from there; what was in them is lost. */
  discard(at: Pointer, bytes: number): void {
    if (!this.#closed && this.#parts.pages) this.ggml.discard(at, bytes);
  }

  /** Scratch memory for one graph at a time, at least so large; it may move (see `generation`). */
  scratch(bytes: number): DeviceBuffer {
    this.assertOpen();
    const had = this.#scratch;
    if (had !== undefined && had.bytes >= bytes) return had;
    this.#scratch = undefined;
    this.#generation += 1;
    had?.free();
    this.#scratch = this.#larger(bytes, 2 * (had?.bytes ?? 0));
    return this.#scratch;
  }

  /** So many bytes, or more, to be asked less often, where there is room. */
  #larger(bytes: number, wished: number): DeviceBuffer {
    if (wished <= bytes) return this.allocate(bytes);
    try {
      return this.allocate(wished);
    } catch {
      return this.allocate(bytes);
    }
  }

  /** Points a tensor at other data of the same type, size and kind of memory. */
  pointAt(tensor: Pointer, data: Pointer): void {
    this.#dataOffset ??= this.#findDataOffset();
    this.ggml.writePointer(tensor + this.#dataOffset, data);
  }

  /** True where the device computes this node; it must be asked before weights of a type are written into packed memory. */
  supports(node: Pointer): boolean {
    return this.ggml.ggml_backend_dev_supports_op(this.#device, node);
  }

  /** Throws AppError `UnsupportedOp` that names the operation where the device does not compute this node: ggml would end the process. */
  check(node: Pointer): void {
    if (this.exact || this.supports(node)) return;
    const name = this.ggml.ggml_op_desc(node);
    throw new AppError(`${name} is not computed in these types and sizes (${this.description})`, {
      code: "UnsupportedOp",
      operation: "opening a model",
    });
  }

  /** Runs a graph to its end, on as many threads as it is worth now. */
  compute(graph: Pointer, cost: GraphCost): void {
    this.assertOpen();
    const { governor, setThreads } = this.#parts;
    const threads = governor?.choose(cost) ?? 1;
    if (threads !== this.#threads) setThreads?.(threads);
    this.#threads = threads;
    this.#runs += 1;
    const startedAt = performance.now();
    const status = this.ggml.ggml_backend_graph_compute(this.#backend, graph);
    governor?.took(cost, threads, performance.now() - startedAt);
    if (status === 0) return;
    this.#fault = new AppError(`ggml stopped in a graph with status ${status}`, { code: "DeviceFault" });
    throw this.#fault;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.warmPages.close();
    const { ggml } = this;
    for (const context of this.#contexts) ggml.ggml_free(context);
    for (const handle of this.#buffers) ggml.ggml_backend_buffer_free(handle);
    this.#contexts.clear();
    this.#buffers.clear();
    ggml.ggml_backend_free(this.#backend);
    this.#parts.close?.();
  }

  /** Looks for it, since headers of C are not at hand. */
  #findDataOffset(): bigint {
    const { ggml } = this;
    const buffer = this.allocate(2 * this.alignment);
    const metadata = this.metadata(1);
    const tensor = ggml.ggml_new_tensor_4d(metadata.context, numberOf("f32"), 1, 1, 1, 1);
    const address = buffer.base + BigInt(this.alignment); // any place that is not the buffer's start
    ggml.ggml_backend_tensor_alloc(buffer.handle, tensor, address);
    let offset = 0n;
    while (ggml.pointerAt(tensor + offset) !== address) {
      offset += 8n;
      if (offset < ggml.ggml_tensor_overhead()) continue;
      throw new AppError("ggml's tensors are laid out in an unknown way: npm ci", { code: "BackendUnavailable" });
    }
    metadata.free();
    buffer.free();
    return offset;
  }

  #checkRoom(bytes: number): void {
    const free = this.memory?.freeBytes;
    if (free === undefined || (bytes <= free && bytes <= this.largestBytes)) return;
    const limit = bytes > free ? `${free} bytes are free` : `one allocation may have ${this.largestBytes}`;
    throw new AppError(
      `${bytes} bytes of device memory are asked, ${limit}; lower experts.memoryPerRank or runtime.kvPool (${this.description})`,
      {
        code: "OutOfDeviceMemory",
        operation: "allocating device memory",
      },
    );
  }
}

interface CpuOptions {
  /** At most; more than one only while they gain, unless the governor given says otherwise. */
  readonly threads: number;
  readonly governor?: Governor;
  /** A build of the CPU library by its name, instead of the best for this processor. */
  readonly build?: string | undefined;
  /** False: its memory is treated as that of a device without pages, for tests. */
  readonly pages?: boolean | undefined;
}

/** The processor. */
export class CpuDevice extends GgmlDevice {
  constructor({ threads, governor = new ThreadGovernor(threads, () => performance.now()), build, pages = true }: CpuOptions) {
    const ggml = ggmlLibrary(build);
    const backend = ggml.ggml_backend_cpu_init();
    if (backend === 0n) throw new AppError("ggml's CPU backend does not start", { code: "BackendUnavailable" });
    // The reference path of attention, whose sums do not depend on how many rows or threads there are. It turns fusing off, too.
    ggml.ggml_backend_cpu_set_use_ref(backend, true);
    const threadpool = startThreads(ggml, backend, threads);
    ggml.reportAborts(threads === 1);
    const packed = packedMemoriesOf(ggml, ggml.ggml_backend_get_device(backend));
    const amx = packed.some(({ name }) => name === "AMX");
    // Sums of f32 take as many values at a time as a vector of SVE has, which differs between processors of one build.
    const sveBytes = ggml.ggml_cpu_get_sve_cnt();
    const sve = sveBytes > 0 ? `-sve${8 * sveBytes}` : "";
    const model = cpus()[0]?.model.trim() ?? "unknown processor";
    super({
      ggml,
      backend,
      description: `cpu: ${model}, ${ggml.cpuBuild}, ${threads} ${threads === 1 ? "thread" : "threads"}`,
      exact: true,
      pages,
      computesWith: (form) => `${instructionsOf(ggml.cpuBuild, form, amx)}${sve}`,
      packed,
      setThreads: (count) => ggml.ggml_backend_cpu_set_n_threads(backend, count),
      governor,
      close: () => ggml.ggml_threadpool_free(threadpool),
    });
  }
}

/** Kept for all graphs, even of one thread: without it each graph makes one of its own. */
function startThreads(ggml: GgmlLibrary, backend: Pointer, threads: number): Pointer {
  const params = new Uint8Array(threadpoolParams.bytes);
  ggml.ggml_threadpool_params_init(params, threads);
  new DataView(params.buffer).setUint32(threadpoolParams.poll, pollLevel, true);
  const pool = ggml.ggml_threadpool_new(params);
  ggml.ggml_backend_cpu_set_threadpool(backend, pool);
  return pool;
}

function packedMemoriesOf(ggml: GgmlLibrary, device: Pointer): readonly Memory[] {
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
