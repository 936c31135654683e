// Compiles a JSON Schema to nodes.
import { AppError } from "../../../crds/common.ts";
import { type Format, formats } from "./formats.ts";
import { Comparison, type Compiled, heightsOf, membersOf, type Node, withListedConstants } from "./nodes.ts";
import { anyInteger, anyNumber, leastMagnitude, RangedNumber, type Scalar, scalarTexts } from "./numbers.ts";
import { textsOfPattern } from "./pattern.ts";
import { type Bounds, TextList, type Texts, textsOfLength } from "./texts.ts";
import { depthMax } from "./walk.ts";

const schemaBytesMax = 65_536;
const nestingMax = 64;
const nodesMax = 4_096;
/** Names of one object, or values of one enum. */
const listMax = 1_000;
const patternsMax = 16;
const countMax = 1_000_000;
/** Bounds of numbers are exact within this range, and at zero. */
const boundMost = Number.MAX_SAFE_INTEGER;
const boundLeast = 1e-6;

type Schema = Readonly<Record<string, unknown>>;
type Type = keyof typeof keywordsOf;

const keywordsOf = {
  object: ["properties", "required", "additionalProperties"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  boolean: [],
  null: [],
} as const satisfies Record<string, readonly string[]>;

/** Keywords without effect on values. */
const annotations = new Set(["title", "description", "default", "examples", "$schema", "$comment", "$defs", "definitions", "deprecated"]);
for (const name of ["readOnly", "writeOnly"]) annotations.add(name);

const remedies: Readonly<Record<string, string>> = {
  allOf: "write its schemas as one; a list of one is taken",
  not: "say what the value is",
  if: "use anyOf",
  multipleOf: "list the values in enum",
  patternProperties: "name the properties, or use additionalProperties",
  propertyNames: "name the properties",
};

const isObject = (value: unknown): value is Schema => typeof value === "object" && value !== null && !Array.isArray(value);

function refused(path: string, message: string): AppError {
  return new AppError(`#${path}: ${message}`, { code: "InvalidRequest", operation: "reading a JSON Schema" });
}

/** Throws AppError `InvalidRequest`, which names the place in the schema. */
export function compileSchema(text: string): Compiled {
  if (text.length > schemaBytesMax) throw refused("", `the schema has ${text.length} bytes, at most ${schemaBytesMax} are taken`);
  const compiler = new Compiler(parsed(text));
  return compiler.compiled();
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (caught) {
    throw refused("", `the schema is no JSON: ${AppError.from(caught).message}`);
  }
}

interface At {
  readonly path: string;
  readonly nesting: number;
}

class Compiler {
  readonly #whole: unknown;
  readonly #nodes: (Node | undefined)[] = [];
  readonly #byPath = new Map<string, number>();
  readonly #apart: { readonly path: string; readonly of: readonly number[] }[] = [];
  #any: number | undefined;
  /** The key is pattern and lengths. */
  readonly #patterns = new Map<string, Texts>();

  constructor(whole: unknown) {
    this.#whole = whole;
  }

  compiled(): Compiled {
    const root = this.#reference("#", { path: "", nesting: 0 });
    const nodes = this.#nodes as readonly Node[];
    const heights = heightsOf(nodes);
    const height = heights[root] as number;
    if (height > depthMax) {
      const found = Number.isFinite(height) ? `has ${height} objects inside each other at least, ${depthMax} are taken` : "never ends";
      throw refused("", `a value of the schema ${found}; leave a property out of required, or let it be null`);
    }
    const members = membersOf(nodes);
    const comparison = new Comparison(nodes, members);
    for (const { path, of } of this.#apart) {
      const [j, i] = comparison.overlap(of) ?? [];
      if (i !== undefined)
        throw refused(path, `branches ${j} and ${i} may hold at once; tell them apart by the const of a required name, or use anyOf`);
    }
    return withListedConstants({ nodes, root, heights, members });
  }

  #add(node: Node, path: string): number {
    if (this.#nodes.length >= nodesMax) throw refused(path, `the schema has more than ${nodesMax} parts; make it smaller`);
    return this.#nodes.push(node) - 1;
  }

  #schema(schema: unknown, { path, nesting }: At): number {
    if (nesting > nestingMax) throw refused(path, `has more than ${nestingMax} schemas inside each other; use $ref`);
    if (schema === true) return this.#anything(path);
    if (!isObject(schema)) throw refused(path, schema === false ? "false has no value; leave it out" : "must be a schema");
    const at = { path, nesting: nesting + 1 };
    const said = Object.keys(schema).filter((name) => !annotations.has(name) && (name !== "format" || formatOf(schema) !== undefined));
    for (const [keyword, read] of Object.entries(this.#alone)) {
      if (!said.includes(keyword)) continue;
      const beside = said.find((name) => name !== keyword && !(name === "type" && (keyword === "enum" || keyword === "const")));
      if (beside !== undefined) throw refused(`${path}/${beside}`, `may not stand beside ${keyword}; write it into the schema there`);
      return read(schema, at);
    }
    if (said.length === 0) return this.#anything(path);
    return this.#typed(schema, said, at);
  }

  readonly #alone: Readonly<Record<string, (schema: Schema, at: At) => number>> = {
    $ref: ({ $ref }, at) => this.#reference($ref, at),
    allOf: ({ allOf }, at) => this.#single(allOf, at),
    anyOf: ({ anyOf }, at) => this.#union(anyOf, { path: `${at.path}/anyOf`, nesting: at.nesting }).at,
    oneOf: ({ oneOf }, { path, nesting }) => {
      const { at, of } = this.#union(oneOf, { path: `${path}/oneOf`, nesting });
      this.#apart.push({ path: `${path}/oneOf`, of });
      return at;
    },
    enum: (schema, { path }) => this.#listed(schema.enum, schema.type, `${path}/enum`),
    const: (schema, { path }) => this.#listed([schema.const], schema.type, `${path}/const`),
  };

  #reference($ref: unknown, { path, nesting }: At): number {
    if (typeof $ref !== "string" || !($ref === "#" || $ref.startsWith("#/")))
      throw refused(`${path}/$ref`, "must point into the schema itself, such as #/$defs/name");
    const known = this.#byPath.get($ref);
    if (known !== undefined) return known;
    const at = this.#add({ kind: "union", of: [] }, path); // so that it may refer to itself
    this.#byPath.set($ref, at);
    this.#nodes[at] = { kind: "union", of: [this.#schema(this.#resolved($ref, path), { path: $ref.slice(1), nesting })] };
    return at;
  }

  #resolved($ref: string, path: string): unknown {
    let at: unknown = this.#whole;
    for (const part of $ref.split("/").slice(1)) {
      const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
      if (typeof at !== "object" || at === null || !Object.hasOwn(at, name)) throw refused(`${path}/$ref`, `${$ref} is not in the schema`);
      at = (at as Schema)[name];
    }
    return at;
  }

  #single(list: unknown, { path, nesting }: At): number {
    if (!Array.isArray(list) || list.length !== 1) throw refused(`${path}/allOf`, `is not implemented; ${remedies.allOf}`);
    return this.#schema(list[0], { path: `${path}/allOf/0`, nesting });
  }

  #union(list: unknown, { path, nesting }: At): { readonly at: number; readonly of: readonly number[] } {
    if (!Array.isArray(list) || list.length === 0) throw refused(path, "must be a list of schemas");
    const of = list.map((schema, i) => this.#schema(schema, { path: `${path}/${i}`, nesting }));
    return { at: this.#add({ kind: "union", of }, path), of };
  }

  #typed(schema: Schema, said: readonly string[], at: At): number {
    const { path } = at;
    const types = (Array.isArray(schema.type) ? schema.type : [schema.type]) as readonly unknown[];
    const isType = (type: unknown): type is Type => typeof type === "string" && Object.hasOwn(keywordsOf, type);
    const known = new Set<string>(types.filter(isType).flatMap((type) => keywordsOf[type]));
    for (const name of said) {
      if (name === "type" || known.has(name)) continue;
      const type = Object.entries(keywordsOf).find(([, names]) => (names as readonly string[]).includes(name))?.[0];
      if (type === undefined) throw refused(`${path}/${name}`, `is not implemented; ${remedies[name] ?? "leave it out"}`);
      throw refused(`${path}/${name}`, `stands without type ${type}; add the type or leave it out`);
    }
    if (types.length === 0 || !types.every(isType)) throw refused(`${path}/type`, `must be one of ${Object.keys(keywordsOf).join(", ")}`);
    const of = types.map((type) => this.#types[type](schema, at));
    return of.length === 1 ? (of[0] as number) : this.#add({ kind: "union", of }, path);
  }

  readonly #types: Readonly<Record<Type, (schema: Schema, at: At) => number>> = {
    object: (schema, at) => this.#object(schema, at),
    array: (schema, at) => this.#array(schema, at),
    string: (schema, { path }) => this.#add({ kind: "string", texts: this.#texts(schema, path) }, path),
    number: (schema, { path }) => this.#number(numberOf(schema, false, path), path),
    integer: (schema, { path }) => this.#number(numberOf(schema, true, path), path),
    boolean: (_, { path }) => this.#add({ kind: "union", of: [this.#word("true", path), this.#word("false", path)] }, path),
    null: (_, { path }) => this.#word("null", path),
  };

  #number(scalar: Scalar, path: string): number {
    return this.#add({ kind: "scalar", type: "number", scalar, text: undefined }, path);
  }

  #word(text: string, path: string): number {
    return this.#add({ kind: "scalar", type: "word", scalar: scalarTexts([text]), text }, path);
  }

  #texts({ pattern, ...schema }: Schema, path: string): Texts {
    const [min, max] = [countOf(schema, "minLength", path) ?? 0, countOf(schema, "maxLength", path) ?? Number.POSITIVE_INFINITY];
    if (min > max) throw refused(`${path}/minLength`, "is above maxLength");
    const format = formatOf(schema);
    if (format && pattern !== undefined) throw refused(`${path}/format`, "may not stand beside pattern; write both as one pattern");
    if (format) return this.#matching(format.pattern, { min, max: Math.min(max, format.charactersMax ?? max) }, `${path}/format`);
    if (pattern === undefined) return textsOfLength(min, max);
    if (typeof pattern !== "string") throw refused(`${path}/pattern`, "must be a text");
    return this.#matching(pattern, { min, max }, path);
  }

  /** Equal ones are one, with its cache. Formats are `whole`. */
  #matching(pattern: string, { min, max }: Bounds, path: string): Texts {
    const whole = path.endsWith("/format");
    const key = `${whole} ${min} ${max} ${pattern}`;
    const known = this.#patterns.get(key);
    if (known) return known;
    if (this.#patterns.size >= patternsMax) throw refused(path, `has one of more than ${patternsMax} patterns and formats; use fewer`);
    try {
      const texts = textsOfPattern(pattern, min, max, whole);
      this.#patterns.set(key, texts);
      return texts;
    } catch (caught) {
      throw refused(path, AppError.from(caught).message);
    }
  }

  #object({ properties = {}, required = [], additionalProperties = true }: Schema, { path, nesting }: At): number {
    if (!isObject(properties)) throw refused(`${path}/properties`, "must be an object of schemas");
    if (!Array.isArray(required) || !required.every((name) => typeof name === "string"))
      throw refused(`${path}/required`, "must be a list of names");
    const beside = `${path}/additionalProperties`;
    const others = additionalProperties === false ? undefined : this.#schema(additionalProperties, { path: beside, nesting });
    const values = new Map<string, number>();
    for (const [name, schema] of Object.entries(properties)) {
      values.set(name, this.#schema(schema, { path: `${path}/properties/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`, nesting }));
    }
    for (const name of required as string[]) {
      if (values.has(name)) continue;
      if (others === undefined) throw refused(`${path}/required`, `${name} is not in properties; add it there`);
      values.set(name, others);
    }
    const names = this.#list([...values.keys()], `${path}/properties`);
    const bits = (required as string[]).reduce((sum, name) => sum | (1n << BigInt(names.placeOf(name) as number)), 0n);
    return this.#add({ kind: "object", names, values: [...values.values()], required: bits, others }, path);
  }

  #list(texts: readonly string[], path: string): TextList {
    if (texts.length > listMax) throw refused(path, `has ${texts.length} of them, at most ${listMax} are taken`);
    const broken = texts.find((text) => /\p{Surrogate}/u.test(text));
    if (broken !== undefined) throw refused(path, `${JSON.stringify(broken)} has half a character`);
    return new TextList(texts);
  }

  #array(schema: Schema, { path, nesting }: At): number {
    const { items = true, prefixItems = [] } = schema;
    if (!Array.isArray(prefixItems)) throw refused(`${path}/prefixItems`, "must be a list of schemas");
    if (Array.isArray(items)) throw refused(`${path}/items`, "is a list; call it prefixItems");
    const first = prefixItems.map((item, i) => this.#schema(item, { path: `${path}/prefixItems/${i}`, nesting }));
    const rest = items === false ? undefined : this.#schema(items, { path: `${path}/items`, nesting });
    const most = rest === undefined ? first.length : Number.POSITIVE_INFINITY;
    const [min, max] = [countOf(schema, "minItems", path) ?? 0, Math.min(most, countOf(schema, "maxItems", path) ?? most)];
    if (min > max) throw refused(`${path}/minItems`, `is above the ${max} items that there may be`);
    return this.#add({ kind: "array", first, items: rest, min, max }, path);
  }

  #listed(values: unknown, type: unknown, path: string): number {
    if (!Array.isArray(values)) throw refused(path, "must be a list of values");
    const types = type === undefined ? undefined : Array.isArray(type) ? type : [type];
    const fits = (value: unknown): boolean => types === undefined || typesOf(value).some((one) => types.includes(one));
    const taken = values.filter(fits);
    if (taken.length === 0) throw refused(path, "has no value of the type");
    const texts = [...new Set(taken.filter((value) => typeof value === "string"))];
    const of = [...new Set(taken.filter((value) => typeof value !== "string").map((value) => JSON.stringify(value)))];
    if (of.length > listMax) throw refused(path, `has ${of.length} values, at most ${listMax} are taken`);
    const nodes = of.map((value) => this.#value(JSON.parse(value), { path, nesting: 0 }));
    if (texts.length > 0) nodes.push(this.#add({ kind: "string", texts: this.#list(texts, path) }, path));
    return nodes.length === 1 ? (nodes[0] as number) : this.#add({ kind: "union", of: nodes }, path);
  }

  #value(value: unknown, { path, nesting }: At): number {
    if (nesting > nestingMax) throw refused(path, `has more than ${nestingMax} values inside each other`);
    if (typeof value === "string") return this.#add({ kind: "string", texts: this.#list([value], path) }, path);
    if (typeof value === "number") {
      const text = JSON.stringify(value);
      return this.#add({ kind: "scalar", type: "number", scalar: scalarTexts([text]), text }, path);
    }
    const inside = (one: unknown): number => this.#value(one, { path, nesting: nesting + 1 });
    if (Array.isArray(value)) {
      const length = value.length;
      return this.#add({ kind: "array", first: value.map(inside), items: undefined, min: length, max: length }, path);
    }
    if (!isObject(value)) return this.#word(JSON.stringify(value), path);
    const names = this.#list(Object.keys(value), path);
    const required = (1n << BigInt(names.texts.length)) - 1n;
    return this.#add({ kind: "object", names, values: Object.values(value).map(inside), required, others: undefined }, path);
  }

  #anything(path: string): number {
    if (this.#any !== undefined) return this.#any;
    const any = this.#add({ kind: "union", of: [] }, path);
    this.#any = any;
    const object = this.#add({ kind: "object", names: new TextList([]), values: [], required: 0n, others: any }, path);
    const array = this.#add({ kind: "array", first: [], items: any, min: 0, max: Number.POSITIVE_INFINITY }, path);
    const string = this.#add({ kind: "string", texts: textsOfLength(0, Number.POSITIVE_INFINITY) }, path);
    const words = ["true", "false", "null"].map((word) => this.#word(word, path));
    this.#nodes[any] = { kind: "union", of: [object, array, string, this.#number(anyNumber, path), ...words] };
    return any;
  }
}

function typesOf(value: unknown): readonly string[] {
  if (value === null) return ["null"];
  if (Array.isArray(value)) return ["array"];
  return typeof value === "number" && Number.isInteger(value) ? ["integer", "number"] : [typeof value];
}

/** Undefined for a format that is an annotation. */
function formatOf({ format }: Schema): Format | undefined {
  return typeof format === "string" && Object.hasOwn(formats, format) ? formats[format] : undefined;
}

function countOf(schema: Schema, name: string, path: string): number | undefined {
  const value = schema[name];
  if (value === undefined || (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= countMax)) {
    return value as number | undefined;
  }
  throw refused(`${path}/${name}`, `must be a whole number up to ${countMax}`);
}

function boundOf(schema: Schema, name: string, path: string): number | undefined {
  const value = schema[name];
  if (value === undefined || value === 0) return value as number | undefined;
  const size = typeof value === "number" ? Math.abs(value) : Number.NaN;
  if (size >= boundLeast && size <= boundMost) return value as number;
  throw refused(`${path}/${name}`, `must be 0, or of a size from ${boundLeast} to ${boundMost}; use another bound or leave it out`);
}

function numberOf(schema: Schema, integer: boolean, path: string): Scalar {
  const bound = (name: string, otherwise: number): number => boundOf(schema, name, path) ?? otherwise;
  const { POSITIVE_INFINITY: infinite } = Number;
  const [above, below] = [bound("exclusiveMinimum", -infinite), bound("exclusiveMaximum", infinite)];
  const least = Math.max(bound("minimum", -infinite), integer ? Math.floor(above) + 1 : next(above));
  const most = Math.min(bound("maximum", infinite), integer ? Math.ceil(below) - 1 : -next(-below));
  if (least === -infinite && most === infinite) return integer ? anyInteger : anyNumber;
  const range = new RangedNumber(integer ? { least: Math.ceil(least), most: Math.floor(most), integer } : { least, most, integer });
  if (range.any) return range;
  throw refused(path, "no number is within its bounds");
}

function next(value: number): number {
  if (!Number.isFinite(value)) return value;
  if (value === 0) return leastMagnitude;
  const bits = new BigInt64Array(Float64Array.of(value).buffer);
  bits[0] = (bits[0] as bigint) + (value > 0 ? 1n : -1n);
  return new Float64Array(bits.buffer)[0] as number;
}
