// The chat field `response_format` and its constraint; it refuses what a worker would.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { formatNames } from "../../../crds/names.ts";
import { languageOf } from "../../constraints/index.ts";
import type { Constraint } from "../../constraints/language.ts";

const only = `only ${["text", ...formatNames].join(", ")} are implemented`;

const jsonSchemaFields = {
  name: z.string("must be a name").regex(/^[a-zA-Z0-9_-]{1,64}$/, "must have 1 to 64 letters, digits, _ or -"),
  description: z.string().max(65_536).nullish(),
  schema: z.record(z.string(), z.unknown(), "must be a JSON Schema").nullish(),
  /** Accepted without effect: the schema always applies. */
  strict: z.boolean("must be true or false").nullish(),
};

/** Reports problems of the schema as issues. */
function jsonSchemaOf(schema: object, context: z.core.ParsePayload, path: PropertyKey[] = ["schema"]): Constraint {
  const refused = (message: string): never => {
    context.issues.push({ code: "custom", message, path, input: undefined });
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

/** Undefined for a value that nests too deeply to serialise. */
function textOf(schema: object): string | undefined {
  try {
    return JSON.stringify(schema);
  } catch (caught) {
    if (caught instanceof RangeError) return undefined;
    throw caught;
  }
}

const plainFormats = [z.strictObject({ type: z.literal("text") }), z.strictObject({ type: z.literal("json_object") })] as const;

/** Undefined for free text. */
export const responseFormat = z
  .discriminatedUnion("type", [...plainFormats, z.strictObject({ type: z.literal("json_schema"), json_schema: schemaFormat })], only)
  .transform((format): Constraint | undefined => ("json_schema" in format ? format.json_schema : plainFormat(format)));

/** The form of /v1/responses. */
export const flatFormat = z
  .discriminatedUnion("type", [...plainFormats, z.strictObject({ type: z.literal("json_schema"), ...jsonSchemaFields })], only)
  .transform((format, context) => (format.type === "json_schema" ? jsonSchemaOf(format.schema ?? {}, context) : plainFormat(format)));

const why = "only json and json_object are implemented";

/** vLLM's field, of the languages that there are. */
export const structuredOutputs = z
  .strictObject({
    json: z.record(z.string(), z.unknown(), "must be a JSON Schema").optional(),
    json_object: z.literal(true, why).optional(),
  })
  .refine(({ json, json_object }) => (json === undefined) !== (json_object === undefined), why)
  .transform(({ json }, context) => (json === undefined ? plainFormat({ type: "json_object" }) : jsonSchemaOf(json, context, ["json"])));

function plainFormat({ type }: { readonly type: "text" | "json_object" }): Constraint | undefined {
  return type === "text" ? undefined : { name: type, spec: "" };
}
