// The contract between the CRDs of a release and those of a later one: whatever the API server has accepted stays valid and keeps its
// meaning. Structure is compared here; CEL rules that are new or changed are named, for a person to judge (crd-judged.ts).

type Schema = Readonly<Record<string, any>>;

export interface Difference {
  /** Where, as `v1alpha1.spec.replicas`. */
  readonly path: string;
  readonly fault: string;
  /** The CEL rule, where that is all that is new. */
  readonly rule?: string;
}

/** Fields of a schema node that mean the same only when they are the same. */
const fixed = [
  "type",
  "format",
  "pattern",
  "default",
  "anyOf",
  "oneOf",
  "allOf",
  "not",
  "multipleOf",
  "uniqueItems",
  "exclusiveMinimum",
  "exclusiveMaximum",
  "x-kubernetes-int-or-string",
  "x-kubernetes-embedded-resource",
  "x-kubernetes-list-type",
  "x-kubernetes-list-map-keys",
  "x-kubernetes-map-type",
];
const lowest = ["minimum", "minLength", "minItems", "minProperties"];
const highest = ["maximum", "maxLength", "maxItems", "maxProperties"];
/** What may be taken away: a value without it accepts more. */
const loosened = new Set(["pattern", "multipleOf", "uniqueItems", "not"]);

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
const text = (value: unknown): string => (value === undefined ? "none" : JSON.stringify(value));

/** What objects, clients and operators of the former CRD would lose under the later one; empty where nothing. */
export function crdDifferences(former: Schema, later: Schema): Difference[] {
  const found: Difference[] = [];
  for (const field of ["group", "scope", "names.kind", "names.plural"]) {
    const of = (crd: Schema) => field.split(".").reduce((inner, key) => inner?.[key], crd.spec);
    if (of(former) !== of(later)) found.push({ path: field, fault: `was ${text(of(former))}, is ${text(of(later))}` });
  }
  for (const name of former.spec.names.shortNames ?? [])
    if (!later.spec.names.shortNames?.includes(name)) found.push({ path: "names.shortNames", fault: `${name} is gone` });
  for (const version of former.spec.versions.filter((one: Schema) => one.served)) {
    const next = later.spec.versions.find((one: Schema) => one.name === version.name);
    if (!next?.served) found.push({ path: version.name, fault: "is served no more" });
    else found.push(...versionDifferences(version, next));
  }
  return found;
}

function versionDifferences(former: Schema, later: Schema): Difference[] {
  const scale = [former, later].map((version) => version.subresources?.scale);
  const found: Difference[] = [];
  if (former.subresources?.status && !later.subresources?.status) found.push({ path: former.name, fault: "has no /status" });
  if (scale[0] && !same(scale[0], scale[1])) found.push({ path: former.name, fault: `/scale was ${text(scale[0])}, is ${text(scale[1])}` });
  return [...found, ...schemaDifferences(former.schema.openAPIV3Schema, later.schema.openAPIV3Schema, former.name)];
}

function schemaDifferences(former: Schema, later: Schema, path: string): Difference[] {
  const children = [...childDifferences(former, later, path), ...ruleDifferences(former, later, path)];
  return [...valueDifferences(former, later).map((fault) => ({ path, fault })), ...children];
}

function valueDifferences(former: Schema, later: Schema): string[] {
  const faults: string[] = [];
  const changed = (key: string) => faults.push(`${key} was ${text(former[key])}, is ${text(later[key])}`);
  for (const key of fixed) if (!same(former[key], later[key]) && !(later[key] === undefined && loosened.has(key))) changed(key);
  for (const key of lowest) if ((later[key] ?? -Infinity) > (former[key] ?? -Infinity)) changed(key);
  for (const key of highest) if ((later[key] ?? Infinity) < (former[key] ?? Infinity)) changed(key);
  if (later.enum && (!former.enum || former.enum.some((value: unknown) => !later.enum.includes(value)))) changed("enum");
  if (former.nullable && !later.nullable) changed("nullable");
  if (former["x-kubernetes-preserve-unknown-fields"] && !later["x-kubernetes-preserve-unknown-fields"])
    faults.push("unknown fields are pruned");
  for (const name of later.required ?? [])
    if (!former.required?.includes(name) && later.properties?.[name]?.default === undefined) faults.push(`${name} is required`);
  return faults;
}

function childDifferences(former: Schema, later: Schema, path: string): Difference[] {
  const found: Difference[] = [];
  for (const [name, schema] of Object.entries<Schema>(former.properties ?? {})) {
    const next = later.properties?.[name];
    if (next) found.push(...schemaDifferences(schema, next, `${path}.${name}`));
    else found.push({ path: `${path}.${name}`, fault: "is gone" });
  }
  for (const [key, mark] of [
    ["items", "[]"],
    ["additionalProperties", ".*"],
  ] as const) {
    const [was, is] = [former[key], later[key]];
    if (typeof was === "object" && typeof is === "object") found.push(...schemaDifferences(was, is, path + mark));
    else if (!same(was, is)) found.push({ path: path + mark, fault: `was ${text(was)}, is ${text(is)}` });
  }
  return found;
}

/** Rules that an object of the former release may break. */
function ruleDifferences(former: Schema, later: Schema, path: string): Difference[] {
  const rules = (schema: Schema): string[] => (schema["x-kubernetes-validations"] ?? []).map(({ rule }: Schema) => rule);
  const old = rules(former);
  return rules(later)
    .filter((rule) => !old.includes(rule) && !holdsForFormer(rule, former, old))
    .map((rule) => ({ path, fault: `has a new rule: ${rule}`, rule }));
}

/** True for a choice of which one part is a former rule as it was, or holds since the former schema has no such field: `!has(self.x)`. */
function holdsForFormer(rule: string, former: Schema, old: readonly string[]): boolean {
  const parts = choices(rule);
  if (parts === undefined) return false;
  const asked = parts.flatMap((part) => /^!has\(self\.([\w.]+)\)$/.exec(part)?.[1] ?? []);
  if (asked.some((field) => isMissing(field, former))) return true;
  return old.some((one) => choices(one)?.every((part, index) => parts[index] === part) ?? false);
}

/** True where no object of the former schema can have had the field: none on the way to it kept unknown fields. */
function isMissing(field: string, former: Schema): boolean {
  let schema: Schema = former;
  for (const name of field.split(".")) {
    if (schema["x-kubernetes-preserve-unknown-fields"] || schema.additionalProperties) return false;
    const child = schema.properties?.[name];
    if (child === undefined) return true;
    schema = child;
  }
  return false;
}

/** The parts between `||` of a CEL rule, outside brackets and texts; none of a rule with a condition (`?`), which binds weaker. */
function choices(rule: string): string[] | undefined {
  const tokens = rule.match(/'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\|\||[\s\S]/g) ?? [];
  const parts = [""];
  let depth = 0;
  for (const token of tokens) {
    if ("([{".includes(token)) depth += 1;
    if (")]}".includes(token)) depth -= 1;
    if (depth === 0 && token === "?") return undefined;
    if (depth === 0 && token === "||") parts.push("");
    else parts[parts.length - 1] += token;
  }
  return parts.map((part) => part.trim());
}
