// TextFiles: tokenizer, chat template and the configs beside them, for gateways, which mount no model. Hashed once at the start, so that
// operator and gateways know whether ranks have the same; read from the store for each call, since they are large and seldom asked for.
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { drained } from "../wire/drained.ts";
import {
  type ReadTextRequest,
  type Sender,
  type TextChunk,
  TextChunkSchema,
  type TextFiles,
} from "../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { type Caller, type ServerWritable, toStatus } from "../wire/grpc.ts";
import { fromSender } from "../wire/mapping.ts";
import { create, type HandlersOf } from "../wire/service.ts";
import { sizeFault, type TextFile, textChunkBytesMax, textDigest, textFileNames } from "../wire/text-files.ts";
import type { PeerIdentity } from "../wire/tls.ts";

/** Files sent at once; a gateway that finds them taken asks another rank, or later. */
const readsMax = 8;
const operation = "serving text files";

export interface TextFolder {
  readonly dir: string;
  readonly files: readonly TextFile[];
  readonly digest: string;
}

/** The text files of a store. Throws `BadModel` for one that no gateway would take. */
export async function openTextFolder(dir: string): Promise<TextFolder> {
  const files: TextFile[] = [];
  for (const name of textFileNames) {
    const info = await stat(join(dir, name)).catch(() => undefined);
    if (info?.isFile()) files.push(await hashed(dir, name));
  }
  const fault = sizeFault(files);
  if (fault !== undefined) throw new AppError(`${dir}: ${fault}; import the model again`, { code: "BadModel", operation });
  return { dir, files, digest: textDigest(files) };
}

async function hashed(dir: string, name: string): Promise<TextFile> {
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const data of chunksOf(dir, name)) {
    hash.update(data);
    bytes += data.byteLength;
  }
  return { name, bytes, sha256: hash.digest("hex") };
}

const chunksOf = (dir: string, name: string): AsyncIterable<Buffer> =>
  createReadStream(join(dir, name), { highWaterMark: textChunkBytesMax });

interface TextServerOptions {
  readonly folder: TextFolder;
  readonly deploymentUid: string;
  readonly caller: (call: Caller) => PeerIdentity;
}

export function createTextServer(options: TextServerOptions): HandlersOf<typeof TextFiles> {
  const { folder } = options;
  let active = 0;
  return {
    list: async ({ sender }, call) => {
      fromGateway(call, sender, options);
      return { digest: folder.digest, files: folder.files.map((file) => ({ ...file, bytes: BigInt(file.bytes) })) };
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

async function send(call: ServerWritable<ReadTextRequest, TextChunk>, options: TextServerOptions): Promise<void> {
  const { sender, name } = call.request;
  fromGateway(call, sender, options);
  const { dir, files } = options.folder;
  const file = files.find((one) => one.name === name);
  if (file === undefined)
    throw new AppError(`name: ${JSON.stringify(name.slice(0, 64))} is not listed`, { code: "InvalidRequest", operation });
  let offset = 0;
  for await (const data of chunksOf(dir, file.name)) {
    if (call.cancelled) return;
    if (!call.write(create(TextChunkSchema, { offset: BigInt(offset), data }))) await drained(call);
    offset += data.byteLength;
  }
}

function fromGateway(call: Caller, sender: Sender | undefined, { caller, deploymentUid }: TextServerOptions): void {
  const { role } = caller(call);
  if (role !== "gateway") throw new AppError(`a ${role} may not call this`, { code: "Forbidden", operation });
  if (fromSender(sender).deploymentUid !== deploymentUid)
    throw new AppError("sender.deployment_uid: another deployment", { code: "Forbidden", operation });
}
