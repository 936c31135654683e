// StoreFiles: serves whole store files to ranks; hashes are computed once at the start.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { hashedFile, listed, readHandler } from "../../net/file-stream.ts";
import type { StoreFiles } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Caller } from "../../net/grpc.ts";
import type { HandlersOf } from "../../net/service.ts";
import { type StoreList, storeFault, storeFileNames } from "../../net/store-files.ts";
import type { TextFile } from "../../net/text-files.ts";

const operation = "serving the files of a store";

export interface FileServerOptions extends StoreList {
  readonly dir: string;
  readonly codec: CodecName;
  /** Throws AppError for callers that are not ranks of this deployment. */
  readonly authorize: (call: Caller, deploymentUid: string | undefined) => void;
  readonly onServed: (bytes: number) => void;
}

/** Sorted by name. Throws `BadModel` for one that no rank would take. */
export async function listStoreFiles(dir: string): Promise<readonly TextFile[]> {
  const files: TextFile[] = [];
  for (const name of storeFileNames) {
    const info = await stat(join(dir, name)).catch(() => undefined);
    if (info?.isFile()) files.push(await hashedFile(dir, name));
  }
  const fault = storeFault(files);
  if (fault !== undefined) throw new AppError(`${dir}: ${fault}; import the model again`, { code: "BadModel", operation });
  return files;
}

export function createFileServer(options: FileServerOptions): HandlersOf<typeof StoreFiles> {
  const { dir, modelDigest, files, codec, authorize, onServed } = options;
  return {
    list: async ({ sender, codec: requested }, call) => {
      authorize(call, sender?.deploymentUid);
      if (requested !== codec)
        throw new AppError(`codec: ${requested.slice(0, 32)}, this weight server has ${codec}`, {
          code: "InvalidRequest",
          operation,
          retry: "backoff",
        });
      return { modelDigest, files: files.map((file) => ({ ...file, bytes: BigInt(file.bytes) })) };
    },
    read: readHandler(operation, (call) => {
      const { sender, name, offset: from } = call.request;
      authorize(call, sender?.deploymentUid);
      const file = listed(files, name, operation);
      const offset = Number(from);
      if (offset > file.bytes)
        throw new AppError(`offset: ${offset}, ${name} has ${file.bytes} bytes`, { code: "InvalidRequest", operation });
      return { dir, file, offset, onSent: onServed };
    }),
  };
}
