// The field `response_format` of a chat: the language that an answer is held to. What a worker would refuse of it is refused here, before
// anything is computed. Pure.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { formatNames } from "../../../crds/names.ts";
import { languageOf } from "../../constraints/index.ts";
import type { Constraint } from "../../constraints/language.ts";

export const only = `only ${["text", ...formatNames].join(", ")} are implemented`;

export const jsonSchemaFields = {
  name: z.string("must be a name").regex(/^[a-zA-Z0-9_-]{1,64}$/, "must have 1 to 64 letters, digits, _ or -"),
  description: z.string().max(65_536).nullish(),
  schema: z.record(z.string(), z.unknown(), "must be a JSON Schema").nullish(),
  /** Accepted without effect: an answer is held to the schema either way. */
  strict: z.boolean("must be true or false").nullish(),
};

/** The language of a schema; what is wrong with it becomes an issue. */
export function jsonSchemaOf(schema: object, context: z.core.ParsePayload): Constraint {
  const refused = (message: string): never => {
    context.issues.push({ code: "custom", message, path: ["schema"], input: undefined });
    return z.NEVER;
  };
  const spec = textOf(schema);
  if (spec === undefined) return refused("has too many schemas or values inside each other; use $ref");
  const constraint = { name: "json_schema", spec } as const;
  try {
    languageOf(constraint);
  } catch (caught) {
    return refused(AppError.from(caught).message);
  }
  return constraint;
}

const schemaFormat = z.strictObject(jsonSchemaFields).transform(({ schema }, context) => jsonSchemaOf(schema ?? {}, context));

/** Undefined for what is too deep to be written, although it could be read. */
function textOf(schema: object): string | undefined {
  try {
    return JSON.stringify(schema);
  } catch (caught) {
    if (caught instanceof RangeError) return undefined;
    throw caught;
  }
}

/** Undefined where any text will do. */
export const responseFormat = z
  .discriminatedUnion(
    "type",
    [
      z.strictObject({ type: z.literal("text") }),
      z.strictObject({ type: z.literal("json_object") }),
      z.strictObject({ type: z.literal("json_schema"), json_schema: schemaFormat }),
    ],
    only,
  )
  .transform((format): Constraint | undefined => {
    if ("json_schema" in format) return format.json_schema;
    return format.type === "text" ? undefined : { name: format.type, spec: "" };
  });
