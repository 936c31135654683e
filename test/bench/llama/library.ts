// llama.cpp's own library from the package that the product's ggml comes from, called as its C programs call it: a model, contexts,
// batches of tokens. The only test code that loads C functions. Structs go by value, and their layout is that of one version: it is
// recognised by the defaults that the library itself gives, and another one is refused.
import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import koffi from "koffi";
import { AppError } from "../../../crds/common.ts";
import { type GpuName, librariesOf, noLibrary, packageVersion } from "../../../runtime/compute/ggml/packages.ts";

const release = "v0.5.0";

/** Where llama.cpp computes: on the processor, or with all layers on the device of that kind that has this name within `called`. */
export type PeerDevice = { readonly kind: "cpu" } | { readonly kind: GpuName; readonly called: string };

/** ggml's names of its backends. */
const registryNames: Readonly<Record<GpuName, string>> = { cuda: "CUDA", vulkan: "Vulkan", metal: "MTL" };

/** Words of 8 bytes of the two structs of parameters, of the first behind its two pointers, and where in the second one numbers of 4
 *  bytes stand. */
const modelParamsWords = 8;
const contextParamsWords = 20;
/** In the first struct, behind two pointers, of numbers of 4 bytes: layers on devices, and how they lie on several. */
const modelPlace = { gpuLayers: 0, split: 1 } as const;
const wantedModelDefaults = { gpuLayers: -1, split: 1 } as const;
/** The byte of the same that says whether weights are packed anew for the processor, in memory beside the mapped file. */
const repacksByte = 58;
/** More layers than a model has. */
const allLayers = 9_999;
const place = { context: 0, batch: 1, microBatch: 2, sequences: 3, threads: 7, threadsBatch: 8, flash: 13 } as const;
const wantedDefaults = { context: 512, batch: 2048, microBatch: 512, sequences: 1, threads: 4, threadsBatch: 4, flash: -1 } as const;

/** Mesa's rasteriser, of which version 22.3 does not bear attention as one operation; elsewhere llama.cpp chooses. */
const software = /llvmpipe/i;

/** Bytes of `struct ggml_threadpool_params`, as in the product's own use of it. */
const threadpoolParamsBytes = 532;

/** A driver that compiles a kernel within a call wants as much of a stack as a thread has. */
koffi.config({ sync_stack_size: 16 * 2 ** 20 });

type Address = bigint;
type Call = (...args: unknown[]) => unknown;

interface ModelParams {
  readonly devices: BigUint64Array | Address | null;
  readonly memories: Address | null;
  readonly words: BigUint64Array;
}

interface Batch {
  n_tokens: number;
  readonly token: Address;
  readonly embd: Address | null;
  readonly pos: Address;
  readonly n_seq_id: Address;
  readonly seq_id: Address;
  readonly logits: Address;
}

/** A row of a batch: its token, its place in its text, and which text. */
export interface BatchRow {
  readonly token: number;
  readonly position: number;
  readonly sequence: number;
  readonly logits: boolean;
}

const contextParams = koffi.struct("llama_context_params", { words: koffi.array("uint64_t", contextParamsWords) });
const modelParams = koffi.struct("llama_model_params", {
  devices: "void *",
  memories: "void *",
  words: koffi.array("uint64_t", modelParamsWords),
});
const batchStruct = koffi.struct("llama_batch", {
  n_tokens: "int32_t",
  token: "void *",
  embd: "void *",
  pos: "void *",
  n_seq_id: "void *",
  seq_id: "void *",
  logits: "void *",
});

const unavailable = (message: string): AppError => new AppError(message, { code: "BackendUnavailable", operation: "loading llama.cpp" });

/** llama.cpp's own library, and ggml's beside it, which packages name by what computes. */
const llamaFile = /^libllama(\.\w+)?\.v0\.5\.0\.so$/;
const ggmlFile = /^libggml(\.\w+)?\.v0\.5\.0\.so$/;

interface Files {
  readonly folder: string;
  readonly llama: string;
  readonly ggml: string;
}

function filesOf(kind: "cpu" | GpuName): Files {
  const [library] = librariesOf(kind, process.platform, process.arch);
  if (library === undefined) throw unavailable(noLibrary(kind, process.platform, process.arch));
  const folder = folderOf(library.package, library.folder);
  const files = folder !== undefined && existsSync(folder) ? readdirSync(folder) : [];
  const [llama, ggml] = [llamaFile, ggmlFile].map((name) => files.find((file) => name.test(file)));
  if (folder !== undefined && llama !== undefined && ggml !== undefined) return { folder, llama, ggml };
  throw unavailable(`llama.cpp ${release} for ${kind} is not installed: npm install --no-save ${library.package}@${packageVersion}`);
}

function folderOf(name: string, folder: string): string | undefined {
  try {
    return join(dirname(dirname(fileURLToPath(import.meta.resolve(name)))), folder);
  } catch {
    return undefined;
  }
}

/** A view of C memory, which stays as it is while it is used. */
const viewOf = (at: Address, bytes: number): ArrayBuffer => koffi.view(at, bytes) as ArrayBuffer;

/** The functions, by short names. */
function bind(files: Files) {
  const llama = koffi.load(join(files.folder, files.llama)); // brings the other two with it
  const ggml = koffi.load(join(files.folder, files.ggml));
  const base = koffi.load(join(files.folder, "libggml-base.so"));
  return {
    loadAll: ggml.func("ggml_backend_load_all_from_path", "void", ["str"]) as Call,
    registry: ggml.func("ggml_backend_reg_by_name", "void *", ["str"]) as Call,
    deviceCount: base.func("ggml_backend_reg_dev_count", "size_t", ["void *"]) as Call,
    device: base.func("ggml_backend_reg_dev_get", "void *", ["void *", "size_t"]) as Call,
    description: base.func("ggml_backend_dev_description", "str", ["void *"]) as Call,
    procedure: base.func("ggml_backend_reg_get_proc_address", "void *", ["void *", "str"]) as Call,
    poolParams: base.func("ggml_threadpool_params_init", "void", ["void *", "int32_t"]) as Call,
    init: llama.func("llama_backend_init", "void", []) as Call,
    modelDefaults: llama.func("llama_model_default_params", modelParams, []) as Call,
    contextDefaults: llama.func("llama_context_default_params", contextParams, []) as Call,
    load: llama.func("llama_model_load_from_file", "void *", ["str", modelParams]) as Call,
    context: llama.func("llama_init_from_model", "void *", ["void *", contextParams]) as Call,
    attach: llama.func("llama_attach_threadpool", "void", ["void *", "void *", "void *"]) as Call,
    memory: llama.func("llama_get_memory", "void *", ["void *"]) as Call,
    clear: llama.func("llama_memory_clear", "void", ["void *", "bool"]) as Call,
    logits: llama.func("llama_get_logits_ith", "void *", ["void *", "int32_t"]) as Call,
    newBatch: llama.func("llama_batch_init", batchStruct, ["int32_t", "int32_t", "int32_t"]) as Call,
    decode: llama.func("llama_decode", "int32_t", ["void *", batchStruct]) as Call,
    synchronize: llama.func("llama_synchronize", "void", ["void *"]) as Call,
    info: llama.func("llama_print_system_info", "str", []) as Call,
  };
}
type Functions = ReturnType<typeof bind>;

export class LlamaLibrary {
  readonly #call: Functions;
  readonly #defaults: Int32Array;
  readonly #modelParams: ModelParams;
  readonly #newPool: Call;
  readonly #pools = new Map<number, Address>();

  /** `onlyMapped`: weights are read from the mapped file, as memory for a part of them wants. */
  constructor(on: PeerDevice, onlyMapped = false) {
    const files = filesOf(on.kind);
    this.#call = bind(files);
    this.#defaults = this.#readDefaults();
    this.#call.loadAll(files.folder);
    this.#call.init();
    this.#modelParams = this.#paramsFor(on, onlyMapped);
    if (on.kind !== "cpu" && software.test(on.called)) this.#defaults[place.flash] = 0;
    const address = this.#call.procedure(this.#call.registry("CPU"), "ggml_threadpool_new") as Address | null;
    if (address === null) throw unavailable("llama.cpp's CPU library has no ggml_threadpool_new");
    this.#newPool = koffi.decode(address, koffi.proto("void *", ["void *"])) as Call;
  }

  /** What it was built with and found on this processor. */
  get systemInfo(): string {
    return String(this.#call.info());
  }

  load(path: string): Address {
    const model = this.#call.load(path, this.#modelParams) as Address | null;
    if (model === null) throw unavailable(`llama.cpp does not read ${path}`);
    return model;
  }

  /** A context for so many texts of so many tokens each, with threads that stay. */
  context(model: Address, options: { readonly sequences: number; readonly tokens: number; readonly threads: number }): LlamaContext {
    const words = new Int32Array(this.#defaults);
    words[place.context] = options.sequences * options.tokens;
    words[place.sequences] = options.sequences;
    words[place.threads] = options.threads;
    words[place.threadsBatch] = options.threads;
    const context = this.#call.context(model, { words: new BigUint64Array(words.buffer) }) as Address | null;
    if (context === null) throw unavailable("llama.cpp makes no context");
    const pool = this.#pool(options.threads);
    this.#call.attach(context, pool, pool);
    return new LlamaContext(context, this.#call);
  }

  /** Threads as llama.cpp's own programs have them: made once, and looking for work a while before they sleep. */
  #pool(threads: number): Address {
    const known = this.#pools.get(threads);
    if (known !== undefined) return known;
    const params = new Uint8Array(threadpoolParamsBytes);
    this.#call.poolParams(params, threads);
    const pool = this.#newPool(params) as Address;
    this.#pools.set(threads, pool);
    return pool;
  }

  /** On a GPU all layers lie on the one device: left to itself, llama.cpp would spread them over all that it sees. */
  #paramsFor(on: PeerDevice, onlyMapped: boolean): ModelParams {
    const { devices, memories, words } = this.#call.modelDefaults() as ModelParams;
    const params = new BigUint64Array(words);
    const numbers = new Int32Array(params.buffer);
    if (devices !== null) throw unavailable(`llama.cpp is not of release ${release}: its default of devices is none of them`);
    for (const [name, want] of Object.entries(wantedModelDefaults))
      wanted(name, numbers[modelPlace[name as keyof typeof modelPlace]], want);
    const bytes = new Uint8Array(params.buffer);
    wanted("repacks", bytes[repacksByte], 1);
    if (onlyMapped) bytes[repacksByte] = 0;
    numbers[modelPlace.gpuLayers] = on.kind === "cpu" ? 0 : allLayers;
    return { devices: on.kind === "cpu" ? null : this.#onlyDevice(on.kind, on.called), memories, words: params };
  }

  /** The list of it, which a null ends. */
  #onlyDevice(kind: GpuName, called: string): BigUint64Array {
    const registry = this.#call.registry(registryNames[kind]) as Address | null;
    const count = registry === null ? 0 : Number(this.#call.deviceCount(registry));
    const devices = Array.from({ length: count }, (_, index) => this.#call.device(registry, index) as Address);
    const names = devices.map((device) => String(this.#call.description(device)));
    const found = devices[names.findIndex((name) => called.includes(name))];
    if (found === undefined) throw unavailable(`llama.cpp has no ${kind} device "${called}": it sees ${names.join(", ") || "none"}`);
    return BigUint64Array.of(found, 0n);
  }

  #readDefaults(): Int32Array {
    const { words } = this.#call.contextDefaults() as { words: BigUint64Array };
    const defaults = new Int32Array(new BigUint64Array(words).buffer);
    for (const [name, want] of Object.entries(wantedDefaults)) {
      wanted(name, defaults[place[name as keyof typeof place]], want);
    }
    return defaults;
  }
}

function wanted(name: string, got: number | undefined, want: number): void {
  if (got !== want) throw unavailable(`llama.cpp is not of release ${release}: its default of ${name} is ${got}, not ${want}`);
}

const rowsMax = 2048;

export class LlamaContext {
  readonly #context: Address;
  readonly #call: Functions;
  readonly #batch: Batch;
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  readonly #sequences: readonly Int32Array[];
  readonly #wants: Int8Array;

  constructor(context: Address, call: Functions) {
    this.#context = context;
    this.#call = call;
    this.#batch = call.newBatch(rowsMax, 0, 1) as Batch;
    const { token, pos, n_seq_id, seq_id, logits } = this.#batch;
    this.#tokens = new Int32Array(viewOf(token, rowsMax * 4));
    this.#positions = new Int32Array(viewOf(pos, rowsMax * 4));
    this.#wants = new Int8Array(viewOf(logits, rowsMax));
    new Int32Array(viewOf(n_seq_id, rowsMax * 4)).fill(1);
    const lists = new BigUint64Array(viewOf(seq_id, rowsMax * 8));
    this.#sequences = Array.from({ length: rowsMax }, (_, row) => new Int32Array(viewOf(lists[row] as Address, 4)));
  }

  /** Computes the rows to the end. What is beside the two calls of C costs microseconds. */
  run(rows: readonly BatchRow[]): void {
    for (const [at, { token, position, sequence, logits }] of rows.entries()) {
      this.#tokens[at] = token;
      this.#positions[at] = position;
      (this.#sequences[at] as Int32Array)[0] = sequence;
      this.#wants[at] = logits ? 1 : 0;
    }
    this.#batch.n_tokens = rows.length;
    const status = this.#call.decode(this.#context, this.#batch);
    if (status !== 0) throw new AppError(`llama_decode of ${rows.length} rows answered ${status}`, { code: "DeviceFault" });
    this.#call.synchronize(this.#context);
  }

  /** The logits of a row of the last batch, as a copy. */
  logits(row: number, vocab: number): Float32Array {
    return new Float32Array(viewOf(this.#call.logits(this.#context, row) as Address, vocab * 4)).slice();
  }

  /** Forgets all texts. */
  clear(): void {
    this.#call.clear(this.#call.memory(this.#context), true);
  }
}
