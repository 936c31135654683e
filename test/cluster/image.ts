// The builder of OCI images, which it writes as tar files without a container runtime or registry: equal input gives an equal file.
// Callers decide on the content.

import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  createReadStream,
  createWriteStream,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { type TarEntry, tarStream } from "../../operator/cli/bundle.ts";
import { cacheRoot } from "./binaries.ts";
import { run } from "./exec.ts";
import { ClusterError } from "./names.ts";

export interface ImageFile {
  /** Absolute path in the image. */
  readonly path: string;
  /** A file of this machine; symbolic links are followed. */
  readonly source?: string;
  readonly content?: string | Uint8Array;
  readonly linkTarget?: string;
  /** Default: 0755 for a source its owner may execute, else 0644. */
  readonly mode?: number;
  /** An empty folder. */
  readonly folder?: boolean;
}

export interface ImageLayer {
  readonly files: readonly ImageFile[];
}

export interface ImageConfig {
  readonly entrypoint?: readonly string[];
  readonly cmd?: readonly string[];
  /** `NAME=value` pairs. */
  readonly env?: Readonly<Record<string, string>>;
  /** "uid" or "uid:gid". */
  readonly user?: string;
  readonly workdir?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

export interface ImageSpec {
  /** The name that pods use, e.g. `enodia/operator:dev`. */
  readonly ref: string;
  readonly layers: readonly ImageLayer[];
  readonly config: ImageConfig;
  /** The tar to write. */
  readonly out: string;
}

export interface BuiltImage {
  readonly ref: string;
  readonly out: string;
  /** Digest of the manifest. */
  readonly digest: string;
  readonly bytes: number;
}

interface Blob {
  readonly digest: string;
  readonly size: number;
  readonly file?: string;
  readonly content?: Buffer;
}

const mediaTypes = {
  config: "application/vnd.oci.image.config.v1+json",
  layer: "application/vnd.oci.image.layer.v1.tar",
  manifest: "application/vnd.oci.image.manifest.v1+json",
  index: "application/vnd.oci.image.index.v1+json",
};

const sha256 = (data: Uint8Array | string): string => createHash("sha256").update(data).digest("hex");
const imageArchitecture = (arch: string): string => (arch === "x64" ? "amd64" : arch);

/** containerd knows short names only in full: `enodia/x:dev` is `docker.io/enodia/x:dev`, as the kubelet expands it. */
export function fullReference(ref: string): string {
  if (!/^[a-z0-9][a-z0-9._:/-]*:[A-Za-z0-9_][A-Za-z0-9._-]*$/.test(ref))
    throw new ClusterError(`image "${ref}": write it as name:tag in lower case`);
  const first = ref.split("/")[0] ?? "";
  if (ref.includes("/") && (first.includes(".") || first.includes(":") || first === "localhost")) return ref;
  return `docker.io/${ref.includes("/") ? ref : `library/${ref}`}`;
}

/** Hashes of this process, by what tells a changed file. */
const hashes = new Map<string, Promise<string>>();

function fileHash(file: string): Promise<string> {
  const stat = lstatSync(file, { bigint: true });
  const key = `${file} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`;
  const known = hashes.get(key) ?? hashFile(file);
  hashes.set(key, known);
  return known;
}

async function hashFile(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file, { highWaterMark: 1024 * 1024 })) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

function toEntry(file: ImageFile): TarEntry {
  if (!file.path.startsWith("/")) throw new ClusterError(`image file "${file.path}": the path must be absolute`);
  const path = file.path.slice(1).replace(/\/$/, "");
  if (file.folder === true) return { path: `${path}/`, mode: file.mode ?? 0o755, size: 0 };
  if (file.linkTarget !== undefined) return { path, mode: 0o777, size: 0, linkTarget: file.linkTarget };
  if (file.content !== undefined) {
    const content = Buffer.from(file.content);
    return { path, mode: file.mode ?? 0o644, size: content.length, content };
  }
  if (file.source === undefined) throw new ClusterError(`image file "${file.path}": give a source, content, linkTarget or folder`);
  const source = realpathSync(file.source);
  const stat = lstatSync(source);
  if (!stat.isFile()) throw new ClusterError(`image file "${file.path}": ${source} is not a file`);
  return { path, mode: file.mode ?? (stat.mode & 0o100 ? 0o755 : 0o644), size: stat.size, source };
}

/** Sorted, each path once (the last wins), every parent folder present. */
export function layerEntries(files: readonly ImageFile[]): TarEntry[] {
  const entries = new Map<string, TarEntry>();
  for (const file of files) {
    const entry = toEntry(file);
    entries.set(entry.path, entry);
  }
  for (const path of [...entries.keys()]) {
    for (let parent = dirname(path); parent !== "."; parent = dirname(parent)) {
      const folder = `${parent}/`;
      if (!entries.has(folder)) entries.set(folder, { path: folder, mode: 0o755, size: 0 });
    }
  }
  return [...entries.values()].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}

/** The key of a layer, without reading its archive: equal keys mean equal archives. */
async function layerKey(entries: readonly TarEntry[]): Promise<string> {
  const hash = createHash("sha256");
  for (const entry of entries) {
    const body = entry.source !== undefined ? await fileHash(entry.source) : entry.content !== undefined ? sha256(entry.content) : "";
    hash.update(`${JSON.stringify([entry.path, entry.mode, entry.size, entry.linkTarget ?? "", body])}\n`);
  }
  return hash.digest("hex").slice(0, 32);
}

/** Layers that no build has used for this long go: sources change with every edit. */
const layerAgeMaxMs = 7 * 24 * 3600_000;

export function dropOldLayers(folder: string): void {
  for (const name of readdirSync(folder)) {
    if (!/^[0-9a-f]{32}\.tar(\.|$)/.test(name)) continue; // the cache's folder is the user's to choose, and what else is in it theirs
    const file = join(folder, name);
    if (Date.now() - lstatSync(file).mtimeMs > layerAgeMaxMs) rmSync(file, { force: true });
  }
}

async function layerBlob(layer: ImageLayer): Promise<Blob> {
  const entries = layerEntries(layer.files);
  const folder = join(cacheRoot(), "layers");
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `${await layerKey(entries)}.tar`);
  const digestFile = `${file}.sha256`;
  if (!existsSync(file) || !existsSync(digestFile)) {
    await writeTar(file, entries);
    const unfinished = unfinishedName(digestFile);
    writeFileSync(unfinished, await fileHash(file));
    renameSync(unfinished, digestFile);
  }
  const now = new Date();
  utimesSync(digestFile, now, now);
  utimesSync(file, now, now);
  dropOldLayers(folder);
  return { digest: readFileSync(digestFile, "utf8"), size: lstatSync(file).size, file };
}

const unfinishedName = (file: string): string => `${file}.${process.pid}.${randomBytes(4).toString("hex")}`;

async function writeTar(file: string, entries: readonly TarEntry[]): Promise<void> {
  const unfinished = unfinishedName(file);
  try {
    await pipeline(Readable.from(tarStream(entries)), createWriteStream(unfinished));
    renameSync(unfinished, file);
  } finally {
    rmSync(unfinished, { force: true });
  }
}

const blockBytes = 512;

/** Bytes of entries with short names in an archive, without its end. */
function tarSize(entries: readonly TarEntry[]): number {
  return entries.reduce((total, entry) => total + blockBytes + Math.ceil(entry.size / blockBytes) * blockBytes, 0);
}

/**
 * True when the file is the archive of these entries already. Its second entry, the index, names the manifest by digest and that names
 * everything else, and files appear under their names only when whole: so the first two entries and the size tell.
 */
async function startsWith(file: string, entries: readonly TarEntry[]): Promise<boolean> {
  if (!existsSync(file)) return false;
  const chunks: Uint8Array[] = [];
  for await (const chunk of tarStream(entries.slice(0, 2))) chunks.push(chunk);
  const end = chunks.pop()?.length ?? 0;
  const want = Buffer.concat(chunks);
  const size = tarSize(entries.slice(2)) + want.length + end;
  if (lstatSync(file).size !== size) return false;
  const have = Buffer.alloc(want.length);
  const handle = openSync(file, "r");
  try {
    readSync(handle, have, 0, have.length, 0);
  } finally {
    closeSync(handle);
  }
  return have.equals(want);
}

function jsonBlob(value: unknown): Blob {
  const content = Buffer.from(JSON.stringify(value));
  return { digest: sha256(content), size: content.length, content };
}

const descriptor = (mediaType: string, blob: Blob) => ({ mediaType, digest: `sha256:${blob.digest}`, size: blob.size });

function configBlob(config: ImageConfig, layers: readonly Blob[]): Blob {
  return jsonBlob({
    created: "1970-01-01T00:00:00Z",
    architecture: imageArchitecture(process.arch),
    os: "linux",
    config: {
      ...(config.user === undefined ? {} : { User: config.user }),
      ...(config.env === undefined ? {} : { Env: Object.entries(config.env).map(([key, value]) => `${key}=${value}`) }),
      ...(config.entrypoint === undefined ? {} : { Entrypoint: config.entrypoint }),
      ...(config.cmd === undefined ? {} : { Cmd: config.cmd }),
      ...(config.workdir === undefined ? {} : { WorkingDir: config.workdir }),
      ...(config.labels === undefined ? {} : { Labels: config.labels }),
    },
    rootfs: { type: "layers", diff_ids: layers.map((layer) => `sha256:${layer.digest}`) },
    history: layers.map(() => ({ created: "1970-01-01T00:00:00Z", created_by: "enodia" })),
  });
}

/** Builds the image and writes its tar. Layers are kept in the cache by what is in them. */
export async function buildImage(spec: ImageSpec): Promise<BuiltImage> {
  const reference = fullReference(spec.ref);
  const layers: Blob[] = [];
  for (const layer of spec.layers) layers.push(await layerBlob(layer));
  const config = configBlob(spec.config, layers);
  const manifest = jsonBlob({
    schemaVersion: 2,
    mediaType: mediaTypes.manifest,
    config: descriptor(mediaTypes.config, config),
    layers: layers.map((layer) => descriptor(mediaTypes.layer, layer)),
  });
  const annotations = { "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference.replace(/^.*:/, "") };
  const index = {
    schemaVersion: 2,
    mediaType: mediaTypes.index,
    manifests: [
      {
        ...descriptor(mediaTypes.manifest, manifest),
        annotations,
        platform: { architecture: imageArchitecture(process.arch), os: "linux" },
      },
    ],
  };
  const blobs = new Map([...layers, config, manifest].map((blob) => [blob.digest, blob]));
  const text = (path: string, value: unknown): TarEntry => {
    const content = Buffer.from(JSON.stringify(value));
    return { path, mode: 0o644, size: content.length, content };
  };
  const entries: TarEntry[] = [
    text("oci-layout", { imageLayoutVersion: "1.0.0" }),
    text("index.json", index),
    ...[...blobs.values()].map((blob) => ({
      path: `blobs/sha256/${blob.digest}`,
      mode: 0o644,
      size: blob.size,
      ...(blob.file === undefined ? { content: blob.content ?? Buffer.alloc(0) } : { source: blob.file }),
    })),
  ];
  mkdirSync(dirname(spec.out), { recursive: true });
  if (!(await startsWith(spec.out, entries))) await writeTar(spec.out, entries);
  return { ref: spec.ref, out: spec.out, digest: `sha256:${manifest.digest}`, bytes: lstatSync(spec.out).size };
}

/** Paths in `ldd` output: "libc.so.6 => /lib/…/libc.so.6 (0x…)" and the loader's "/lib64/ld-… (0x…)". */
export function parseLdd(output: string): { found: string[]; missing: string[] } {
  const found: string[] = [];
  const missing: string[] = [];
  for (const line of output.split("\n")) {
    const absent = /^\s*(\S+) => not found/.exec(line);
    if (absent?.[1] !== undefined) missing.push(absent[1]);
    const path = /(?:=> )?(\/\S+) \(0x/.exec(line);
    if (path?.[1] !== undefined) found.push(path[1]);
  }
  return { found, missing };
}

/** Shared libraries that the given programs or libraries need, each at the path where the loader finds it. */
export async function lddClosure(files: readonly string[], options: { libraryPath?: string } = {}): Promise<ImageFile[]> {
  const paths = new Set<string>();
  for (const file of files) {
    const env = options.libraryPath === undefined ? {} : { LD_LIBRARY_PATH: options.libraryPath };
    const result = await run("ldd", [file], { env, allowFailure: true });
    if (/not a dynamic executable|statically linked/.test(result.stdout + result.stderr)) continue;
    const { found, missing } = parseLdd(result.stdout);
    if (missing.length > 0)
      throw new ClusterError(`${file} needs ${missing.join(", ")}, which this machine does not have: install the packages with them`);
    for (const path of found) paths.add(path);
  }
  return [...paths].sort().map((path) => ({ path, source: path, mode: 0o755 }));
}
