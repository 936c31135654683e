// The loading of ggml's libraries from their package: which package, which build of the CPU library, whether it is the version that
// this code was written for. The only file that knows how C functions are called.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import koffi, { type TypeObject } from "koffi";
import { AppError } from "../../../crds/common.ts";
import { type Bound, baseFunctions, type CType, cpuFunctions, type Pointer, type Signature, systemFunctions } from "./functions.ts";

/** Tensors, operations and files of ggml change from version to version; another one is refused instead of tried. */
const versionWanted = "0.25.1";
const packageName = `@node-llama-cpp/linux-${process.arch}`;
const packages: Readonly<Record<string, () => string>> = {
  x64: () => import.meta.resolve("@node-llama-cpp/linux-x64"),
  arm64: () => import.meta.resolve("@node-llama-cpp/linux-arm64"),
};

export interface GgmlLibrary extends Bound<typeof baseFunctions>, Bound<typeof cpuFunctions> {
  /** The build of the CPU library, named after the first processors that it suits: "zen4", "haswell". Bits of f32 sums depend on it. */
  readonly cpuBuild: string;
  /** The function at an address that ggml gave, for those that no library exports. */
  functionAt(address: Pointer, signature: Signature): (...args: unknown[]) => unknown;
  /** The pointer stored at an address. */
  pointerAt(address: Pointer): Pointer;
  /** Bytes of a page of memory. */
  readonly pageBytes: number;
  /** Gives the whole pages within a range back to the machine; what was in them is lost, and they read as zeros. */
  discard(address: Pointer, bytes: number): void;
  /** Has the machine take memory for the whole pages within a range by single pages, not by the 2 MiB around each. */
  singlePages(address: Pointer, bytes: number): void;
}

/** `MADV_DONTNEED` and `MADV_NOHUGEPAGE`. */
const advice = { discard: 4, singlePages: 15 } as const;

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
  initParams,
};

type Library = ReturnType<typeof koffi.load>;

/** A null pointer is 0n, as everywhere here: koffi says null. */
function bind<T extends Readonly<Record<string, Signature>>>(library: Library, table: T): Bound<T> {
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

/** The folder of the libraries in the package for this machine. */
function libraryFolder(): string {
  let entry: string;
  try {
    entry = fileURLToPath(packages[process.arch]?.() ?? "");
  } catch (cause) {
    throw unavailable(`ggml's libraries are not installed: npm install ${packageName} (glibc 2.34 or later, no musl)`, cause);
  }
  const folder = join(entry, "..", "..", "bins", `linux-${process.arch}`);
  if (!existsSync(folder)) throw unavailable(`${packageName} has no folder bins/linux-${process.arch}; install it again`);
  return folder;
}

/** Every build of the CPU library scores itself on this processor; 0 means that it does not run here. */
function bestCpuLibrary(folder: string): { readonly library: Library; readonly build: string } {
  let best: { readonly library: Library; readonly build: string; readonly score: number } | undefined;
  for (const file of readdirSync(folder).sort()) {
    const build = /^libggml-cpu-(.+)\.so$/.exec(file)?.[1];
    if (build === undefined) continue;
    const library = koffi.load(join(folder, file));
    const score = library.func("ggml_backend_score", "int32_t", [])() as number;
    if (score > (best?.score ?? 0)) {
      best?.library.unload();
      best = { library, build, score };
    } else library.unload();
  }
  if (best === undefined) throw unavailable(`no build of ggml's CPU library in ${packageName} runs on this processor`);
  return best;
}

function load(): GgmlLibrary {
  const folder = libraryFolder();
  const base = bind(koffi.load(join(folder, "libggml-base.so")), baseFunctions); // first: the CPU library needs it and finds it loaded
  const version = base.ggml_version();
  if (version !== versionWanted) throw unavailable(`ggml ${version} is installed, ${versionWanted} is wanted: npm ci`);
  const { library, build } = bestCpuLibrary(folder);
  const system = bind(koffi.load(null), systemFunctions);
  const pageBytes = system.getpagesize();
  const page = BigInt(pageBytes);
  const advise = (address: Pointer, bytes: number, what: number): void => {
    const first = (address + page - 1n) & ~(page - 1n);
    const end = (address + BigInt(bytes)) & ~(page - 1n);
    if (end > first) system.madvise(first, Number(end - first), what);
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
    pageBytes,
    discard: (address, bytes) => advise(address, bytes, advice.discard),
    singlePages: (address, bytes) => advise(address, bytes, advice.singlePages),
  };
}

let loaded: GgmlLibrary | undefined;

/** ggml, loaded once a thread. Throws AppError `BackendUnavailable` with the remedy. */
export function ggmlLibrary(): GgmlLibrary {
  loaded ??= load();
  return loaded;
}
