// The registry of constraints.
import { AppError } from "../../crds/common.ts";
import type { ConstraintName } from "../../crds/names.ts";
import { jsonObject } from "./json-object.ts";
import type { Constraint, Language } from "./language.ts";
import { compileSchema } from "./schema/compile.ts";
import { SchemaLanguage } from "./schema/walk.ts";
import { choice, regex } from "./text.ts";
import { toolCalls } from "./tool-calls.ts";

/** Throws AppError `InvalidRequest`, which names the place in the schema. */
export function jsonSchema(schema: string): Language {
  return new SchemaLanguage(compileSchema(schema));
}

/** Each throws AppError `InvalidRequest` for an unsupported spec. */
const constraints = {
  json_object: (spec) => {
    if (spec !== "") throw new AppError("json_object has no settings; leave them out", { code: "InvalidRequest" });
    return jsonObject;
  },
  json_schema: jsonSchema,
  regex,
  choice,
  tool_calls: toolCalls,
} as const satisfies Readonly<Record<ConstraintName, (spec: string) => Language>>;

export function languageOf({ name, spec }: Constraint): Language {
  if (Object.hasOwn(constraints, name)) return constraints[name](spec);
  throw new AppError(`${name} is not one of ${Object.keys(constraints).join(", ")}`, { code: "InvalidRequest" });
}
