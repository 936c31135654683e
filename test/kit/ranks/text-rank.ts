// A rank that serves text files over real gRPC with mutual TLS, by production's server or by one that a test plays in its place.
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openTextFolder, textSources } from "../../../runtime/net/file-reads.ts";
import { callerOf, createServer } from "../../../runtime/net/grpc.ts";
import type { Member } from "../../../runtime/net/mapping.ts";
import { ReadHost, type ReadSources } from "../../../runtime/net/read-host.ts";
import type { TestCa } from "../network/certs.ts";

export const ns = "default";
export const name = "mix";
export const deploymentUid = "uid";

/** Ways in which it is not as it should be. */
export interface TextRankFaults {
  /** It is of a release that knows no such calls, and says nothing of them. */
  readonly former?: boolean;
  /** Answers reads in place of production's server. */
  readonly read?: ReadSources["file"];
  /** The files are others since it started. */
  readonly changed?: boolean;
  /** The digest that the membership names for it in place of its own. */
  readonly says?: string;
}

interface TextRankOptions extends TextRankFaults {
  readonly ca: TestCa;
  readonly rank: number;
  /** The store. */
  readonly dir: string;
}

export interface TextRank {
  readonly member: Member;
  close(): Promise<void>;
}

export async function textRank({ ca, rank, dir, former = false, read, changed = false, says }: TextRankOptions): Promise<TextRank> {
  const own = changed ? await mkdtemp(join(tmpdir(), "enodia-text-rank-")) : dir;
  if (changed) await cp(dir, own, { recursive: true });
  const folder = await openTextFolder(own);
  if (changed)
    await writeFile(join(own, "config.json"), Buffer.alloc(folder.files.find((file) => file.name === "config.json")?.bytes ?? 0));
  const podName = `${name}-${rank}-abcde`;
  const server = createServer(ca.issue(`rank-${rank}`, ns, name, podName));
  const sources = textSources(folder, (call) => callerOf(call, ns, name));
  if (!former) server.addReads(new ReadHost({ ...sources, ...(read ? { file: read } : {}) }), deploymentUid, () => {});
  const address = `127.0.0.1:${await server.listen("127.0.0.1", 0)}`;
  const told = former ? {} : { textDigest: says ?? folder.digest };
  return {
    member: { rank, podName, podUid: `uid-${rank}`, bootId: `boot-${rank}`, address, state: "active", ...told },
    close: async () => {
      await server.close(0);
      if (changed) await rm(own, { recursive: true, force: true });
    },
  };
}
