// The fields `response_format` and `structured_outputs` and their constraint; they refuse what a worker would.
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

function refused(message: string, context: z.core.ParsePayload, path: PropertyKey[]): never {
  context.issues.push({ code: "custom", message, path, input: undefined });
  return z.NEVER;
}

/** Reports problems of the schema as issues. */
function jsonSchemaOf(schema: object, context: z.core.ParsePayload, path: PropertyKey[] = ["schema"]): Constraint {
  const spec = textOf(schema);
  if (spec === undefined) return refused("has too many schemas or values inside each other; use $ref", context, path);
  return checked({ name: "json_schema", spec }, context, path);
}

function checked(constraint: Constraint, context: z.core.ParsePayload, path: PropertyKey[]): Constraint {
  try {
    languageOf(constraint);
  } catch (caught) {
    return refused(AppError.from(caught).message, context, path);
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

const oneOfThem = "say one of json, json_object, regex and choice";
const notBuilt = z.never(`is not implemented; ${oneOfThem}`).optional();

/** vLLM's field, of the languages that there are. */
export const structuredOutputs = z
  .strictObject({
    json: z.record(z.string(), z.unknown(), "must be a JSON Schema").optional(),
    json_object: z.literal(true, oneOfThem).optional(),
    regex: z.string("must be an expression").optional(),
    choice: z.array(z.unknown(), "must be a list of texts").optional(),
    grammar: notBuilt,
    structural_tag: notBuilt,
  })
  .refine((said) => Object.keys(said).length === 1, oneOfThem)
  .transform(({ json, regex, choice }, context): Constraint => {
    if (json !== undefined) return jsonSchemaOf(json, context, ["json"]);
    if (regex !== undefined) return checked({ name: "regex", spec: regex }, context, ["regex"]);
    if (choice !== undefined) return checked({ name: "choice", spec: JSON.stringify(choice) }, context, ["choice"]);
    return { name: "json_object", spec: "" };
  });

function plainFormat({ type }: { readonly type: "text" | "json_object" }): Constraint | undefined {
  return type === "text" ? undefined : { name: type, spec: "" };
}
