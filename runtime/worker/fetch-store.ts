// Fetches a store without experts from the weight server into the rank's own folder. It waits for a weight server, resumes partial files and
// skips complete ones.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import type { CodecName } from "../../crds/names.ts";
import type { WeightServer, WeightServerClients } from "../experts/weight-server.ts";
import { newPart, type Part, receive } from "../net/file-stream.ts";
import { fromStatus } from "../net/grpc.ts";
import { toSender } from "../net/mapping.ts";
import { fromStoreList, type StoreList } from "../net/store-files.ts";
import type { TextFile } from "../net/text-files.ts";
import type { Log } from "../observe/log.ts";

const againMs = { least: 250, most: 5_000 };
const listTimeoutMs = 5_000;
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
  const parts = new Map<string, Part>();
  const whole = new Map<string, string>();
  await mkdir(dir, { recursive: true });
  for (let waitMs = againMs.least; ; waitMs = Math.min(againMs.most, 2 * waitMs)) {
    const before = receivedOf(parts);
    let clients: WeightServerClients | undefined;
    try {
      clients = await weightServer.clients();
      const { modelDigest, files } = await fromWeightServer(clients, { parts, whole, ...options });
      log.info({ modelDigest, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) }, "store fetched from the weight server");
      return;
    } catch (caught) {
      const error = fromStatus(caught, operation);
      if (clients && error.code !== "Busy") weightServer.failed(clients);
      waits(`waits for the model from the weight server: ${error.message}`);
      log.info({ code: error.code, reason: error.message }, "the weight server did not give the store");
    }
    if (receivedOf(parts) > before) waitMs = againMs.least;
    await sleep(waitMs * (0.5 + Math.random()));
  }
}

const receivedOf = (parts: ReadonlyMap<string, Part>): number => [...parts.values()].reduce((sum, { received }) => sum + received, 0);

interface Fetching extends StoreFetch {
  readonly parts: Map<string, Part>;
  readonly whole: Map<string, string>;
}

async function fromWeightServer(clients: WeightServerClients, options: Fetching): Promise<StoreList> {
  const { weightServer, codec, dir, waits, whole } = options;
  const reply = await clients.files.list({ sender: toSender(weightServer.self), codec }, { deadline: Date.now() + listTimeoutMs });
  const list = fromStoreList(reply);
  const missing: TextFile[] = [];
  for (const file of list.files) {
    if (whole.get(file.name) === file.sha256) continue;
    if (await isThere(dir, file)) whole.set(file.name, file.sha256);
    else missing.push(file);
  }
  // The kept experts belong to another model.
  if (missing.some(({ name }) => name === "expert-index.json")) await clear(dir, list);
  await checkRoom(dir, missing, options.parts);
  for (const file of missing) {
    waits(`fetches ${file.name} from the weight server, ${file.bytes} bytes`);
    await fetchFile(clients, file, options);
    whole.set(file.name, file.sha256);
  }
  return list;
}

async function isThere(dir: string, { name, bytes, sha256 }: TextFile): Promise<boolean> {
  const path = join(dir, name);
  if ((await stat(path).catch(() => undefined))?.size !== bytes) return false;
  const hash = createHash("sha256");
  for await (const data of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(data);
  return hash.digest("hex") === sha256;
}

async function clear(dir: string, { files }: StoreList): Promise<void> {
  const keep = new Set(files.flatMap(({ name }) => [name, name + partSuffix]));
  for (const name of await readdir(dir)) if (!keep.has(name)) await rm(join(dir, name), { recursive: true, force: true });
}

async function checkRoom(dir: string, missing: readonly TextFile[], parts: ReadonlyMap<string, Part>): Promise<void> {
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

async function fetchFile({ files }: WeightServerClients, file: TextFile, { weightServer, dir, parts }: Fetching): Promise<void> {
  const known = parts.get(file.name);
  const part = known?.file.sha256 === file.sha256 ? known : newPart(file);
  parts.set(file.name, part);
  const path = join(dir, file.name);
  // Opened before the call, whose error would be unhandled meanwhile.
  const out = await open(path + partSuffix, part.received === 0 ? "w" : "r+");
  const call = files.read({ sender: toSender(weightServer.self), name: file.name, offset: BigInt(part.received) });
  try {
    await receive(call, part, out, (why) => corrupt(file, why));
    if (part.received !== file.bytes)
      throw new AppError(`${file.name}: ${part.received} of ${file.bytes} bytes came`, { code: "Unavailable" });
    parts.delete(file.name);
    if (part.hash.digest("hex") !== file.sha256)
      throw corrupt(file, "it is not the file that the weight server started with; restart the weight server");
  } catch (caught) {
    // A wrong file starts again from its first byte.
    if (AppError.from(caught).code === "CorruptFile") parts.delete(file.name);
    throw caught;
  } finally {
    await out.close();
  }
  await rename(path + partSuffix, path);
}

const corrupt = ({ name }: TextFile, why: string): AppError => new AppError(`${name}: ${why}`, { code: "CorruptFile", operation });
