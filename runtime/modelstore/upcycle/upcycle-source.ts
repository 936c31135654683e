// `enodia model upcycle <source>`: imports any dense source to a cached folder, then upcycles it.
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
  /** Credentials and endpoints of downloads, by source variable. */
  readonly secrets: Readonly<Partial<Record<SourceSecret, string | undefined>>>;
}

/** Undefined unless it is a folder in Hugging Face layout. */
async function architectureAt(dir: string): Promise<string | undefined> {
  if (!(await stat(join(dir, "config.json")).catch(() => undefined))) return undefined;
  return architectureIn(dir, await readConfig(dir, "ModelNotFound"));
}

async function denseFolder(options: UpcycleSourceOptions, log: Log): Promise<string> {
  const cached = join(options.cache, "models", `${sourceName(options.source)}-dense`);
  const remote = isRemote(options.source);
  // Checks a local folder before anything is written.
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
