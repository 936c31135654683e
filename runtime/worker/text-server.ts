// The tokenizer and template files that gateways read; hashed once at start.
import { AppError } from "../../crds/common.ts";
import { textDigest, textFiles } from "../net/file-lists.ts";
import { type FileFolder, fileSources, hashFiles } from "../net/file-reads.ts";
import type { Caller } from "../net/grpc.ts";
import type { PeerIdentity } from "../net/tls.ts";

/** Throws `BadModel` for files that no gateway would accept. */
export async function openTextFolder(dir: string): Promise<FileFolder> {
  const files = await hashFiles(dir, textFiles);
  return { dir, files, digest: textDigest(files) };
}

export function textSources(folder: FileFolder, caller: (call: Caller) => PeerIdentity) {
  const authorize = (call: Caller) => {
    const { role } = caller(call);
    if (role !== "gateway") throw new AppError(`a ${role} may not call this`, { code: "Forbidden", operation: "serving text files" });
  };
  return fileSources({ folder, codec: "", authorize, onServed: () => {} });
}
