// The constraint `json_schema`: the text is JSON of a value that a JSON Schema takes. Which schemas are taken stands in schema/compile.ts,
// the language of one in schema/walk.ts.
import type { Language } from "./language.ts";
import { compileSchema } from "./schema/compile.ts";
import { SchemaLanguage } from "./schema/walk.ts";

/** Throws AppError `InvalidRequest` that names the place in the schema. */
export function jsonSchema(schema: string): Language {
  return new SchemaLanguage(compileSchema(schema));
}
