// Loads ggml from its packages: the package, the CPU build and the version check.
import { existsSync, readdirSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { TypeObject } from "koffi";
import koffi from "koffi";
import { AppError } from "../../../crds/common.ts";
import {
  type Bound,
  baseFunctions,
  type CType,
  cpuFunctions,
  deviceFunctions,
  type Pointer,
  type Signature,
  systemFunctions,
} from "./functions.ts";
import { type GpuName, type Library, librariesOf, noLibrary, packageVersion, remedyOf } from "./packages.ts";

/** The line has the format of runtime/observe/log.ts. */
function abortLine(message: string, now: Date): string {
  const text = message.trim().replaceAll(/\s+/g, " ");
  return `${JSON.stringify({ level: "fatal", time: now.toISOString(), name: "ggml", code: "BackendAborted", message: `ggml ends the process: ${text}` })}\n`;
}

const versionWanted = "0.25.1";

export interface GgmlLibrary extends Bound<typeof baseFunctions>, Bound<typeof cpuFunctions> {
  /** The build of the CPU library, named after the oldest processor it suits: "zen4", "haswell". */
  readonly cpuBuild: string;
  /** It reaches functions that no library exports. */
  functionAt(address: Pointer, signature: Signature): (...args: unknown[]) => unknown;
  pointerAt(address: Pointer): Pointer;
  writePointer(address: Pointer, value: Pointer): void;
  readonly pageBytes: number;
  discard(address: Pointer, bytes: number): void;
  /** Moves whole pages to another address and drops the pages that were there. */
  movePages(from: Pointer, to: Pointer, bytes: number): boolean;
  /** Replaces whole pages with fresh ones, as one mapping. */
  renew(address: Pointer, bytes: number): void;
  /** The code is never freed; undefined where the machine forbids it. */
  machineCode(code: Uint8Array): ((argument: number) => void) | undefined;
  singlePages(address: Pointer, bytes: number): void;
  largePages(address: Pointer, bytes: number): void;
  /** False where the kernel cannot. */
  joinPages(address: Pointer, bytes: number): boolean;
  /** Large pages that lie partly within the range become single ones, with what is in them. */
  splitPages(address: Pointer, bytes: number): void;
  /** Writes a whole tensor on a thread of libuv's pool; it and its memory must stay until then. */
  setTensorApart(tensor: Pointer, data: Uint8Array): Promise<void>;
  /** Computes on such a thread and returns the status. */
  computeApart(backend: Pointer, graph: Pointer): Promise<number>;
  /** `ggml_quantize_chunk` on such a thread. */
  quantizeApart(...args: Parameters<GgmlLibrary["ggml_quantize_chunk"]>): Promise<number>;
  setEnvironment(name: string, value: string): void;
  reportAborts(on: boolean): void;
}

/** koffi's C stack has 2 MiB and no overflow check; a driver that compiles a kernel needs more. */
koffi.config({ sync_stack_size: 16 * 2 ** 20, async_stack_size: 2 * 2 ** 20 });

/** `PROT_READ | PROT_WRITE`, `PROT_READ | PROT_EXEC`, `MAP_PRIVATE | MAP_ANONYMOUS`, and the latter with `MAP_FIXED`. */
const memory = { writable: 3, executable: 5, ownPages: 0x22, ownPagesThere: 0x32 } as const;
/** `MADV_DONTNEED`, `MADV_HUGEPAGE`, `MADV_NOHUGEPAGE`, `MADV_COLD` and `MADV_COLLAPSE`. */
const advice = { discard: 4, largePages: 14, singlePages: 15, splitPages: 20, joinPages: 25 } as const;
/** `MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP`, since Linux 5.7. */
const leavingFreshPages = 7;
/** `RTLD_NOW` and `RTLD_NODELETE`: the library stays loaded when its thread ends. */
const toStay = 0x1002;

const initParams = koffi.struct("ggml_init_params", { mem_size: "size_t", mem_buffer: "void *", no_alloc: "bool" });

const cTypes: Readonly<Record<CType, string | TypeObject>> = {
  none: "void",
  pointer: "void *",
  i32: "int32_t",
  i64: "int64_t",
  size: "size_t",
  f32: "float",
  bool: "bool",
  text: "str",
  data: "void *",
  dataOrNull: "void *",
  initParams,
};

const abortCallback = koffi.proto("ggml_abort_callback", "void", ["str"]);
/** Referenced as long as ggml may call it. */
let aborts: Pointer | undefined;

type Loaded = ReturnType<typeof koffi.load>;

/** A null pointer is 0n here; koffi returns null. */
function bind<T extends Readonly<Record<string, Signature>>>(library: Loaded, table: T): Bound<T> {
  const bound = Object.entries(table).map(([name, [result, ...args]]) => {
    const call = library.func(
      name,
      cTypes[result],
      args.map((type) => cTypes[type]),
    );
    return [name, result === "pointer" ? (...values: unknown[]) => call(...values) ?? 0n : call];
  });
  return Object.fromEntries(bound) as Bound<T>;
}

function unavailable(message: string, cause?: unknown): AppError {
  return new AppError(message, { code: "BackendUnavailable", operation: "loading ggml", cause });
}

const wanted = (kind: "cpu" | GpuName): readonly Library[] => {
  const found = librariesOf(kind, process.platform, process.arch);
  if (found.length > 0) return found;
  throw unavailable(noLibrary(kind, process.platform, process.arch));
};

/** The names are literal where a package is a dependency of this one. */
const entries: Readonly<Record<string, () => string>> = {
  "@node-llama-cpp/linux-x64": () => import.meta.resolve("@node-llama-cpp/linux-x64"),
  "@node-llama-cpp/linux-arm64": () => import.meta.resolve("@node-llama-cpp/linux-arm64"),
};

/** Undefined where the package is not installed. */
function folderOf({ package: name, folder }: Library): string | undefined {
  try {
    const found = join(dirname(dirname(fileURLToPath(entries[name]?.() ?? import.meta.resolve(name)))), folder);
    return existsSync(found) ? found : undefined;
  } catch {
    return undefined;
  }
}

function notInstalled(kind: "cpu" | GpuName, { package: name, otherwise }: Library): AppError {
  return unavailable(`ggml's library for ${kind} is not installed: npm install ${name}@${packageVersion}; ${otherwise}`);
}

function cpuFolder(): string {
  const [library] = wanted("cpu") as [Library];
  const folder = folderOf(library);
  if (folder === undefined) throw notInstalled("cpu", library);
  return folder;
}

const installed = (kind: GpuName): readonly string[] =>
  librariesOf(kind, process.platform, process.arch).flatMap((library) => {
    const folder = folderOf(library);
    return folder !== undefined && existsSync(join(folder, library.file)) ? [join(folder, library.file)] : [];
  });

export const gpuInstalled = (kind: GpuName): boolean => installed(kind).length > 0;

/** Every build of the CPU library scores itself on this processor. */
function bestCpuLibrary(folder: string, named?: string): { readonly library: Loaded; readonly build: string; readonly file: string } {
  let best: { readonly library: Loaded; readonly build: string; readonly file: string; readonly score: number } | undefined;
  for (const file of readdirSync(folder).sort()) {
    const build = /^libggml-cpu-(.+)\.so$/.exec(file)?.[1];
    if (build === undefined || (named !== undefined && build !== named)) continue;
    const library = koffi.load(join(folder, file));
    const score = library.func("ggml_backend_score", "int32_t", [])() as number;
    if (score > (best?.score ?? 0)) {
      best?.library.unload();
      best = { library, build, file, score };
    } else library.unload();
  }
  if (best === undefined)
    throw unavailable(
      `${named === undefined ? "no build" : `no build ${named}`} of ggml's CPU library in ${folder} runs on this processor`,
    );
  return best;
}

function load(cpuBuild?: string): GgmlLibrary {
  const folder = cpuFolder();
  const system = bind(koffi.load(null), systemFunctions);
  const baseFile = join(folder, "libggml-base.so");
  system.dlopen(baseFile, toStay); // first: the others need it
  const baseLibrary = koffi.load(baseFile);
  const base = bind(baseLibrary, baseFunctions);
  // ggml's threads cannot call JavaScript, so its log becomes a C function that ignores its arguments.
  base.ggml_log_set(baseLibrary.symbol("ggml_time_us", "void") as Pointer, 0n);
  const version = base.ggml_version();
  if (version !== versionWanted) throw unavailable(`ggml ${version} is installed, ${versionWanted} is wanted: npm ci`);
  const { library, build, file } = bestCpuLibrary(folder, cpuBuild);
  system.dlopen(join(folder, file), toStay);
  const word = new BigUint64Array(1);
  const pageBytes = system.getpagesize();
  const page = BigInt(pageBytes);
  const advise = (address: Pointer, bytes: number, what: number): boolean => {
    const first = (address + page - 1n) & ~(page - 1n);
    const end = (address + BigInt(bytes)) & ~(page - 1n);
    return end > first && system.madvise(first, Number(end - first), what) === 0;
  };
  const renew = (address: Pointer, bytes: number): void => {
    if (system.mmap(address, bytes, memory.writable, memory.ownPagesThere, -1, 0) !== address)
      throw new AppError(`${bytes} bytes of memory are lost: start the worker again`, { code: "DeviceFault" });
    advise(address, bytes, advice.singlePages);
  };
  return {
    ...base,
    ...bind(library, cpuFunctions),
    cpuBuild: build,
    functionAt: (address, [result, ...args]) => {
      const proto = koffi.proto(
        cTypes[result],
        args.map((type) => cTypes[type]),
      );
      return koffi.decode(address, proto) as (...values: unknown[]) => unknown;
    },
    pointerAt: (address) => (koffi.decode(address, "void *") as Pointer | null) ?? 0n,
    movePages: (from, to, bytes) => {
      if (system.mremap(from, bytes, bytes, leavingFreshPages, to) === to) return true;
      // A write to the target would end the process if it had no pages.
      renew(to, bytes);
      return false;
    },
    renew,
    machineCode: (code) => machineCode(system, code),
    writePointer: (address, value) => {
      word[0] = value;
      system.memcpy(address, word, word.byteLength);
    },
    pageBytes,
    discard: (address, bytes) => advise(address, bytes, advice.discard),
    singlePages: (address, bytes) => advise(address, bytes, advice.singlePages),
    largePages: (address, bytes) => advise(address, bytes, advice.largePages),
    joinPages: (address, bytes) => advise(address, bytes, advice.joinPages),
    splitPages: (address, bytes) => void advise(address, bytes, advice.splitPages),
    setTensorApart: (tensor, data) => apart(base.ggml_backend_tensor_set, [tensor, data, 0, data.byteLength]),
    computeApart: (backend, graph) => apart(base.ggml_backend_graph_compute, [backend, graph]),
    quantizeApart: (...args) => apart(base.ggml_quantize_chunk, args),
    setEnvironment: (name, value) => void system.setenv(name, value, 0),
    reportAborts: (on) => {
      if (!on) return void base.ggml_set_abort_callback(0n);
      aborts ??= koffi.register((message: string) => writeSync(1, abortLine(message, new Date())), koffi.pointer(abortCallback));
      base.ggml_set_abort_callback(aborts);
    },
  };
}

/** Calls a function of C's on a thread of libuv's pool. */
function apart<T>(call: (...args: never[]) => T, args: unknown[]): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const { async: start } = call as unknown as { async(...args: unknown[]): void };
  start(...args, (error: unknown, result: T) => {
    args.length = 0; // until now it kept the memory that the other thread reads
    if (error) reject(error);
    else resolve(result);
  });
  return promise;
}

function machineCode(system: Bound<typeof systemFunctions>, code: Uint8Array): ((argument: number) => void) | undefined {
  const at = system.mmap(0n, code.length, memory.writable, memory.ownPages, -1, 0);
  if (BigInt.asIntN(64, at) === -1n) return undefined;
  new Uint8Array(koffi.view(at, code.length) as ArrayBuffer).set(code);
  if (system.mprotect(at, code.length, memory.executable) !== 0) return undefined;
  return koffi.decode(at, koffi.proto("void", ["int64_t"])) as (argument: number) => void;
}

const loaded = new Map<string, GgmlLibrary>();

/** Loads ggml once per thread. Throws AppError `BackendUnavailable` with the remedy. */
export function ggmlLibrary(cpuBuild = ""): GgmlLibrary {
  const known = loaded.get(cpuBuild) ?? load(cpuBuild === "" ? undefined : cpuBuild);
  loaded.set(cpuBuild, known);
  return known;
}

/** Throws AppError `BackendUnavailable` with the remedy. */
export function gpuRegistry(kind: GpuName): Pointer {
  const known = registries.get(kind);
  if (known !== undefined) return known;
  ggmlLibrary();
  const [first] = wanted(kind) as readonly [Library];
  let reason = notInstalled(kind, first);
  for (const [at, path] of installed(kind).entries()) {
    try {
      bind(koffi.load(null), systemFunctions).dlopen(path, toStay);
      const registry = bind(koffi.load(path), deviceFunctions).ggml_backend_init();
      if (registry !== 0n) registries.set(kind, registry);
      if (registry !== 0n) return registry;
      if (at === 0) reason = unavailable(`ggml finds no driver for ${kind}: ${remedyOf("")}`);
    } catch (caught) {
      const said = caught instanceof Error ? caught.message : String(caught);
      if (at === 0) reason = unavailable(`ggml's library for ${kind} does not load: ${said}; ${remedyOf(said)}`, caught);
    }
  }
  throw reason;
}

const registries = new Map<GpuName, Pointer>();
