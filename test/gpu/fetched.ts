// Fetching into the user's cache, for tests: a folder is there whole or not at all. One that could not be fetched is not tried again for a
// day, since a machine without a network would wait for it in every run, unless somebody asks for it.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { RunOptions } from "../cluster/exec.ts";

const hourMs = 3_600_000;
const againAfterMs = 24 * hourMs;
/** Far longer than fetching may take: a folder that is older belongs to a process that was killed. */
const leftAfterMs = hourMs;
const unfinished = "new-";

export interface Asked {
  readonly log: (line: string) => void;
  /** For all that is fetched. */
  readonly timeoutMs: number;
  /** Tries although it failed within a day. */
  readonly again: boolean;
}

/** Of one call of `fetch`: what programs may take until all has to be there. */
export type Within = (cwd: string) => Pick<RunOptions, "cwd" | "timeoutMs">;

/** The time that is left of what is asked for, from now on. */
export function within({ timeoutMs }: Asked): Within {
  const endsAt = performance.now() + timeoutMs;
  return (cwd) => {
    const leftMs = Math.floor(endsAt - performance.now());
    if (leftMs <= 0) throw new Error(`it did not come within ${timeoutMs / 1000} s`);
    return { cwd, timeoutMs: leftMs };
  };
}

/** `fill` makes the folder's content in a folder below the one that it is given, and answers its name. */
export async function fetched(folder: string, asked: Pick<Asked, "again">, fill: (own: string) => Promise<string>): Promise<void> {
  if (existsSync(folder)) return;
  const root = dirname(folder);
  const failed = `${folder}.failed`;
  mkdirSync(root, { recursive: true });
  for (const name of readdirSync(root)) if (name.startsWith(unfinished)) dropOld(join(root, name), leftAfterMs);
  dropOld(failed, asked.again ? 0 : againAfterMs);
  if (existsSync(failed)) throw new Error(`${readFileSync(failed, "utf8")} (tried within a day: rm ${failed} to try again)`);
  const own = mkdtempSync(join(root, unfinished));
  try {
    const made = join(own, await fill(own));
    if (!existsSync(folder)) renameSync(made, folder);
  } catch (caught) {
    writeFileSync(failed, (caught as Error).message.split("\n")[0] as string);
    throw caught;
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
}

function dropOld(path: string, ageMs: number): void {
  const since = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
  if (since !== undefined && Date.now() - since >= ageMs) rmSync(path, { recursive: true, force: true });
}
