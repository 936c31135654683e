// The digest of a folder's weights, kept by a process for as long as the folder's files are the same: each world that begins asks for it,
// and to read a large model whole each time would be a long pause.
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";

/** Folders whose digests are kept; a run has one model, or two stages of it. */
const foldersMax = 4;

const kept = new Map<string, { readonly files: string; readonly digest: string }>();

/** Files that weights lie in, all of them in the folder itself. A run may write its own output into a folder in it meanwhile. */
const ofWeights = /\.(safetensors|json)$/;

/** Names, sizes, times of change and inodes of the files: one that was written anew has others. */
async function filesOf(dir: string): Promise<string> {
  const names = (await readdir(dir)).filter((name) => ofWeights.test(name)).toSorted();
  const facts = await Promise.all(
    names.map(async (name) => {
      const found = await stat(join(dir, name), { bigint: true }).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code === "ENOENT") return undefined; // gone since it was listed, or a link to nothing
        throw cause;
      });
      return [name, found?.ino, found?.size, found?.mtimeNs, found?.ctimeNs].join(" ");
    }),
  );
  return facts.join("\n");
}

/** What `compute` gives, which reads the folder's files, or gave when they were the same. */
export async function digestOfFolder(dir: string, compute: () => Promise<string>): Promise<string> {
  const files = await filesOf(dir);
  const known = kept.get(dir);
  if (known?.files === files) return known.digest;
  const digest = await compute();
  kept.delete(dir);
  // One whose files changed meanwhile is not what was read.
  if ((await filesOf(dir)) === files) kept.set(dir, { files, digest });
  const [oldest] = kept.keys();
  if (kept.size > foldersMax && oldest !== undefined) kept.delete(oldest);
  return digest;
}
