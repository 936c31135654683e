// Random JSON Schemas of what an answer can be held to, and for each random values, of which many fit. For tests of the constraint.
import fc from "fast-check";

interface SchemaCase {
  readonly schema: unknown;
  /** Values that fit, or nearly. */
  readonly values: fc.Arbitrary<unknown>;
}

const annotation = fc.constantFrom({}, {}, { title: "a title" }, { description: "what it is", default: 3 });
const letters = fc.string({ unit: fc.constantFrom("a", "b", "é", "😀", '"', "\\", "\n", "/", "0"), maxLength: 6 });
const names = ["a", "ab", "b", "é", 'q"', "type"];

const strings: fc.Arbitrary<SchemaCase> = fc.oneof(
  fc.constant({ schema: { type: "string" }, values: letters }),
  fc.record({ min: fc.nat(3), more: fc.nat(3) }).map(({ min, more }) => ({
    schema: { type: "string", minLength: min, ...(more === 3 ? {} : { maxLength: min + more }) },
    values: fc.string({ unit: fc.constantFrom("a", "😀", "\\"), minLength: Math.max(0, min - 1), maxLength: min + more + 1 }),
  })),
  fc.uniqueArray(letters, { minLength: 1, maxLength: 4 }).map((list) => ({
    schema: { type: "string", enum: list },
    values: fc.oneof(fc.constantFrom(...list), letters),
  })),
  fc.constantFrom("^[ab]{2,4}$", "^a", "b$", "a.b|^é+$", "^(ab|😀)*$", "^\\d{1,2}$").map((pattern) => ({
    schema: { type: "string", pattern },
    values: letters,
  })),
  fc.constant({
    schema: { type: "string", pattern: "^(ab)*b?$", minLength: 2, maxLength: 5 },
    values: fc.string({ unit: fc.constantFrom("ab", "b"), maxLength: 4 }),
  }),
);

const bound = fc.oneof(
  fc.integer({ min: -120, max: 120 }),
  fc.integer({ min: -4000, max: 4000 }).map((x) => x / 100),
);
const near = (bounds: readonly number[]): fc.Arbitrary<number> =>
  fc.oneof(
    ...bounds.map((x) => fc.constantFrom(x, x - 1, x + 1, x + 0.01, x - 0.01, Math.round(x))),
    fc.integer({ min: -999, max: 999 }),
    fc.integer({ min: -99_999, max: 99_999 }).map((x) => x / 100),
  );

const numbers: fc.Arbitrary<SchemaCase> = fc
  .record({
    type: fc.constantFrom("number", "integer"),
    low: fc.option(bound, { nil: undefined }),
    width: fc.option(fc.oneof(fc.constantFrom(1, 10, 0.5), fc.integer({ min: 1, max: 300 })), { nil: undefined }),
    open: fc.tuple(fc.boolean(), fc.boolean()),
  })
  .map(({ type, low, width, open }) => {
    const high = width === undefined ? undefined : (low ?? 0) + width + 1;
    const schema: Record<string, unknown> = { type };
    if (low !== undefined) schema[open[0] ? "exclusiveMinimum" : "minimum"] = low;
    if (high !== undefined) schema[open[1] ? "exclusiveMaximum" : "maximum"] = high;
    return { schema, values: near([low ?? 0, high ?? 0]) };
  });

const words: fc.Arbitrary<SchemaCase> = fc.oneof(
  fc.constant({ schema: { type: "boolean" }, values: fc.boolean() }),
  fc.constant({ schema: { type: "null" }, values: fc.constant(null) }),
  fc.constant({ schema: { type: ["string", "null"], maxLength: 2 }, values: fc.oneof(letters, fc.constant(null)) }),
  fc.constant({
    schema: { const: { a: [1, "x", null], b: {} } },
    values: fc.constantFrom({ a: [1, "x", null], b: {} }, { a: [1], b: {} }),
  }),
  fc.constant({
    schema: { enum: [1, 12, "1", null, [], { a: 1.5 }] },
    values: fc.constantFrom(1, 2, 12, "1", null, [], [1], { a: 1.5 }, {}),
  }),
  fc.constant({ schema: {}, values: fc.jsonValue({ maxDepth: 2 }) }),
);

const { schemas } = fc.letrec<{ schemas: SchemaCase; object: SchemaCase; array: SchemaCase; either: SchemaCase }>((tie) => ({
  schemas: fc
    .tuple(
      annotation,
      fc.oneof(
        { maxDepth: 3, depthSize: "small", withCrossShrink: true },
        strings,
        numbers,
        words,
        tie("object"),
        tie("array"),
        tie("either"),
      ),
    )
    .map(([notes, { schema, values }]) => ({ schema: { ...notes, ...(schema as object) }, values })),
  object: fc
    .record({
      properties: fc.uniqueArray(fc.tuple(fc.constantFrom(...names), tie("schemas")), { selector: ([name]) => name, maxLength: 4 }),
      required: fc.subarray(names),
      others: fc.option(tie("schemas"), { nil: undefined }),
      open: fc.boolean(),
    })
    .map(({ properties, required, others, open }) => {
      const known = properties.map(([name]) => name);
      const schema: Record<string, unknown> = {
        type: "object",
        properties: Object.fromEntries(properties.map(([name, one]) => [name, one.schema])),
        required: others === undefined && !open ? required.filter((name) => known.includes(name)) : required,
      };
      if (others) schema.additionalProperties = others.schema;
      else if (!open) schema.additionalProperties = false;
      const beside = others ? others.values : fc.constantFrom(1, "x", null);
      const whole = fc.tuple(...properties.map(([name, { values }]) => values.map((value) => [name, value] as const)));
      const more = fc.array(fc.tuple(fc.constantFrom(...names, "z"), beside), { maxLength: 2 });
      const values = fc
        .tuple(whole, more, fc.boolean())
        .chain(([own, rest, first]) => fc.shuffledSubarray([...(first ? own : []), ...rest, ...own], { minLength: own.length }))
        .map((entries) => Object.fromEntries(entries));
      return { schema, values };
    }),
  array: fc
    .record({
      items: tie("schemas"),
      first: fc.array(tie("schemas"), { maxLength: 2 }),
      min: fc.nat(2),
      more: fc.nat(3),
      closed: fc.boolean(),
    })
    .map(({ items, first, min, more, closed }) => {
      const schema: Record<string, unknown> = { type: "array", minItems: closed ? Math.min(min, first.length) : min };
      if (more < 3) schema.maxItems = min + more;
      if (first.length > 0) schema.prefixItems = first.map((one) => one.schema);
      schema.items = closed ? false : items.schema;
      const head = fc.tuple(...first.map(({ values }) => values));
      const values = fc.tuple(head, fc.array(items.values, { maxLength: 3 })).map(([begin, rest]) => [...begin, ...rest]);
      return { schema, values };
    }),
  either: fc.array(tie("schemas"), { minLength: 1, maxLength: 3 }).map((of) => ({
    schema: { anyOf: of.map(({ schema }) => schema) },
    values: fc.oneof(...of.map(({ values }) => values)),
  })),
}));

export { schemas as schemaCases };

/** Schemas that name themselves, and branches that are told apart. */
export const recursiveSchemas: readonly unknown[] = [
  {
    $defs: {
      node: { type: "object", properties: { value: { type: "integer" }, next: { anyOf: [{ $ref: "#/$defs/node" }, { type: "null" }] } } },
    },
    $ref: "#/$defs/node",
  },
  { type: "object", properties: { children: { type: "array", items: { $ref: "#" } }, name: { type: "string" } }, required: ["children"] },
  {
    oneOf: [
      { type: "object", properties: { kind: { const: "circle" }, r: { type: "number", exclusiveMinimum: 0 } }, required: ["kind", "r"] },
      { type: "object", properties: { kind: { enum: ["square", "cube"] }, a: { type: "integer" } }, required: ["kind"] },
      { type: "array", items: { type: "boolean" } },
    ],
  },
];
