// Files of a folder as bulk reads: their source, and how a pod receives listed files and units.
import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { readLimits } from "./failure-detector.ts";
import { type FileEntry, type FileKind, fromFileList, type ListedFiles, textDigest, textFiles } from "./file-lists.ts";
import { FileListSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import type { Caller } from "./grpc.ts";
import { chunkBytesMax, type ReadSources } from "./read-host.ts";
import type { BulkRead, ReadLink } from "./read-link.ts";
import { create } from "./service.ts";
import type { PeerIdentity } from "./tls.ts";

const operation = "serving files";
const listBytesMax = 64 * 1024;

export interface FileFolder extends ListedFiles {
  readonly dir: string;
}

/** Sorted by name. Throws `BadModel` for files that no reader would accept. */
export async function hashFiles(dir: string, { names, fault }: FileKind): Promise<readonly FileEntry[]> {
  const files: FileEntry[] = [];
  for (const name of names) {
    const info = await stat(join(dir, name)).catch(() => undefined);
    if (info?.isFile()) files.push(await hashedFile(dir, name));
  }
  const why = fault(files);
  if (why !== undefined) throw new AppError(`${dir}: ${why}; import the model again`, { code: "BadModel", operation });
  return files;
}

async function hashedFile(dir: string, name: string): Promise<FileEntry> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const data of chunksOf(dir, name)) {
    hash.update(data);
    bytes += data.byteLength;
  }
  return { name, bytes, sha256: hash.digest("hex") };
}

const chunksOf = (dir: string, name: string, start = 0): AsyncIterable<Buffer> =>
  createReadStream(join(dir, name), { start, highWaterMark: chunkBytesMax });

export interface FileSourceOptions {
  readonly folder: FileFolder;
  /** The codec of experts that lie beside the files; empty for text files. */
  readonly codec: string;
  /** Throws AppError for callers without access. */
  readonly authorize: (call: Caller) => void;
  readonly onServed: (bytes: number) => void;
}

export function fileSources({ folder, codec, authorize, onServed }: FileSourceOptions): Pick<ReadSources, "file" | "list"> {
  const { dir, digest, files } = folder;
  const list = create(FileListSchema, { digest, files: files.map((file) => ({ ...file, bytes: BigInt(file.bytes) })) });
  return {
    async list(request, call) {
      authorize(call);
      if (request.codec !== codec) throw invalid(`codec: ${request.codec.slice(0, 32)}, this pod has ${codec || "none"}`);
      await call.send(0, toBinary(FileListSchema, list));
    },
    async file({ name, offset: from }, call) {
      authorize(call);
      const file = files.find((one) => one.name === name);
      if (file === undefined) throw invalid(`name: ${JSON.stringify(name.slice(0, 64))} is not listed`);
      let offset = Number(from);
      if (offset > file.bytes) throw invalid(`offset: ${offset}, ${name} has ${file.bytes} bytes`);
      for await (const data of chunksOf(dir, name, offset)) {
        await call.send(offset, data);
        offset += data.byteLength;
        onServed(data.byteLength);
      }
    },
  };
}

/** Throws `BadModel` for files that no gateway would accept. */
export async function openTextFolder(dir: string): Promise<FileFolder> {
  const files = await hashFiles(dir, textFiles);
  return { dir, files, digest: textDigest(files) };
}

/** Text files for gateways. */
export function textSources(folder: FileFolder, caller: (call: Caller) => PeerIdentity) {
  const authorize = (call: Caller) => {
    const { role } = caller(call);
    if (role !== "gateway") throw new AppError(`a ${role} may not call this`, { code: "Forbidden", operation });
  };
  return fileSources({ folder, codec: "", authorize, onServed: () => {} });
}

const invalid = (what: string): AppError => new AppError(what, { code: "InvalidRequest", operation, retry: "backoff" });

/** Bytes from before a broken connection are not fetched again. */
export interface Part {
  readonly bytes: number;
  readonly hash: Hash;
  received: number;
}

export const newPart = (bytes: number): Part => ({ bytes, hash: createHash("sha256"), received: 0 });

interface Receiving {
  readonly stallMs: number;
  /** Chunks do not fit. */
  readonly unfit: () => Error;
  store(data: Uint8Array, at: number): unknown;
}

/** Cancels a read that stalls. Received bytes stay in `part`. */
export async function receive(read: BulkRead, part: Part, { stallMs, unfit, store }: Receiving): Promise<void> {
  const stalled = () =>
    read.cancel(new AppError(`no byte came for ${stallMs} ms`, { code: "Unavailable", operation: "reading", retry: "backoff" }));
  let stall = setTimeout(stalled, stallMs);
  try {
    for await (const { offset, data } of read) {
      clearTimeout(stall);
      if (Number(offset) !== part.received || part.received + data.byteLength > part.bytes) throw unfit();
      await store(data, part.received);
      part.hash.update(data);
      part.received += data.byteLength;
      stall = setTimeout(stalled, stallMs); // a slow disk here is no stall of the source
    }
  } finally {
    clearTimeout(stall);
    read.cancel();
  }
}

export async function readList(link: ReadLink, kind: FileKind, codec: string): Promise<ListedFiles> {
  const bytes = Buffer.alloc(listBytesMax);
  const part = newPart(listBytesMax);
  const unfit = () => new AppError(`a list of more than ${listBytesMax} bytes`, { code: "InvalidRequest", operation: "listing files" });
  await receive(link.read({ case: "list", value: { codec } }), part, {
    stallMs: readLimits.listMs,
    unfit,
    store: (data, at) => bytes.set(data, at),
  });
  return fromFileList(fromBinary(FileListSchema, bytes.subarray(0, part.received)), kind);
}

interface FileReceiving {
  readonly file: FileEntry;
  readonly part: Part;
  /** A file that is open for writing. */
  readonly out: { write(data: Uint8Array, from: number, bytes: number, at: number): Promise<{ readonly bytesWritten: number }> };
  readonly unfit: (why: string) => Error;
  /** Messages show it: "rank", "weight server". */
  readonly giver: string;
}

/** Goes on where `part` broke off. Throws `unfit` for other bytes than were listed. */
export async function readFile(link: ReadLink, { file, part, out, unfit, giver }: FileReceiving): Promise<void> {
  await receive(link.read({ case: "file", value: { name: file.name, offset: BigInt(part.received) } }), part, {
    stallMs: readLimits.fileMs,
    unfit: () => unfit("chunks do not fit what was listed"),
    async store(data, at) {
      for (let done = 0; done < data.byteLength; ) done += (await out.write(data, done, data.byteLength - done, at + done)).bytesWritten;
    },
  });
  if (part.received !== file.bytes)
    throw new AppError(`${file.name}: ${part.received} of ${file.bytes} bytes came`, { code: "Unavailable", retry: "backoff" });
  if (part.hash.digest("hex") !== file.sha256) throw unfit(`it is not the file that the ${giver} started with; restart the ${giver}`);
}
