// Files of a folder as chunks of a gRPC stream, for TextFiles and StoreFiles.
import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { drained } from "./drained.ts";
import { type TextChunk, TextChunkSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { type ServerWritable, toStatus } from "./grpc.ts";
import { create } from "./service.ts";
import { type TextFile, textChunkBytesMax } from "./text-files.ts";

const readsMax = 8;
const stallMs = 10_000;

const chunksOf = (dir: string, name: string, start = 0): AsyncIterable<Buffer> =>
  createReadStream(join(dir, name), { start, highWaterMark: textChunkBytesMax });

export async function hashedFile(dir: string, name: string): Promise<TextFile> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const data of chunksOf(dir, name)) {
    hash.update(data);
    bytes += data.byteLength;
  }
  return { name, bytes, sha256: hash.digest("hex") };
}

interface FileRead {
  readonly dir: string;
  readonly file: TextFile;
  readonly offset: number;
  readonly onSent?: (bytes: number) => void;
}

/** `find` throws for callers without access; more than `readsMax` reads at once get `Busy`. */
export function readHandler<I>(operation: string, find: (call: ServerWritable<I, TextChunk>) => FileRead) {
  let active = 0;
  return (call: ServerWritable<I, TextChunk>): void => {
    const refuse = (error: unknown) => void call.emit("error", toStatus(error));
    if (active >= readsMax) {
      refuse(new AppError(`${readsMax} files are being sent already`, { code: "Busy", operation, retry: "backoff" }));
      return;
    }
    active += 1;
    send(call, find)
      .then(() => call.end(), refuse)
      .finally(() => {
        active -= 1;
      });
  };
}

async function send<I>(call: ServerWritable<I, TextChunk>, find: (call: ServerWritable<I, TextChunk>) => FileRead): Promise<void> {
  const read = find(call);
  let { offset } = read;
  for await (const data of chunksOf(read.dir, read.file.name, offset)) {
    if (call.cancelled) return;
    if (!call.write(create(TextChunkSchema, { offset: BigInt(offset), data }))) await drained(call);
    offset += data.byteLength;
    read.onSent?.(data.byteLength);
  }
}

/** Throws `InvalidRequest` for any other name. */
export function listed(files: readonly TextFile[], name: string, operation: string): TextFile {
  const file = files.find((one) => one.name === name);
  if (file === undefined)
    throw new AppError(`name: ${JSON.stringify(name.slice(0, 64))} is not listed`, { code: "InvalidRequest", operation });
  return file;
}

/** Bytes from before a broken connection are not fetched again. */
export interface Part {
  readonly file: TextFile;
  readonly hash: Hash;
  received: number;
}

export const newPart = (file: TextFile): Part => ({ file, hash: createHash("sha256"), received: 0 });

type Chunks = AsyncIterable<TextChunk> & { on(event: "error", listener: () => void): unknown; cancel(): void };

/** Throws `unfit` where chunks stop or do not fit; received bytes stay. */
export async function receive(call: Chunks, part: Part, out: FileHandle, unfit: (why: string) => Error): Promise<void> {
  call.on("error", nothing); // the loop below throws it
  const stalled = () => call.cancel();
  let stall = setTimeout(stalled, stallMs);
  try {
    for await (const { offset, data } of call) {
      clearTimeout(stall);
      stall = setTimeout(stalled, stallMs);
      const fits = Number(offset) === part.received && data.byteLength > 0 && part.received + data.byteLength <= part.file.bytes;
      if (!fits) throw unfit("chunks do not fit what was listed");
      for (let done = 0; done < data.byteLength; )
        done += (await out.write(data, done, data.byteLength - done, part.received + done)).bytesWritten;
      part.hash.update(data);
      part.received += data.byteLength;
    }
  } finally {
    clearTimeout(stall);
    call.cancel();
  }
}

function nothing(): void {}
