// The folders that `enodia model` writes: recognised, and written whole or not at all. It removes only files of names that this product
// writes.
import type { Stats } from "node:fs";
import { lstat, mkdir, readdir, realpath, rename, rm, rmdir, stat, unlink } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { codecNames } from "../../crds/names.ts";
import { kindOf, retryOf } from "./file.ts";
import { openSafetensors } from "./safetensors.ts";
import { isOurs } from "./safetensors-writer.ts";
import { indexFile, readJson } from "./store-reader.ts";

export interface FolderTarget {
  /** The folder to write. */
  readonly dir: string;
  /** True to replace a store or dense folder that is there; else whatever is there is an error. */
  readonly overwrite: boolean;
  /** Files and folders that the new one is made from: the target may not be, contain or lie in one. */
  readonly sources: readonly string[];
}

/** Files that travel beside the weights: name -> whether serving text needs it. */
export const companions: Readonly<Record<string, boolean>> = {
  "tokenizer.json": true,
  "tokenizer_config.json": false,
  "generation_config.json": false,
  "chat_template.jinja": false,
  "special_tokens_map.json": false,
};

const denseWeightsName = "model.safetensors";
const beside = ["config.json", ...Object.keys(companions)];
const storeNames = new Set([...beside, indexFile, "dense.safetensors", ...codecNames.map((codec) => `experts-${codec}.bin`)]);
const denseNames = new Set([...beside, denseWeightsName]);

/** Of any version, so that a newer product replaces what an older one wrote. */
const anyIndexSchema = z.looseObject({ version: z.number(), modelDigest: z.string().regex(/^[0-9a-f]{64}$/) });

/** Why this folder is no store and no dense folder of ours; undefined when it is one. */
async function strangeness(folder: string): Promise<string | undefined> {
  const entries = await readdir(folder, { withFileTypes: true });
  const isStore = entries.some(({ name }) => name === indexFile);
  const names = isStore ? storeNames : denseNames;
  const other = entries.find((entry) => !entry.isFile() || !names.has(entry.name));
  if (other !== undefined) return `it holds "${other.name}", which no ${isStore ? "model store" : "dense folder"} has`;
  return isStore ? strangeIndex(join(folder, indexFile)) : strangeWeights(join(folder, denseWeightsName));
}

/** A file that cannot be read just now is not a strange one: whoever asked tries again. */
function unlessPassing(caught: unknown): undefined {
  if (AppError.from(caught).retry !== "never") throw caught;
}

async function strangeIndex(path: string): Promise<string | undefined> {
  const json = await readJson(path, "BadModelIndex").catch(unlessPassing);
  return anyIndexSchema.safeParse(json).success ? undefined : `its ${indexFile} is not one that was written here`;
}

async function strangeWeights(path: string): Promise<string | undefined> {
  const none = `it has no ${indexFile} and no ${denseWeightsName} that was written here`;
  if (!(await lstat(path).catch(() => undefined))) return none;
  try {
    const file = await openSafetensors(path);
    await file.close();
    return isOurs(file.metadata) ? undefined : none;
  } catch (caught) {
    unlessPassing(caught);
    return none;
  }
}

const sameFile = (a: Stats, b: Stats): boolean => a.dev === b.dev && a.ino === b.ino;

/** The path without links as far as it exists, and what would lie below. */
async function real(path: string): Promise<string> {
  const found = await realpath(path).catch(() => undefined);
  if (found !== undefined) return found;
  const parent = dirname(path);
  return parent === path ? path : join(await real(parent), basename(path));
}

/** True when `inner` is `outer` or lies below it; by device and inode, so that bind mounts and letter case do not matter. */
async function contains(outer: string, inner: string): Promise<boolean> {
  const outerInfo = await stat(outer).catch(() => undefined);
  if (!outerInfo) return false;
  for (let path = inner; ; path = dirname(path)) {
    const info = await stat(path).catch(() => undefined);
    if (info && sameFile(info, outerInfo)) return true;
    if (dirname(path) === path) return false;
  }
}

/** Where a source's bytes lie: the path itself and, as in a hub's cache, the files that its links lead to. */
async function placesOf(source: string): Promise<readonly string[]> {
  const root = await real(resolve(source));
  const entries = await readdir(root, { withFileTypes: true }).catch(() => []);
  const links = entries.filter((entry) => entry.isSymbolicLink());
  return [root, ...(await Promise.all(links.map(({ name }) => real(join(root, name)))))];
}

async function refuseSources(target: string, sources: readonly string[]): Promise<void> {
  const place = await real(target);
  const refused = (how: string, source: string) =>
    new AppError(`${target}: ${how} the source ${source}, which is never written to; name another folder`, {
      code: "BadOption",
      operation: "checking --out",
    });
  for (const source of sources) {
    const places = await placesOf(source);
    if (await contains(places[0] as string, place)) throw refused((await contains(place, places[0] as string)) ? "is" : "lies in", source);
    for (const from of places) if (await contains(place, from)) throw refused("contains", source);
  }
}

/** What is at the target and may be replaced, by name; undefined when nothing is there. */
async function replaceable(target: string, overwrite: boolean): Promise<readonly string[] | undefined> {
  const info = await lstat(target).catch((cause: unknown) => {
    if (retryOf(cause) !== "never") throw cause;
  });
  if (!info) return undefined;
  if (!overwrite)
    throw new AppError(`${target}: exists already; pass --overwrite to replace it or --out for another folder`, { code: "AlreadyExists" });
  const strange = info.isDirectory() ? await strangeness(target) : `it is ${info.isFile() ? "a file" : kindOf(info)}`;
  if (strange === undefined) return readdir(target);
  throw new AppError(
    `${target}: --overwrite replaces only model stores and dense folders that enodia made, and this is none: ${strange}; ` +
      "name another folder, or move this one away yourself",
    { code: "NotReplaceable", operation: "checking --out" },
  );
}

/**
 * Throws when the target may not be written: AppError AlreadyExists, NotReplaceable (it is no folder of ours) or BadOption (it is, contains
 * or lies in a source). To be asked before long work begins; `writeFolder` asks again.
 */
export async function checkTarget({ dir, overwrite, sources }: FolderTarget): Promise<void> {
  const target = resolve(dir);
  await refuseSources(target, sources);
  await replaceable(target, overwrite);
}

/** Runs `fill` on a temporary folder and moves it to the target when it succeeds; removes it when it does not. */
export async function writeFolder(options: FolderTarget, fill: (work: string) => Promise<void>): Promise<void> {
  const target = resolve(options.dir);
  await checkTarget(options);
  const parent = dirname(target);
  await mkdir(parent, { recursive: true });
  // Names of this host, since a process number says nothing of another one that shares the file system.
  const unfinished = join(parent, `.${basename(target)}.tmp-${hostname()}-`);
  await clearLeftovers(unfinished, "");
  const work = `${unfinished}${process.pid}`;
  await mkdir(work);
  try {
    await fill(work);
    await moveInto(target, work, options.overwrite);
  } catch (caught) {
    await rm(work, { recursive: true, force: true }); // made above, by this process
    throw caught;
  }
  await clearLeftovers(unfinished, asideEnding);
}

const asideEnding = ".old";

/** The old folder is moved aside and removed last, so that there is always a whole one. */
async function moveInto(target: string, work: string, overwrite: boolean): Promise<void> {
  const old = await replaceable(target, overwrite); // hours may have passed since it was looked at
  if (old === undefined) return rename(work, target);
  const aside = `${work}${asideEnding}`;
  await rename(target, aside);
  try {
    await rename(work, target);
  } catch (caught) {
    await rename(aside, target);
    throw caught;
  }
  await removeFolder(aside);
}

/** Removes what processes of this host left that ended, or an earlier one of this number. */
async function clearLeftovers(unfinished: string, ending: string): Promise<void> {
  const [parent, prefix] = [dirname(unfinished), basename(unfinished)];
  for (const name of await readdir(parent)) {
    if (!name.startsWith(prefix) || !name.endsWith(ending)) continue;
    const owner = name.slice(prefix.length, name.length - ending.length);
    if (/^\d+$/.test(owner) && (Number(owner) === process.pid || !alive(Number(owner)))) await removeFolder(join(parent, name));
  }
}

/** Removes the files that this product writes into a folder, and the folder unless something else is in it. */
async function removeFolder(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isFile() && (storeNames.has(entry.name) || denseNames.has(entry.name))) await unlink(join(folder, entry.name));
  }
  await rmdir(folder).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== "ENOTEMPTY") throw cause;
  });
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM";
  }
}
