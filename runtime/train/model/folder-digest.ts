// Caches the digest of a folder's weights while its files are unchanged, since every world asks for it.
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";

const foldersMax = 4;

const kept = new Map<string, { readonly files: string; readonly digest: string }>();

/** Weights lie in the folder itself; subfolders may change during a run. */
const ofWeights = /\.(safetensors|json)$/;

async function filesOf(dir: string): Promise<string> {
  const names = (await readdir(dir)).filter((name) => ofWeights.test(name)).toSorted();
  const facts = await Promise.all(
    names.map(async (name) => {
      const found = await stat(join(dir, name), { bigint: true }).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code === "ENOENT") return undefined; // Deleted since it was listed, or a broken link.
        throw cause;
      });
      return [name, found?.ino, found?.size, found?.mtimeNs, found?.ctimeNs].join(" ");
    }),
  );
  return facts.join("\n");
}

/** The cached result of `compute`, or a new one if files changed. */
export async function digestOfFolder(dir: string, compute: () => Promise<string>): Promise<string> {
  const files = await filesOf(dir);
  const known = kept.get(dir);
  if (known?.files === files) return known.digest;
  const digest = await compute();
  kept.delete(dir);
  if ((await filesOf(dir)) === files) kept.set(dir, { files, digest });
  const [oldest] = kept.keys();
  if (kept.size > foldersMax && oldest !== undefined) kept.delete(oldest);
  return digest;
}
