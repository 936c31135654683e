// The constraint `json_schema`, compiled by schema/compile.ts and walked by schema/walk.ts.
import type { Language } from "./language.ts";
import { compileSchema } from "./schema/compile.ts";
import { SchemaLanguage } from "./schema/walk.ts";

/** Throws AppError `InvalidRequest`, which names the place in the schema. */
export function jsonSchema(schema: string): Language {
  return new SchemaLanguage(compileSchema(schema));
}
