// The number of tokens that the model itself allows, from its config.json: the gateway must not promise more than workers accept.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";

const configSchema = z.looseObject({ max_position_embeddings: z.number().int().min(1).optional() });

/** Infinity when the config names no limit. Throws `BadModel` on a broken config.json. */
export async function modelContext(dir: string): Promise<number> {
  const path = join(dir, "config.json");
  try {
    return configSchema.parse(JSON.parse(await readFile(path, "utf8"))).max_position_embeddings ?? Number.POSITIVE_INFINITY;
  } catch (cause) {
    const why = cause instanceof z.ZodError ? z.prettifyError(cause) : cause instanceof Error ? cause.message : String(cause);
    throw new AppError(`${path}: ${why}; import the model again`, { code: "BadModel", operation: "reading the model's limits", cause });
  }
}
