// Fetches a store without experts from the weight server into the rank's own folder. It waits for a weight server, resumes partial files and
// skips complete ones.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import type { CodecName } from "../../crds/names.ts";
import type { WeightServer } from "../experts/weight-client.ts";
import { type FileEntry, type ListedFiles, storeFiles } from "../net/file-lists.ts";
import { newPart, type Part, readFile, readList } from "../net/file-reads.ts";
import type { ReadLink } from "../net/read-link.ts";
import type { Log } from "../observe/log.ts";

const againMs = { least: 250, most: 5_000 };
const operation = "fetching the store from the weight server";
const partSuffix = ".part";

export interface StoreFetch {
  readonly weightServer: WeightServer;
  readonly codec: CodecName;
  readonly dir: string;
  readonly waits: (reason: string) => void;
  readonly log: Log;
}

export async function fetchStore(options: StoreFetch): Promise<void> {
  const { weightServer, dir, waits, log } = options;
  const parts = new Map<string, FilePart>();
  const whole = new Map<string, string>();
  await mkdir(dir, { recursive: true });
  for (let waitMs = againMs.least; ; waitMs = Math.min(againMs.most, 2 * waitMs)) {
    const before = receivedOf(parts);
    let link: ReadLink | undefined;
    try {
      link = await weightServer.reads();
      const { digest: modelDigest, files } = await fromWeightServer(link, { parts, whole, ...options });
      log.info({ modelDigest, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) }, "store fetched from the weight server");
      return;
    } catch (caught) {
      const error = AppError.from(caught, operation);
      if (link && error.code !== "Busy") weightServer.failed(link);
      waits(`waits for the model from the weight server: ${error.message}`);
      log.info({ code: error.code, reason: error.message }, "the weight server did not give the store");
    }
    if (receivedOf(parts) > before) waitMs = againMs.least;
    await sleep(waitMs * (0.5 + Math.random()));
  }
}

const receivedOf = (parts: ReadonlyMap<string, Part>): number => [...parts.values()].reduce((sum, { received }) => sum + received, 0);

interface FilePart extends Part {
  readonly sha256: string;
}

interface Fetching extends StoreFetch {
  readonly parts: Map<string, FilePart>;
  readonly whole: Map<string, string>;
}

async function fromWeightServer(link: ReadLink, options: Fetching): Promise<ListedFiles> {
  const { codec, dir, waits, whole } = options;
  const list = await readList(link, storeFiles, codec);
  const missing: FileEntry[] = [];
  for (const file of list.files) {
    if (whole.get(file.name) === file.sha256) continue;
    if (await isThere(dir, file)) whole.set(file.name, file.sha256);
    else missing.push(file);
  }
  // The kept experts belong to another model.
  if (missing.some(({ name }) => name === "expert-index.json")) await clear(dir, list);
  await checkFreeBytes(dir, missing, options.parts);
  for (const file of missing) {
    waits(`fetches ${file.name} from the weight server, ${file.bytes} bytes`);
    await fetchFile(link, file, options);
    whole.set(file.name, file.sha256);
  }
  return list;
}

async function isThere(dir: string, { name, bytes, sha256 }: FileEntry): Promise<boolean> {
  const path = join(dir, name);
  if ((await stat(path).catch(() => undefined))?.size !== bytes) return false;
  const hash = createHash("sha256");
  for await (const data of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(data);
  return hash.digest("hex") === sha256;
}

async function clear(dir: string, { files }: ListedFiles): Promise<void> {
  const keep = new Set(files.flatMap(({ name }) => [name, name + partSuffix]));
  for (const name of await readdir(dir)) if (!keep.has(name)) await rm(join(dir, name), { recursive: true, force: true });
}

async function checkFreeBytes(dir: string, missing: readonly FileEntry[], parts: ReadonlyMap<string, Part>): Promise<void> {
  const needed = missing.reduce((sum, { name, bytes }) => sum + bytes - (parts.get(name)?.received ?? 0), 0);
  const { bavail, bsize } = await statfs(dir);
  const free = bavail * bsize;
  if (needed > free)
    throw new AppError(`${dir}: ${needed} bytes are needed and ${free} free; give the rank's node more disk for ephemeral storage`, {
      code: "DiskFull",
      operation,
      retry: "backoff",
    });
}

async function fetchFile(link: ReadLink, file: FileEntry, { dir, parts }: Fetching): Promise<void> {
  const known = parts.get(file.name);
  const part = known?.sha256 === file.sha256 ? known : { ...newPart(file.bytes), sha256: file.sha256 };
  parts.set(file.name, part);
  const path = join(dir, file.name);
  const out = await open(path + partSuffix, part.received === 0 ? "w" : "r+");
  const unfit = (why: string) => new AppError(`${file.name}: ${why}`, { code: "CorruptFile", operation });
  try {
    await readFile(link, { file, part, out, unfit, giver: "weight server" });
    parts.delete(file.name);
  } catch (caught) {
    // A wrong file starts again from its first byte.
    if (AppError.from(caught).code === "CorruptFile") parts.delete(file.name);
    throw caught;
  } finally {
    await out.close();
  }
  await rename(path + partSuffix, path);
}
