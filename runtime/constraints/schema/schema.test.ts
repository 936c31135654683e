// Languages of JSON Schemas beside a validator: random walks give texts that fit, texts are taken exactly when their values fit, and
// what is not computed is refused with its place.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { recursiveSchemas, schemaCases } from "../../../test/kit/models/json-schemas.ts";
import { jsonSchema } from "../index.ts";
import type { Language } from "../language.ts";
import { compileSchema } from "./compile.ts";

const ajv = new Ajv2020({ strict: false, allErrors: false });
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

function takes(language: Language, text: string): boolean {
  let state: string | undefined = language.start;
  for (const byte of bytesOf(text)) {
    state = language.step(state, byte);
    if (state === undefined) return false;
  }
  return language.ends(state);
}

/** The language, or undefined where no value fits, which is refused. */
function languageOf(schema: unknown): Language | undefined {
  try {
    return jsonSchema(JSON.stringify(schema));
  } catch (caught) {
    assert.match(String(caught), /no number is within its bounds|never ends|no text has it|is above/, JSON.stringify(schema));
    return undefined;
  }
}

const closing = [...bytesOf('"}],:0123456789aeltrufnsb_\\dcE-.')];
const printed = Array.from({ length: 256 }, (_, i) => (0x21 + i) % 256);

/** A text as the choices lead to it, towards an end after them; undefined where it is not at one soon. */
function walked(language: Language, choices: readonly number[]): string | undefined {
  let state = language.start;
  const bytes: number[] = [];
  for (let i = 0; i < 2_000; i++) {
    const choice = choices[i];
    if (choice === undefined && language.ends(state)) return Buffer.from(bytes).toString();
    const order = choice === undefined ? [...closing, ...printed] : [...printed.slice(choice % 94, 94), ...printed];
    const byte = order.find((one) => language.step(state, one) !== undefined);
    if (byte === undefined && language.ends(state)) return Buffer.from(bytes).toString();
    assert.ok(byte !== undefined, `nothing goes on after ${Buffer.from(bytes)}`);
    bytes.push(byte);
    state = language.step(state, byte) as string;
  }
  return undefined;
}

test("random walks through a schema's language give texts whose values fit, and are never stuck", () => {
  let ended = 0;
  let walks = 0;
  fc.assert(
    fc.property(schemaCases, fc.array(fc.nat(1000), { maxLength: 60 }), ({ schema }, choices) => {
      const language = languageOf(schema);
      if (!language) return;
      walks += 1;
      const text = walked(language, choices);
      if (text === undefined) return;
      ended += 1;
      assert.ok(ajv.validate(schema as object, JSON.parse(text)), `${text} for ${JSON.stringify(schema)}`);
    }),
    { numRuns: 150 },
  );
  // The others write one more key for ever, which objects with any keys allow.
  assert.ok(ended > 0.6 * walks, `${ended} of ${walks} ended`);
});

test("a compact text is taken exactly when its value fits, whatever the order of its keys", () => {
  const count = { fits: 0, not: 0 };
  fc.assert(
    fc.property(
      schemaCases.chain(({ schema, values }) => fc.tuple(fc.constant(schema), values)),
      ([schema, value]) => {
        const language = languageOf(schema);
        if (!language) return;
        const text = JSON.stringify(value);
        const fits = ajv.validate(schema as object, JSON.parse(text));
        count[fits ? "fits" : "not"] += 1;
        assert.equal(takes(language, text), fits, `${text} for ${JSON.stringify(schema)}`);
        assert.equal(takes(language, JSON.stringify(value, null, 2)), fits);
      },
    ),
    { numRuns: 600 },
  );
  assert.ok(count.fits > 100 && count.not > 60, JSON.stringify(count));
});

test("schemas that name themselves, and branches that are told apart", () => {
  for (const schema of recursiveSchemas) {
    const language = jsonSchema(JSON.stringify(schema));
    fc.assert(
      fc.property(fc.array(fc.nat(1000), { maxLength: 40 }), (choices) => {
        const text = walked(language, choices);
        if (text !== undefined) assert.ok(ajv.validate(schema as object, JSON.parse(text)), text);
      }),
      { numRuns: 40 },
    );
  }
  const list = jsonSchema(JSON.stringify(recursiveSchemas[0]));
  const nested = (depth: number): string => `${'{"next":'.repeat(depth)}null${"}".repeat(depth)}`;
  assert.equal(takes(list, nested(64)), true);
  assert.equal(takes(list, nested(65)), false, "depth is bounded");
});

test("escapes say what they stand for, and half a character is none", () => {
  const of = (schema: object): Language => jsonSchema(JSON.stringify(schema));
  const keys = of({ type: "object", properties: { a: { type: "integer" } }, additionalProperties: { type: "null" } });
  for (const [text, want] of [
    ['{"a":1}', true],
    ['{"\\u0061":1}', true],
    ['{"\\u0061":null}', false],
    ['{"a":1,"\\u0061":1}', false],
    ['{"b":null,"a":1}', true],
    ['{"\\ud83d\\ude00":null}', true],
    ['{"\\ud83d":null}', false],
  ] as const)
    assert.equal(takes(keys, text), want, text);
  const short = of({ type: "string", maxLength: 1 });
  for (const text of ['"\\ud83d\\ude00"', '"😀"', '"\\n"', '""']) assert.ok(takes(short, text), text);
  for (const text of ['"ab"', '"\\ude00"', '"\t"']) assert.ok(!takes(short, text), text);
  let state: string | undefined = short.start;
  for (const byte of [0x22, 0xc0]) state = state && short.step(state, byte);
  assert.equal(state, undefined, "no UTF-8");
});

test("branches whose bounds do not overlap exclude each other", () => {
  const integer = (minimum: number, maximum: number): object => ({ type: "integer", minimum, maximum });
  const texts = (minLength: number, maxLength: number): object => ({ type: "string", minLength, maxLength });
  const lists = (minItems: number, maxItems: number): object => ({ type: "array", items: { type: "null" }, minItems, maxItems });
  for (const [oneOf, want] of [
    [[integer(0, 5), integer(6, 9)], true],
    [[integer(0, 5), integer(5, 9)], false],
    [
      [
        { type: "number", maximum: 1 },
        { type: "number", exclusiveMinimum: 1 },
      ],
      true,
    ],
    [[integer(0, 5), { const: 6 }, { enum: [7, "a"] }], true],
    [[integer(0, 5), { const: 4 }], false],
    [[texts(0, 2), texts(3, 4), { const: "five5" }], true],
    [[texts(0, 2), texts(2, 4)], false],
    [[texts(0, 2), { enum: ["a", "abc"] }], false],
    [[{ type: "string", pattern: "a", maxLength: 2 }, texts(3, 4)], true],
    [[lists(0, 1), lists(2, 3)], true],
    [[lists(0, 2), lists(2, 3)], false],
  ] as const) {
    const compiled = (): unknown => compileSchema(JSON.stringify({ oneOf }));
    if (want) assert.doesNotThrow(compiled, JSON.stringify(oneOf));
    else assert.throws(compiled, { code: "InvalidRequest", message: /may hold at once/ });
  }
});

test("hundreds of constants are taken, one by one, in a list and in branches of branches", () => {
  const numbers = Array.from({ length: 500 }, (_, i) => 10_000 + i);
  const values = [...numbers, ...numbers.map((n) => `n${n}`), true, null];
  const each = (of: readonly unknown[]): object[] => of.map((value) => ({ const: value }));
  const nested = { $defs: { a: { anyOf: each(values.slice(0, 600)) } }, anyOf: [{ $ref: "#/$defs/a" }, ...each(values.slice(600))] };
  for (const schema of [
    { anyOf: each(values) },
    { enum: values },
    nested,
    { type: "array", items: { anyOf: each(values) } },
    { oneOf: each(values) },
  ]) {
    const language = jsonSchema(JSON.stringify(schema));
    const said = (value: unknown): string => JSON.stringify("type" in schema ? [value, value] : value);
    for (const value of values) assert.ok(takes(language, said(value)), said(value));
    for (const value of [1000, 10_500, "n", "n105", false, 100_001]) assert.ok(!takes(language, said(value)), said(value));
  }
});

test("one constant of hundreds in two branches of oneOf is named", () => {
  const oneOf = Array.from({ length: 500 }, (_, i) => ({ enum: [i, `${i}`, ...(i === 400 ? ["7"] : [])] }));
  assert.throws(() => jsonSchema(JSON.stringify({ oneOf })), { message: /branches 7 and 400 may hold at once/ });
});

/** A format -> texts that are of it, and texts that are not. */
const formatted: Readonly<Record<string, readonly [right: readonly string[], wrong: readonly string[]]>> = {
  date: [
    ["2024-02-29", "2000-02-29", "2026-12-31", "2026-04-30"],
    ["2023-02-29", "1900-02-29", "2026-04-31", "2026-13-01", "2026-1-1", "x2026-01-01"],
  ],
  time: [
    ["23:59:59Z", "00:00:00.123+05:30"],
    ["24:00:00Z", "12:00:00", "12:00Z"],
  ],
  "date-time": [
    ["2026-12-01T10:12:00Z", "2024-02-29T00:00:00.5-08:00"],
    ["2026-12-01", "2026-12-01 10:12:00Z", "2026-02-30T00:00:00Z"],
  ],
  duration: [
    ["P1Y2M3DT4H5M6S", "P4W", "PT36H", "P1M", "P1YT5M"],
    ["P", "P1", "P1DT", "PT", "P1W2D", "P1Y3D"],
  ],
  email: [
    ["a.b+c@mail.example.com", "x@a-b.io"],
    ["a@b", "@a.b", "a..b@c.de", "a@-b.de", "a b@c.de"],
  ],
  hostname: [
    ["localhost", "a.b-c.example", "1.2.3.4", "a".repeat(63)],
    ["-a", "a-.b", "a..b", "", "a_b", "a".repeat(64)],
  ],
  ipv4: [
    ["0.0.0.0", "255.255.255.255", "192.168.1.10"],
    ["256.1.1.1", "1.2.3", "01.2.3.4", "1.2.3.4.5"],
  ],
  ipv6: [
    ["::", "::1", "fe80::1", "1:2:3:4:5:6:7:8", "2001:db8::ff:0", "1::", "1:2:3:4:5:6:7::"],
    [":", "1:2", "1::2::3", "12345::", "1:2:3:4:5:6:7:8:9", "::g"],
  ],
  uuid: [["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-42661417400g"]],
};

test("formats hold texts, also with lengths; any other is an annotation, and many of one are one", () => {
  for (const [format, [right, wrong]] of Object.entries(formatted)) {
    const language = jsonSchema(JSON.stringify({ type: ["string", "null"], format }));
    for (const text of right) assert.ok(takes(language, JSON.stringify(text)), `${format}: ${text}`);
    for (const text of wrong) assert.ok(!takes(language, JSON.stringify(text)), `${format}: ${text}`);
    assert.ok(takes(language, "null"));
    fc.assert(
      fc.property(fc.array(fc.nat(1000), { maxLength: 60 }), (choices) => assert.notEqual(walked(language, choices), "")),
      { numRuns: 20 },
    );
  }
  const long = jsonSchema(JSON.stringify({ type: "string", format: "hostname", minLength: 5, maxLength: 6 }));
  assert.deepEqual(
    ["a.bc", "a.bcd", "ab.cdef"].map((text) => takes(long, JSON.stringify(text))),
    [false, true, false],
  );
  for (const schema of [{ type: "string", format: "uri" }, { type: "integer", format: "int64" }, { format: "password" }])
    assert.ok(takes(jsonSchema(JSON.stringify(schema)), schema.type === "integer" ? "1" : '"no uri"'));
  const fields = Array.from({ length: 30 }, (_, i) => [`f${i}`, { type: "string", format: "date-time" }]);
  assert.doesNotThrow(() => jsonSchema(JSON.stringify({ type: "object", properties: Object.fromEntries(fields) })));
});

const refusals = new Map<string, readonly [unknown, RegExp]>([
  ["a format of no text", [{ type: "integer", format: "date" }, /#\/format: stands without type string/]],
  ["a format and a pattern", [{ type: "string", format: "date", pattern: "^2" }, /#\/format: may not stand beside pattern/]],
  ["a format that is too long", [{ type: "string", format: "uuid", maxLength: 35 }, /no text has it/]],
  ["one far inside", [{ type: "object", properties: { "a/b": { type: "number", multipleOf: 2 } } }, /#\/properties\/a~1b\/multipleOf: /]],
  ["a keyword of another type", [{ type: "integer", minLength: 2 }, /#\/minLength: stands without type string; add the type/]],
  ["a keyword without a type", [{ properties: {} }, /#\/properties: stands without type object/]],
  ["branches that may hold at once", [{ oneOf: [{ type: "integer" }, { type: "number" }] }, /#\/oneOf: branches 0 and 1 .*use anyOf/]],
  ["a reference to elsewhere", [{ $ref: "http:x" }, /#\/\$ref: must point into the schema itself/]],
  ["a reference to nothing", [{ $ref: "#/$defs/toString" }, /#\/\$defs\/toString is not in the schema/]],
  [
    "a schema without end",
    [{ type: "object", properties: { a: { $ref: "#" } }, required: ["a"] }, /never ends; leave a property out of required/],
  ],
  ["a reference to itself", [{ $defs: { a: { $ref: "#/$defs/a" } }, $ref: "#/$defs/a" }, /never ends/]],
  ["a name that is required and not there", [{ type: "object", required: ["a"], additionalProperties: false }, /a is not in properties/]],
  ["keywords beside anyOf", [{ anyOf: [{}], minLength: 1 }, /#\/minLength: may not stand beside anyOf/]],
  ["a wrong type", [{ type: "date" }, /#\/type: must be one of object, /]],
  ["a look around", [{ type: "string", pattern: "^(?=a)b" }, /pattern: \(\?= looks around/]],
  ["a pattern that is none", [{ type: "string", pattern: "(" }, /pattern: /]],
  ["an end within a pattern", [{ type: "string", pattern: "a^b" }, /\^ stands within it/]],
  ["a pattern of many places", [{ type: "string", pattern: "(a{100}){100}" }, /more than 500 places/]],
  ["a pattern of many empty parts", [{ type: "string", pattern: "(((){1000}){1000}){1000}" }, /more than 10000 parts/]],
  ["bounds that are too fine", [{ type: "number", minimum: 1e-9 }, /#\/minimum: must be 0, or of a size from/]],
  ["an empty range", [{ type: "integer", exclusiveMinimum: 1, exclusiveMaximum: 2 }, /no number is within its bounds/]],
  ["lengths that no text has", [{ type: "string", pattern: "^(aa)*$", minLength: 3, maxLength: 3 }, /no text has it/]],
  [
    "many schemas inside each other",
    [Array.from({ length: 80 }).reduce((items) => ({ type: "array", items }), {}), /more than 64 schemas/],
  ],
  ["a schema of many parts", [{ enum: Array.from({ length: 1001 }, (_, i) => i) }, /1001 values, at most 1000/]],
]);

for (const [name, [schema, message]] of refusals)
  test(`refused with its place: ${name}`, () =>
    assert.throws(() => compileSchema(JSON.stringify(schema)), { code: "InvalidRequest", message }));

test("a schema is bounded in bytes, and what is no JSON is refused", () => {
  assert.throws(() => compileSchema(JSON.stringify({ description: "x".repeat(70_000) })), {
    code: "InvalidRequest",
    message: /at most 65536/,
  });
  assert.throws(() => compileSchema("{"), { code: "InvalidRequest", message: /no JSON/ });
});

test("a text that fits too many branches at once is refused, and not followed in part", () => {
  const deep = (depth: number): object =>
    depth === 0 ? { type: "integer" } : { anyOf: [1, 2].map((i) => ({ type: "array", items: deep(depth - 1), maxItems: i + 3 })) };
  const language = jsonSchema(JSON.stringify(deep(9)));
  assert.throws(() => takes(language, "[".repeat(9)), { code: "InvalidRequest", message: /more than 256 branches of anyOf/ });
});

test("a pattern of as many places as there may be is taken, and lengths to 4,096 alone and beside a pattern", () => {
  const lengths = [1, 500, 501, 4_096, 4_097];
  const taken = (schema: object) => {
    const language = jsonSchema(JSON.stringify({ type: "string", ...schema }));
    return lengths.filter((length) => takes(language, JSON.stringify("a".repeat(length))));
  };
  assert.deepEqual(taken({ pattern: "^[a-z]{1,500}$" }), [1, 500]);
  assert.deepEqual(taken({ maxLength: 4_096 }), [1, 500, 501, 4_096]);
  assert.deepEqual(taken({ pattern: "^[a-z]*$", maxLength: 4_096 }), [1, 500, 501, 4_096]);
  assert.throws(() => taken({ pattern: "^[a-z]{1,501}$" }), { code: "InvalidRequest", message: /more than 500 places/ });
});

test("patterns take what regular expressions take", () => {
  const piece = fc.constantFrom("a", "b", "[^a]", ".", "\\d", "\\w", "\\s", "\\S", "(?:ab|b)", "(a|)", "[a-c😀]", "\\u0062", "\\.", "é");
  const times = fc.constantFrom("", "", "", "*", "+", "?", "{2}", "{1,3}", "{2,}", "+?");
  const run = fc
    .array(
      fc.tuple(piece, times).map((parts) => parts.join("")),
      { maxLength: 4 },
    )
    .map((parts) => parts.join(""));
  const branch = fc
    .tuple(fc.boolean(), run, fc.boolean())
    .map(([begins, middle, ends]) => `${begins ? "^" : ""}${middle}${ends ? "$" : ""}`);
  const pattern = fc.array(branch, { minLength: 1, maxLength: 3 }).map((branches) => branches.join("|"));
  const texts = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c", "1", " ", ".", "é", "😀", "\n"), maxLength: 7 }), {
    minLength: 8,
  });
  fc.assert(
    fc.property(pattern, texts, (source, tried) => {
      const language = jsonSchema(JSON.stringify({ type: "string", pattern: source }));
      for (const text of tried)
        assert.equal(takes(language, JSON.stringify(text)), new RegExp(source, "u").test(text), `${source} ${text}`);
    }),
    { numRuns: 150 },
  );
});
