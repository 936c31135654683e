// StoreFiles: what every rank needs whole of a model store, for ranks that mount no model. Hashed once at the start, so that a rank knows
// that it has the file whole, from whichever seed and in however many pieces; read from the disk for each call, since they are large.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import type { CodecName } from "../../crds/names.ts";
import { drained } from "../wire/drained.ts";
import { type ReadStoreRequest, type StoreFiles, type TextChunk, TextChunkSchema } from "../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { type Caller, type ServerWritable, toStatus } from "../wire/grpc.ts";
import { create, type HandlersOf } from "../wire/service.ts";
import { type StoreList, storeChunkBytesMax, storeFault, storeFileNames } from "../wire/store-files.ts";
import type { TextFile } from "../wire/text-files.ts";

/** Files sent at once; a rank that finds them taken asks again. */
const readsMax = 8;
const operation = "serving the files of a store";

export interface FileServerOptions extends StoreList {
  readonly dir: string;
  readonly codec: CodecName;
  /** Throws AppError for callers that are no ranks of this deployment. */
  readonly authorize: (call: Caller, deploymentUid: string | undefined) => void;
  readonly onServed: (bytes: number) => void;
}

/** The files of a store's folder, in the order of names. Throws `BadModel` for one that no rank would take. */
export async function listStoreFiles(dir: string): Promise<readonly TextFile[]> {
  const files: TextFile[] = [];
  for (const name of storeFileNames) {
    const info = await stat(join(dir, name)).catch(() => undefined);
    if (info?.isFile()) files.push(await hashed(dir, name));
  }
  const fault = storeFault(files);
  if (fault !== undefined) throw new AppError(`${dir}: ${fault}; import the model again`, { code: "BadModel", operation });
  return files;
}

async function hashed(dir: string, name: string): Promise<TextFile> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const data of chunksFrom(join(dir, name), 0)) {
    hash.update(data);
    bytes += data.byteLength;
  }
  return { name, bytes, sha256: hash.digest("hex") };
}

const chunksFrom = (path: string, start: number): AsyncIterable<Buffer> =>
  createReadStream(path, { start, highWaterMark: storeChunkBytesMax });

export function createFileServer(options: FileServerOptions): HandlersOf<typeof StoreFiles> {
  const { modelDigest, files, codec, authorize } = options;
  let active = 0;
  return {
    list: async ({ sender, codec: wanted }, call) => {
      authorize(call, sender?.deploymentUid);
      if (wanted !== codec)
        throw new AppError(`codec: ${wanted.slice(0, 32)}, this seed has ${codec}`, {
          code: "InvalidRequest",
          operation,
          retry: "backoff",
        });
      return { modelDigest, files: files.map((file) => ({ ...file, bytes: BigInt(file.bytes) })) };
    },
    read: (call) => {
      if (active >= readsMax) {
        const full = new AppError(`${readsMax} files are being sent already`, { code: "Busy", operation, retry: "backoff" });
        call.emit("error", toStatus(full));
        return;
      }
      active += 1;
      send(call, options)
        .then(
          () => call.end(),
          (error) => void call.emit("error", toStatus(error)),
        )
        .finally(() => {
          active -= 1;
        });
    },
  };
}

async function send(call: ServerWritable<ReadStoreRequest, TextChunk>, options: FileServerOptions): Promise<void> {
  const { sender, name } = call.request;
  options.authorize(call, sender?.deploymentUid);
  const file = options.files.find((one) => one.name === name);
  if (file === undefined) throw refused(`name: ${JSON.stringify(name.slice(0, 64))} is not listed`);
  let offset = Number(call.request.offset);
  if (offset > file.bytes) throw refused(`offset: ${offset}, ${name} has ${file.bytes} bytes`);
  for await (const data of chunksFrom(join(options.dir, name), offset)) {
    if (call.cancelled) return;
    if (!call.write(create(TextChunkSchema, { offset: BigInt(offset), data }))) await drained(call);
    offset += data.byteLength;
    options.onServed(data.byteLength);
  }
}

const refused = (what: string): AppError => new AppError(what, { code: "InvalidRequest", operation });
