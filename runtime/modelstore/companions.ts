// Finds the files beside a model folder's weights.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { kindOf } from "../weights/file.ts";
import { companions } from "../weights/model-folder.ts";

export type Log = (line: string) => void;

/** Name to path; throws when a required file is missing or the tokenizer does not fit the model. */
export async function companionFiles(dir: string): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const [name, required] of Object.entries(companions)) {
    const path = join(dir, name);
    const info = await stat(path).catch(() => undefined);
    if (info?.isFile()) found.set(name, path);
    else if (info)
      throw new AppError(`${path}: is ${kindOf(info)}, not a regular file; put the file itself there`, { code: "ModelNotFound" });
    else if (required) {
      throw new AppError(`${dir}: has no ${name}; serving text needs one (export it with the model's "save_pretrained")`, {
        code: "ModelNotFound",
      });
    }
  }
  await loadTokenizer(dir);
  return found;
}
