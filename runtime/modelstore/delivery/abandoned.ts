// Removes abandoned work folders before the next download into their claim.
import { lstat, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { Log } from "../../observe/log.ts";

/** Names that only the operator makes. */
const workName = /^\.enodia-[0-9a-f]{16}$/;
/** A live download has written within this time, and a deployment that is missing in the list started within it. */
const idleMs = 24 * 3_600_000;
/** A larger folder is left alone. */
const entriesMax = 100_000;

/** `inUse`: folder names to keep at any age. Never throws: the download proceeds without the space. */
export async function removeAbandoned(claim: string, inUse: readonly string[], log: Pick<Log, "info" | "warn">): Promise<void> {
  try {
    const entries = await readdir(claim, { withFileTypes: true });
    const others = entries.filter((entry) => entry.isDirectory() && workName.test(entry.name) && !inUse.includes(entry.name));
    for (const { name } of others) {
      const folder = join(claim, name);
      const { newestMs, bytes } = await contentOf(folder);
      if (Date.now() - newestMs < idleMs) continue;
      await rm(folder, { recursive: true, force: true });
      log.info({ folder, bytes, lastWritten: new Date(newestMs).toISOString() }, "removed what a download left that no deployment has");
    }
  } catch (caught) {
    log.warn({ err: AppError.from(caught) }, "what former downloads left could not be removed");
  }
}

/** Latest change and size; links are not followed. */
async function contentOf(folder: string): Promise<{ readonly newestMs: number; readonly bytes: number }> {
  const below = await readdir(folder, { recursive: true, withFileTypes: true });
  if (below.length > entriesMax) return { newestMs: Number.POSITIVE_INFINITY, bytes: 0 };
  let newestMs = (await lstat(folder)).mtimeMs;
  let bytes = 0;
  for (const { parentPath, name } of below) {
    const info = await lstat(join(parentPath, name));
    newestMs = Math.max(newestMs, info.mtimeMs);
    if (info.isFile()) bytes += info.size;
  }
  return { newestMs, bytes };
}
