// Recognises and writes the folders of `enodia model`, whole or not at all (../modelstore/DECISIONS.md 2). It removes only files whose
// names this product writes.
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
  readonly dir: string;
  /** Allows to replace a store or dense folder; otherwise nothing may be at the target. */
  readonly overwrite: boolean;
  /** The target may not be, contain or lie in one of these. */
  readonly sources: readonly string[];
}

/** File name -> whether serving text needs it. */
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

/** Accepts any version, so that a newer product replaces an older one's folder. */
const anyIndexSchema = z.looseObject({ version: z.number(), modelDigest: z.string().regex(/^[0-9a-f]{64}$/) });

/** Returns why this is no folder of ours; undefined when it is. */
async function strangeness(folder: string): Promise<string | undefined> {
  const entries = await readdir(folder, { withFileTypes: true });
  const isStore = entries.some(({ name }) => name === indexFile);
  const names = isStore ? storeNames : denseNames;
  const other = entries.find((entry) => !entry.isFile() || !names.has(entry.name));
  if (other !== undefined) return `it holds "${other.name}", which no ${isStore ? "model store" : "dense folder"} has`;
  return isStore ? strangeIndex(join(folder, indexFile)) : strangeWeights(join(folder, denseWeightsName));
}

/** Rethrows transient errors, which do not show that a file is foreign. */
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

async function real(path: string): Promise<string> {
  const found = await realpath(path).catch(() => undefined);
  if (found !== undefined) return found;
  const parent = dirname(path);
  return parent === path ? path : join(await real(parent), basename(path));
}

/** Compares device and inode, because of bind mounts and letter case. */
async function contains(outer: string, inner: string): Promise<boolean> {
  const outerInfo = await stat(outer).catch(() => undefined);
  if (!outerInfo) return false;
  for (let path = inner; ; path = dirname(path)) {
    const info = await stat(path).catch(() => undefined);
    if (info && sameFile(info, outerInfo)) return true;
    if (dirname(path) === path) return false;
  }
}

/** Includes targets of links, as in a hub's cache. */
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

async function replaceable(target: string, overwrite: boolean): Promise<readonly string[] | undefined> {
  const info = await lstat(target).catch((cause: unknown) => {
    if (retryOf(cause) !== "never") throw cause;
  });
  if (!info) return undefined;
  if (!overwrite)
    throw new AppError(`${target}: exists already; pass --overwrite to replace it, or name another folder`, { code: "AlreadyExists" });
  const strange = info.isDirectory() ? await strangeness(target) : `it is ${info.isFile() ? "a file" : kindOf(info)}`;
  if (strange === undefined) return readdir(target);
  throw new AppError(
    `${target}: --overwrite replaces only model stores and dense folders that enodia made, and this is none: ${strange}; ` +
      "name another folder, or move this one away yourself",
    { code: "NotReplaceable", operation: "checking --out" },
  );
}

/** Throws AlreadyExists, NotReplaceable or BadOption (overlap). `writeFolder` checks again. */
export async function checkTarget({ dir, overwrite, sources }: FolderTarget): Promise<void> {
  const target = resolve(dir);
  await refuseSources(target, sources);
  await replaceable(target, overwrite);
}

/** Fills a temporary folder and moves it to the target. */
export async function writeFolder(options: FolderTarget, fill: (work: string) => Promise<void>): Promise<void> {
  const target = resolve(options.dir);
  await checkTarget(options);
  const parent = dirname(target);
  await mkdir(parent, { recursive: true });
  // Names the host, since hosts may share the file system and process ids.
  const unfinished = join(parent, `.${basename(target)}.tmp-${hostname()}-`);
  await clearLeftovers(unfinished, "");
  const work = `${unfinished}${process.pid}`;
  await mkdir(work);
  try {
    await fill(work);
    await moveInto(target, work, options.overwrite);
  } catch (caught) {
    await rm(work, { recursive: true, force: true });
    throw caught;
  }
  await clearLeftovers(unfinished, asideEnding);
}

const asideEnding = ".old";

/** Moves the old folder aside first and removes it last, so that a whole one always exists. */
async function moveInto(target: string, work: string, overwrite: boolean): Promise<void> {
  const old = await replaceable(target, overwrite); // the first check may be hours old
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

/** Removes folders of ended processes of this host, or of an earlier one with this id. */
async function clearLeftovers(unfinished: string, ending: string): Promise<void> {
  const [parent, prefix] = [dirname(unfinished), basename(unfinished)];
  for (const name of await readdir(parent)) {
    if (!name.startsWith(prefix) || !name.endsWith(ending)) continue;
    const owner = name.slice(prefix.length, name.length - ending.length);
    if (/^\d+$/.test(owner) && (Number(owner) === process.pid || !alive(Number(owner)))) await removeFolder(join(parent, name));
  }
}

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
