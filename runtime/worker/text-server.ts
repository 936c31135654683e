// TextFiles: the tokenizer and template files for gateways; hashed once at start, read per call.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { hashedFile, listed, readHandler } from "../net/file-stream.ts";
import type { Sender, TextFiles } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Caller } from "../net/grpc.ts";
import { fromSender } from "../net/mapping.ts";
import type { HandlersOf } from "../net/service.ts";
import { sizeFault, type TextFile, textDigest, textFileNames } from "../net/text-files.ts";
import type { PeerIdentity } from "../net/tls.ts";

const operation = "serving text files";

export interface TextFolder {
  readonly dir: string;
  readonly files: readonly TextFile[];
  readonly digest: string;
}

/** Throws `BadModel` for files that no gateway would accept. */
export async function openTextFolder(dir: string): Promise<TextFolder> {
  const files: TextFile[] = [];
  for (const name of textFileNames) {
    const info = await stat(join(dir, name)).catch(() => undefined);
    if (info?.isFile()) files.push(await hashedFile(dir, name));
  }
  const fault = sizeFault(files);
  if (fault !== undefined) throw new AppError(`${dir}: ${fault}; import the model again`, { code: "BadModel", operation });
  return { dir, files, digest: textDigest(files) };
}

interface TextServerOptions {
  readonly folder: TextFolder;
  readonly deploymentUid: string;
  readonly caller: (call: Caller) => PeerIdentity;
}

export function createTextServer(options: TextServerOptions): HandlersOf<typeof TextFiles> {
  const { folder } = options;
  return {
    list: async ({ sender }, call) => {
      fromGateway(call, sender, options);
      return { digest: folder.digest, files: folder.files.map((file) => ({ ...file, bytes: BigInt(file.bytes) })) };
    },
    read: readHandler(operation, (call) => {
      const { sender, name } = call.request;
      fromGateway(call, sender, options);
      return { dir: folder.dir, file: listed(folder.files, name, operation), offset: 0 };
    }),
  };
}

function fromGateway(call: Caller, sender: Sender | undefined, { caller, deploymentUid }: TextServerOptions): void {
  const { role } = caller(call);
  if (role !== "gateway") throw new AppError(`a ${role} may not call this`, { code: "Forbidden", operation });
  if (fromSender(sender).deploymentUid !== deploymentUid)
    throw new AppError("sender.deployment_uid: another deployment", { code: "Forbidden", operation });
}
