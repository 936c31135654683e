// The words that fuzzers write with: choices, texts that parsers get wrong, JSON of any kind, and values of an OpenAPI schema, most of
// which fit.
import type { Random } from "./mutate.ts";

export const chance = (random: Random, percent: number): boolean => random(100) < percent;
export const pick = <T>(random: Random, list: readonly T[]): T => list[random(list.length)] as T;
export const times = <T>(random: Random, most: number, make: (at: number) => T): T[] =>
  Array.from({ length: random(most + 1) }, (_, at) => make(at));

const pieces = [
  "a",
  "Z",
  "0",
  "-",
  "_",
  ".",
  "/",
  ":",
  " ",
  "\n",
  "\t",
  '"',
  "\\",
  "'",
  "{",
  "}",
  "[",
  "]",
  "<",
  ">",
  "%",
  "\u0000",
  "é",
  "😀",
  "\ud800",
];
const odd = [
  "__proto__",
  "constructor",
  "toString",
  "null",
  "NaN",
  "../..",
  "$(x)",
  "{{ x }}",
  "\u202e",
  "\ufeff",
  "a\r\nb",
  "1e999",
  "-0",
];

export function text(random: Random, most = 12): string {
  if (chance(random, 10)) return pick(random, odd);
  if (chance(random, 2)) return pick(random, pieces).repeat(random(3_000));
  return times(random, most, () => pick(random, pieces)).join("");
}

const numbers = [0, -0, 1, -1, 2, 0.5, 100, 255, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 53), 1e21, 1e308, -1e308, 5e-324];
export const number = (random: Random): number => (chance(random, 50) ? random(64) : pick(random, numbers));

/** JSON of any kind, no more than a few levels of it. */
export function json(random: Random, depth = 3): unknown {
  const kind = random(depth > 0 ? 7 : 5);
  if (kind === 0) return null;
  if (kind === 1) return chance(random, 50);
  if (kind === 2) return number(random);
  if (kind <= 4) return text(random);
  if (kind === 5) return times(random, 4, () => json(random, depth - 1));
  return Object.fromEntries(times(random, 4, () => [text(random, 4), json(random, depth - 1)]));
}

type Schema = Readonly<Record<string, unknown>>;

/** Texts that fields with a pattern are for; those that do not fit a field are wrong there, which is meant. */
const fitting = [
  ...[
    "5s",
    "0s",
    "1ms",
    "90s",
    "1m30s",
    "999999h",
    "Auto",
    "16",
    "0",
    "4096",
    "512Mi",
    "1.5Gi",
    "8G",
    "1Ti",
    "9999P",
    "25%",
    "100%",
    "0.5",
    "1e-8",
    "3e-4",
  ],
  ...["pvc://models/a", "pvc://models/a/b.c", "hf://org/name@main", "hf://a/b", "s3://bucket/prefix", "https://h.example/x.gguf"],
  ...["nats://nats:4222", "enodia", "models", "moe", "a", "runtime", "gateway", "enodia/runtime:1", "2026-03-01T10:00:00Z", "https://a.b"],
  ...["fedavg:100", "fedspeed:100:0.1:0.01", "switch:0.01", "mixlora:8:2:16", "dense-to-sparse:4:0.05:200", ""],
];

/** The keys of pods, which templates leave open. */
const podWords = [
  "containers",
  "name",
  "image",
  "env",
  "value",
  "resources",
  "limits",
  "memory",
  "labels",
  "annotations",
  "volumes",
  "runtime",
];

/** A value of a schema of a CRD; in one of some hundred places it is something else. */
export function fromSchema(random: Random, schema: Schema, depth = 0): unknown {
  if (random(400) === 0) return json(random, 2);
  if (schema["x-kubernetes-int-or-string"])
    return chance(random, 20) ? 1 + random(chance(random, 50) ? 9 : 2 ** 31) : string(random, schema);
  if (schema.type === "object") return object(random, schema, depth);
  if (schema.type === "array") {
    const least = Number(schema.minItems ?? 0);
    const most = Math.min(Number(schema.maxItems ?? 3), least + (chance(random, 3) ? 40 : 3));
    return Array.from({ length: least + random(most - least + 1) }, () => fromSchema(random, schema.items as Schema, depth + 1));
  }
  if (schema.type === "integer" || schema.type === "number") return integer(random, schema);
  if (schema.type === "boolean") return chance(random, 50);
  return string(random, schema);
}

function object(random: Random, schema: Schema, depth: number): unknown {
  const out: Record<string, unknown> = {};
  const required = (schema.required ?? []) as readonly string[];
  for (const [name, child] of Object.entries((schema.properties ?? {}) as Record<string, Schema>)) {
    // Few of many: what is left out has its default, and objects that say everything are refused for one thing or another.
    if (required.includes(name) ? chance(random, 99) : chance(random, depth < 2 ? 30 : 45))
      out[name] = fromSchema(random, child, depth + 1);
  }
  const values = schema.additionalProperties as Schema | undefined;
  if (typeof values === "object")
    for (const key of times(random, 3, () => text(random, 4))) out[key] = fromSchema(random, values, depth + 1);
  if (schema["x-kubernetes-preserve-unknown-fields"] && chance(random, 30)) out[pick(random, podWords)] = podPart(random, 3);
  return out;
}

function podPart(random: Random, depth: number): unknown {
  if (depth === 0 || chance(random, 20)) return chance(random, 60) ? pick(random, fitting) : json(random, 1);
  if (chance(random, 40)) return times(random, 3, () => podPart(random, depth - 1));
  return Object.fromEntries(times(random, 4, () => [pick(random, podWords), podPart(random, depth - 1)]));
}

function integer(random: Random, { minimum, maximum, enum: values }: Schema): unknown {
  if (Array.isArray(values)) return pick(random, values);
  const [least, most] = [Number(minimum ?? 0), Number(maximum ?? 1000)];
  const at = random(100);
  if (at < 1) return number(random);
  if (at < 20) return least;
  if (at < 30) return most;
  return least + random(Math.min(most - least, chance(random, 60) ? 8 : 2_000) + 1);
}

function string(random: Random, schema: Schema): unknown {
  if (Array.isArray(schema.enum)) return pick(random, schema.enum);
  if (schema.format === "date-time" && chance(random, 99)) return `2026-03-01T${String(random(24)).padStart(2, "0")}:00:00Z`;
  const patterns = patternsOf(schema);
  const wanted = fitting.filter((one) => patterns.every((pattern) => pattern.test(one)));
  return wanted.length > 0 && chance(random, 98) ? pick(random, wanted) : text(random);
}

const known = new Map<Schema, readonly RegExp[]>();

/** Those of the schema, and of a rule of its own that says no more than a pattern. */
function patternsOf(schema: Schema): readonly RegExp[] {
  const found = known.get(schema);
  if (found) return found;
  const rules = (schema["x-kubernetes-validations"] ?? []) as readonly { readonly rule: string }[];
  const said = rules.flatMap(({ rule }) => /^self\.matches\('([^']+)'\)/.exec(rule)?.[1] ?? []);
  const patterns = [...(typeof schema.pattern === "string" ? [schema.pattern] : []), ...said].map((one) => new RegExp(one));
  known.set(schema, patterns);
  return patterns;
}
