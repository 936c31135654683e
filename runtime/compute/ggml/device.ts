// A ggml device: memory, scratch arena and the running of graphs; GPUs are in gpu.ts. It belongs to one thread, and its close frees
// everything.
import { availableParallelism, cpus } from "node:os";
import { AppError } from "../../../crds/common.ts";
import type { WeightForm } from "../../kernels/weights.ts";
import type { ComputeQueue, DeviceMemory } from "../backend.ts";
import { type Memory, openCpu, packedMemoriesOf, startBeside, startThreads } from "./cpu-threads.ts";
import type { Pointer } from "./functions.ts";
import { LargePages } from "./large-pages.ts";
import { type GgmlLibrary, ggmlLibrary } from "./library.ts";
import { type Governor, type GraphCost, GraphCosts, ThreadGovernor } from "./threads.ts";
import { instructionsOf, numberOf } from "./types.ts";
import { WarmPages } from "./warm-pages.ts";
import { type DeviceBuffer, Spares, WeightMemory } from "./weight-memory.ts";

const leastAlignment = 64;

export interface Metadata {
  readonly context: Pointer;
  free(): void;
}

export interface TensorWrite {
  readonly tensor: Pointer;
  /** It fills the tensor. */
  readonly data: Uint8Array;
}

export interface DeviceParts {
  readonly ggml: GgmlLibrary;
  readonly backend: Pointer;
  readonly description: string;
  readonly exact: boolean;
  /** The machine commits memory page by page at the first write, and takes pages back. */
  readonly pages?: boolean;
  readonly computesWith: (form: WeightForm) => string;
  /** The fastest first. */
  readonly packed?: readonly Memory[];
  readonly setThreads?: (threads: number) => void;
  /** Computes a graph on another thread, beside those of this one, and returns the status. */
  readonly computeApart?: (graph: Pointer, cost: GraphCost) => Promise<number>;
  readonly governor?: Governor;
  readonly software?: boolean;
  /** False where its memory is the machine's. */
  readonly ownMemory?: boolean;
  readonly memory?: () => DeviceMemory;
  readonly close?: () => void;
}

export class GgmlDevice {
  readonly ggml: GgmlLibrary;
  readonly description: string;
  /** True where a row's bits depend on nothing but the row. */
  readonly exact: boolean;
  readonly software: boolean;
  readonly ownMemory: boolean;
  /** Holds any tensor. */
  readonly plainMemory: Pointer;
  /** The fastest first, the plain one last. */
  readonly memories: readonly Memory[];
  readonly alignment: number;
  readonly largestBytes: number;
  readonly costs: Readonly<Record<ComputeQueue, GraphCosts>> = { main: new GraphCosts(), prefill: new GraphCosts() };
  readonly weightMemory = new WeightMemory(this);
  readonly warmPages = new WarmPages(this);
  readonly largePages = new LargePages(this);
  readonly #parts: DeviceParts;
  readonly #backend: Pointer;
  readonly #device: Pointer;
  readonly #buffers = new Set<Pointer>();
  /** Buffers for reuse on a software driver (../DECISIONS.md 7); each is in the set above, too. */
  readonly #spares: Spares<Pick<DeviceBuffer, "handle" | "bytes"> & { readonly memory: Pointer }> | undefined;
  readonly #contexts = new Set<Pointer>();
  /** What other threads do. */
  readonly #apart = new Set<Promise<unknown>>();
  #graphsApart = 0;
  /** Byte offset of the data pointer in a tensor's struct. */
  #dataOffset: bigint | undefined;
  #threads = 0;
  readonly #work: Readonly<Record<ComputeQueue, { scratch: DeviceBuffer | undefined; generation: number }>> = {
    main: { scratch: undefined, generation: 0 },
    prefill: { scratch: undefined, generation: 0 },
  };
  #runs = 0;
  #closed = false;
  #closing: Promise<void> | undefined;
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
    this.ownMemory = parts.ownMemory ?? false;
    this.#spares = this.software ? new Spares() : undefined;
    this.plainMemory = ggml.ggml_backend_dev_buffer_type(this.#device);
    this.memories = [...(parts.packed ?? []), { name: "plain", handle: this.plainMemory }];
    this.alignment = Math.max(leastAlignment, ggml.ggml_backend_buft_get_alignment(this.plainMemory));
    this.largestBytes = Math.min(Number.MAX_SAFE_INTEGER, Number(ggml.ggml_backend_buft_get_max_size(this.plainMemory)));
  }

  computesWith(form: WeightForm): string {
    return this.#parts.computesWith(form);
  }

  /** Undefined where an allocation is committed at once. */
  get pageBytes(): number | undefined {
    return this.#parts.pages ? this.ggml.pageBytes : undefined;
  }

  /** Counts moves of the scratch memory; tensors in an older one are invalid. */
  generationOf(queue: ComputeQueue): number {
    return this.#work[queue].generation;
  }

  get scratchBytes(): number {
    return this.#work.main.scratch?.bytes ?? 0;
  }

  /** Undefined for the processor. */
  get memory(): DeviceMemory | undefined {
    return this.#parts.memory?.();
  }

  get runs(): number {
    return this.#runs;
  }

  get fault(): AppError | undefined {
    return this.#fault;
  }

  /** Throws AppError `EngineStopped` after the close. */
  assertOpen(): void {
    if (this.#closed) throw new AppError("ggml: the device is closed", { code: "EngineStopped", retry: "backoff" });
  }

  /** ggml ends the process beyond these numbers. */
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
      held = false;
      if (mine) this.ggml.ggml_free(context);
    };
    return { context, free };
  }

  aligned(bytes: number): number {
    return Math.ceil(bytes / this.alignment) * this.alignment;
  }

  bytesOf(tensor: Pointer): number {
    return this.ggml.ggml_backend_buft_get_alloc_size(this.plainMemory, tensor);
  }

  /** On the processor ggml may promise more than the machine has; the caller checks bounds. */
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
      held = false;
      if (!mine) return;
      this.warmPages.release(base, size);
      this.discard(base, size); // malloc may keep the pages
      if (this.#spares !== undefined) {
        this.#spares.keep(spare ?? { handle, bytes: size, memory });
        return;
      }
      this.#buffers.delete(handle);
      ggml.ggml_backend_buffer_free(handle);
    };
    return { handle, base, bytes: size, free };
  }

  /** Returns the whole pages within a range to the machine; their contents are lost. */
  discard(at: Pointer, bytes: number): void {
    if (!this.#closed && this.#parts.pages) this.ggml.discard(at, bytes);
  }

  /** The memory serves one graph of a queue at a time and may move (see `generationOf`). */
  scratch(bytes: number, queue: ComputeQueue = "main"): DeviceBuffer {
    this.assertOpen();
    const work = this.#work[queue];
    const had = work.scratch;
    if (had !== undefined && had.bytes >= bytes) return had;
    work.scratch = undefined;
    work.generation += 1;
    had?.free();
    work.scratch = this.#larger(bytes, 2 * (had?.bytes ?? 0));
    return work.scratch;
  }

  /** Allocates the wished size, or `bytes` where that does not fit. */
  #larger(bytes: number, wished: number): DeviceBuffer {
    if (wished <= bytes) return this.allocate(bytes);
    try {
      return this.allocate(wished);
    } catch {
      return this.allocate(bytes);
    }
  }

  pointAt(tensor: Pointer, data: Pointer): void {
    this.#dataOffset ??= this.#findDataOffset();
    this.ggml.writePointer(tensor + this.#dataOffset, data);
  }

  /** Call it before weights are written into packed memory. */
  supports(node: Pointer): boolean {
    return this.ggml.ggml_backend_dev_supports_op(this.#device, node);
  }

  /** Throws AppError `UnsupportedOp`: ggml would end the process. */
  check(node: Pointer): void {
    if (this.exact || this.supports(node)) return;
    const name = this.ggml.ggml_op_desc(node);
    throw new AppError(`${name} is not computed in these types and sizes (${this.description})`, {
      code: "UnsupportedOp",
      operation: "opening a model",
    });
  }

  /** Writes on other threads. The tensors stay until then; a close waits for it. */
  async setApart(writes: readonly TensorWrite[]): Promise<void> {
    const written = Promise.allSettled(writes.map(({ tensor, data }) => this.ggml.setTensorApart(tensor, data)));
    const failed = (await this.#noted(written)).find(({ status }) => status === "rejected");
    if (failed?.status === "rejected") throw failed.reason;
  }

  get hasPrefillQueue(): boolean {
    return this.#parts.computeApart !== undefined;
  }

  /** The graph and its memory stay until then, and no other of the queue runs; a close waits for it. */
  async computeApart(graph: Pointer, cost: GraphCost): Promise<void> {
    this.assertOpen();
    const { computeApart } = this.#parts;
    if (computeApart === undefined) throw new TypeError(`${this.description} has one queue`);
    this.#graphsApart += 1;
    try {
      this.#check(await this.#noted(computeApart(graph, cost)));
    } finally {
      this.#graphsApart -= 1;
    }
  }

  async #noted<T>(work: Promise<T>): Promise<T> {
    const settled = work.catch(() => undefined);
    this.#apart.add(settled);
    try {
      return await work;
    } finally {
      this.#apart.delete(settled);
    }
  }

  compute(graph: Pointer, cost: GraphCost): void {
    this.assertOpen();
    const { governor, setThreads } = this.#parts;
    const threads = governor?.choose(cost) ?? 1;
    if (threads !== this.#threads) setThreads?.(threads);
    this.#threads = threads;
    this.#runs += 1;
    const startedAt = performance.now();
    const status = this.ggml.ggml_backend_graph_compute(this.#backend, graph);
    // Beside another graph, times say nothing of the threads.
    if (this.#graphsApart === 0) governor?.took(cost, threads, performance.now() - startedAt);
    this.#check(status);
  }

  #check(status: number): void {
    if (status === 0) return;
    this.#fault = new AppError(`ggml stopped in a graph with status ${status}`, { code: "DeviceFault" });
    throw this.#fault;
  }

  /** A second close is the same one. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#closed = true;
    this.warmPages.close();
    this.largePages.close();
    if (this.#apart.size > 0) await Promise.all(this.#apart);
    const { ggml } = this;
    for (const context of this.#contexts) ggml.ggml_free(context);
    for (const handle of this.#buffers) ggml.ggml_backend_buffer_free(handle);
    this.#contexts.clear();
    this.#buffers.clear();
    ggml.ggml_backend_free(this.#backend);
    this.#parts.close?.();
  }

  #findDataOffset(): bigint {
    const { ggml } = this;
    const buffer = this.allocate(2 * this.alignment);
    const metadata = this.metadata(1);
    const tensor = ggml.ggml_new_tensor_4d(metadata.context, numberOf("f32"), 1, 1, 1, 1);
    const address = buffer.base + BigInt(this.alignment);
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
  readonly threads: number;
  /** Threads of the prefill queue. */
  readonly queueThreads?: number | undefined;
  readonly governor?: Governor;
  readonly build?: string | undefined;
  /** False: no pages (tests). */
  readonly pages?: boolean | undefined;
}

export class CpuDevice extends GgmlDevice {
  constructor(options: CpuOptions) {
    const { threads, queueThreads = Math.max(1, threads >> 1), build, pages = true } = options;
    const { governor = new ThreadGovernor(threads, () => performance.now()) } = options;
    const ggml = ggmlLibrary(build);
    const backend = openCpu(ggml);
    const threadpool = startThreads(ggml, backend, threads);
    let beside: ReturnType<typeof startBeside> | undefined;
    ggml.reportAborts(threads === 1);
    const packed = packedMemoriesOf(ggml, ggml.ggml_backend_get_device(backend));
    const amx = packed.some(({ name }) => name === "AMX");
    // f32 sums depend on the SVE vector length, which differs between processors of one build.
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
      // Two threads would use up a quota of one processor early, and then both stand still.
      ...(availableParallelism() > 1 && {
        computeApart: (graph: Pointer, cost: GraphCost) => {
          beside ??= startBeside(ggml, queueThreads);
          return beside.compute(graph, cost);
        },
      }),
      close: () => {
        ggml.ggml_threadpool_free(threadpool);
        beside?.close();
      },
    });
  }
}
