// The model that is trained, but for its weights: config.json, tokenizer and the files beside, of a model store, a Hugging Face folder or
// a folder that has no more. Shell.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { checkProgram } from "../../kernels/check-program.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import type { ModelFamily } from "../../models/family.ts";
import { familyOf } from "../../models/index.ts";
import { companionFiles } from "../../modelstore/companions.ts";
import { readConfig } from "../../weights/store-reader.ts";

export interface ModelSource {
  readonly dir: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly family: ModelFamily;
  readonly program: ModelProgram;
  /** Files beside the weights: name to path. */
  readonly files: ReadonlyMap<string, string>;
  /** SHA-256 of tokenizer.json. */
  readonly tokenizerDigest: string;
}

export async function tokenizerDigest(dir: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(join(dir, "tokenizer.json")))
    .digest("hex");
}

export async function openSource(dir: string): Promise<ModelSource> {
  const config = (await readConfig(dir, "ModelNotFound")) as Readonly<Record<string, unknown>>;
  const family = familyOf(config);
  const program = family.program(config);
  checkProgram(program);
  const files = await companionFiles(dir);
  return { dir, config, family, program, files, tokenizerDigest: await tokenizerDigest(dir) };
}
