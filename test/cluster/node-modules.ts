// The installed packages that a production image needs, by package-lock.json, and which of their files. Pure; reading folders is
// the caller's.

interface LockPackage {
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { optional?: boolean }>>;
}

export interface Lockfile {
  readonly packages: Readonly<Record<string, LockPackage>>;
}

/** Node's own rule: the nearest node_modules upwards that has the package. */
function resolvePackage(lock: Lockfile, from: string, name: string): string | undefined {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf("node_modules/") - 1))) {
    const path = folder === "" ? `node_modules/${name}` : `${folder}/node_modules/${name}`;
    if (lock.packages[path] !== undefined) return path;
    if (folder === "") return undefined;
  }
}

function namesNeeded(item: LockPackage): string[] {
  const peers = Object.keys(item.peerDependencies ?? {}).filter((name) => item.peerDependenciesMeta?.[name]?.optional !== true);
  return [...Object.keys(item.dependencies ?? {}), ...Object.keys(item.optionalDependencies ?? {}), ...peers];
}

/**
 * Folders (`node_modules/…`, relative to the repository) of the production packages, without `exclude` and what only they need.
 * Optional packages for other machines are in the lockfile too: whoever copies skips folders that are not there.
 */
export function productionPackages(lock: Lockfile, exclude: readonly string[] = []): string[] {
  const found = new Set<string>();
  const queue: { from: string; name: string }[] = [];
  const enqueue = (from: string, item: LockPackage | undefined) => {
    for (const name of item === undefined ? [] : namesNeeded(item)) if (!exclude.includes(name)) queue.push({ from, name });
  };
  enqueue("", lock.packages[""]);
  for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
    const path = resolvePackage(lock, next.from, next.name);
    if (path === undefined || found.has(path)) continue;
    found.add(path);
    enqueue(path, lock.packages[path]);
  }
  return [...found].sort();
}

/** Files of use to compilers and people only. */
const needlessFile = /\.(d\.ts|d\.mts|d\.cts|map|md|markdown|flow)$|\/(LICENSE|CHANGELOG|AUTHORS)[^/]*$/i;

/** True when a package's file belongs into an image for linux on `arch`; paths are relative to the package. */
export function keepFile(packageName: string, path: string, arch: string): boolean {
  // Of llama.cpp's package ggml alone: what serves is our own.
  if (packageName.startsWith("@node-llama-cpp/") && path.startsWith("bins/")) return /\/libggml-(base|cpu-[\w]+)\.so$/.test(path);
  if (packageName === "koffi" && path.includes("/")) return /^(src|lib)\/.*\.c?js$/.test(path);
  if (packageName.startsWith("@koromix/koffi-") && path.includes("/")) return path.startsWith(`linux_${arch}/`);
  if (packageName === "onnxruntime-node" && path.startsWith("bin/")) return path.includes(`/linux/${arch}/`);
  return !needlessFile.test(`/${path}`) || /^\/?(license|notice)/i.test(path);
}

/** True when a file of the product's own source folders belongs into an image. */
export function keepSource(path: string): boolean {
  return !/\.test\.ts$|\.int\.ts$|(^|\/)(golden|testdata|fixtures)\//.test(path);
}
