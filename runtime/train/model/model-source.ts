// The model to train without its weights: config.json, tokenizer and other files of a model store or a folder.
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
  readonly files: ReadonlyMap<string, string>;
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
