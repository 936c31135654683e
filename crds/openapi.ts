// Converts zod to a structural OpenAPI v3 schema; throws with the field path on anything that is not structural.
import { z } from "zod";
import { AppError } from "./common.ts";

export const rules = (...list: { rule: string; message: string; fieldPath?: string }[]) => ({ "x-kubernetes-validations": list });

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = { [key: string]: Json };

const copied = new Set(
  "type default description enum format maximum minimum maxLength minLength maxItems minItems maxProperties minProperties pattern required nullable".split(
    " ",
  ),
);
const dropped = new Set(["$schema", "propertyNames", "properties", "items", "additionalProperties", "anyOf", "const"]);
const safeInteger = Number.MAX_SAFE_INTEGER;
const int32 = { min: -2_147_483_648, max: 2_147_483_647 };

/** One zod object becomes the schema of `openAPIV3Schema.properties.<field>`. */
export function structuralSchema(schema: z.ZodType, path: string): JsonObject {
  return convert(z.toJSONSchema(schema, { io: "input", reused: "inline", unrepresentable: "throw" }) as JsonObject, path);
}

function convert(source: JsonObject, path: string): JsonObject {
  const out: JsonObject = {};
  for (const [key, value] of Object.entries(source)) {
    if (copied.has(key) || key.startsWith("x-kubernetes-")) out[key] = value;
    else if (!dropped.has(key)) throw unsupported(path, key);
  }
  if (source.const !== undefined) out.enum = [source.const];
  if (source.format === "date-time") delete out.pattern; // the API server checks the format itself
  if (source.anyOf !== undefined) intOrString(source, out, path);
  if (out.type === "integer") integer(source, out);
  if (source.properties !== undefined) properties(source, out, path);
  if (source.additionalProperties !== undefined) additional(source, out, path);
  if (source.items !== undefined) items(source, out, path);
  if (out.type === undefined && out["x-kubernetes-int-or-string"] !== true) throw unsupported(path, "a schema without a type");
  return out;
}

/** Structural schemas allow a union only as x-kubernetes-int-or-string; the meta holds the bounds of its string form. */
function intOrString(source: JsonObject, out: JsonObject, path: string): void {
  if (source["x-kubernetes-int-or-string"] !== true)
    throw unsupported(path, "a union (use an enum with sibling objects, or int-or-string)");
  const types = (source.anyOf as JsonObject[]).map((branch) => branch.type);
  if (types.length !== 2 || types[0] !== "integer" || types[1] !== "string") throw unsupported(path, "int-or-string over other types");
  out.anyOf = [{ type: "integer" }, { type: "string" }];
}

/** Drops the implicit bounds of z.int() and z.int32(), which tell a reader nothing. */
function integer(source: JsonObject, out: JsonObject): void {
  const wide = [source.minimum, source.maximum].some((bound) => typeof bound === "number" && Math.abs(bound) > int32.max + 1);
  out.format = wide ? "int64" : "int32";
  if (source.minimum === -safeInteger || source.minimum === int32.min) delete out.minimum;
  if (source.maximum === safeInteger || source.maximum === int32.max) delete out.maximum;
}

function properties(source: JsonObject, out: JsonObject, path: string): void {
  const children = source.properties as { [key: string]: JsonObject };
  out.properties = Object.fromEntries(Object.entries(children).map(([name, child]) => [name, convert(child, `${path}.${name}`)]));
  if (Array.isArray(out.required) && out.required.length === 0) delete out.required;
}

function additional(source: JsonObject, out: JsonObject, path: string): void {
  const value = source.additionalProperties;
  if (value === false) return; // pruning does that
  const empty = typeof value === "object" && value !== null && Object.keys(value).length === 0;
  if (empty) out["x-kubernetes-preserve-unknown-fields"] = true;
  else if (source.properties !== undefined) throw unsupported(path, "additionalProperties beside properties");
  else out.additionalProperties = convert(value as JsonObject, `${path}.*`);
}

function items(source: JsonObject, out: JsonObject, path: string): void {
  if (Array.isArray(source.items)) throw unsupported(path, "a tuple");
  if (source.maxItems === undefined) throw unsupported(path, "a list without maxItems (CEL needs the bound)");
  out.items = convert(source.items as JsonObject, `${path}[]`);
}

function unsupported(path: string, what: string): AppError {
  return new AppError(`${path}: ${what} is not structural`, { code: "NotStructural", operation: "generating a CRD" });
}
