// The files of a model folder that travel beside the weights, and where they are. Shell; used by import, inspect and upcycle.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";

const requiredFiles = ["tokenizer.json"] as const;
const optionalFiles = ["tokenizer_config.json", "generation_config.json", "chat_template.jinja", "special_tokens_map.json"] as const;

export type Log = (line: string) => void;

/** Name to path of what is there; throws when a required one is not. */
export async function companionFiles(dir: string): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>();
  for (const name of [...requiredFiles, ...optionalFiles]) {
    const path = join(dir, name);
    const info = await stat(path).catch(() => undefined);
    if (info?.isFile()) found.set(name, path);
    else if ((requiredFiles as readonly string[]).includes(name)) {
      throw new AppError(`${dir}: has no ${name}; serving text needs one (export it with the model's "save_pretrained")`, {
        code: "ModelNotFound",
      });
    }
  }
  return found;
}
