// Sets of allowed tokens where a language counts: the same as each token tried alone, near the bounds and far from them, and few of them
// for a long text.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Automaton } from "./automaton.ts";
import { jsonSchema } from "./index.ts";
import { compileSchema } from "./schema/compile.ts";
import { textsOfPattern } from "./schema/pattern.ts";
import { SchemaLanguage } from "./schema/walk.ts";
import { orderOf, Vocabulary, type VocabularyPart } from "./vocabulary.ts";

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
const words = [
  '"',
  "a",
  "b",
  "aa",
  "ab",
  ",",
  "1",
  "1,",
  '",',
  '","',
  "]",
  '"]',
  "[",
  "\\",
  "\\n",
  "\\ud83d",
  "\\ude00",
  "é",
  "😀",
  "\u00e9a",
];
const long = [
  "a".repeat(16),
  "a".repeat(17),
  "ab".repeat(12),
  "1,".repeat(11),
  "é".repeat(9),
  "aaaaaaaaaaaaaaaaaaaaa\\n",
  `${"a".repeat(19)}"`,
];
const closing = [15, 23].map((count) => `${"a".repeat(count)}"`);
const half = [Uint8Array.of(0xf0, 0x9f), Uint8Array.of(0x98, 0x80), Uint8Array.of(0xc3)];
const tokens: readonly Uint8Array[] = [...[...words, ...long, ...closing].map(bytesOf), ...half];

/** Counts how often the vocabulary is gone through. */
class Counting extends Vocabulary {
  walks = 0;
  override allowed(...walk: Parameters<Vocabulary["allowed"]>): Uint32Array {
    this.walks += 1;
    return super.allowed(...walk);
  }
}

function vocabulary(): Counting {
  let end = 0;
  const texts = { bytes: Buffer.concat(tokens), ends: Uint32Array.from(tokens, ({ length }) => (end += length)) };
  return new Counting(texts, orderOf(texts));
}

const bounds = fc.tuple(fc.nat(80), fc.nat(80)).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const);
const schemas: fc.Arbitrary<object> = fc.oneof(
  bounds.map(([minLength, maxLength]) => ({ type: "string", minLength, maxLength })),
  fc.nat(80).map((minLength) => ({ type: "string", minLength })),
  bounds.map(([minLength, maxLength]) => ({ type: "string", pattern: "^(ab?)*", minLength, maxLength: maxLength + 1 })),
  bounds.map(([minLength]) => ({ type: "string", pattern: "^((aa)*|b.{3,9}a*)$", minLength, maxLength: 2 * minLength + 10 })),
  fc.integer({ min: 10, max: 40 }).map((half) => ({ type: "string", pattern: "^(aa)*$", minLength: 2 * half, maxLength: 2 * half })),
  fc.nat(60).map((minLength) => ({ type: "string", pattern: "^([ab]|a{7}|é{20})*", minLength })),
  bounds.map(([minItems, maxItems]) => ({ type: "array", items: { type: "integer" }, minItems, maxItems: maxItems + 1 })),
  bounds.map(([minItems]) => ({ type: "array", prefixItems: [{ const: 1 }, { type: "integer" }], items: { const: 1 }, minItems })),
  bounds.map(([maxItems, maxLength]) => ({ type: "array", items: { type: "string", maxLength }, maxItems: maxItems + 1 })),
  bounds.map(([minLength, maxLength]) => ({
    anyOf: [
      { type: "string", minLength },
      { type: "string", maxLength },
    ],
  })),
);

test("the tokens that are allowed are those that may come alone, wherever the counts are", () => {
  let far = 0;
  fc.assert(
    fc.property(schemas, fc.array(fc.nat(1_000), { minLength: 40, maxLength: 80 }), (schema, choices) => {
      const automaton = new Automaton(jsonSchema(JSON.stringify(schema)), vocabulary());
      let state = automaton.language.start;
      for (const [step, choice] of choices.entries()) {
        const bits = automaton.allowed(state);
        const next = tokens.map((_, id) => automaton.after(state, id));
        for (const [id, after] of next.entries()) {
          const bit = (bits[id >>> 5]! >>> (id & 31)) & 1;
          assert.equal(bit, after === undefined ? 0 : 1, `${Buffer.from(tokens[id]!)} after ${state} of ${JSON.stringify(schema)}`);
        }
        if (automaton.language.alike(state, 16) !== state) far += 1;
        const open = next.filter((after, id) => after !== undefined && (step % 3 === 0 || !tokens[id]!.includes(0x22)));
        const to = open[choice % open.length] ?? next.find((after) => after !== undefined);
        if (to === undefined) break;
        state = to;
      }
    }),
    { numRuns: 250 },
  );
  assert.ok(far > 300, `${far} states had another one beside them`);
});

function walksOf(schema: object, pieces: readonly string[]): number {
  const counting = vocabulary();
  const automaton = new Automaton(jsonSchema(JSON.stringify(schema)), counting);
  let state = automaton.language.start;
  for (const piece of pieces) {
    automaton.allowed(state);
    const id = tokens.findIndex((token) => Buffer.from(token).equals(bytesOf(piece)));
    const next = automaton.after(state, id);
    assert.ok(next !== undefined, `${piece} after ${state}`);
    state = next;
  }
  return counting.walks;
}

test("a long text with a bound has few sets of tokens", () => {
  const text = ['"', ...Array.from({ length: 999 }, () => "aa")];
  assert.ok(walksOf({ type: "string", maxLength: 2_000 }, text) < 30);
  assert.ok(walksOf({ type: "string", minLength: 1_990 }, text) < 50);
  assert.ok(walksOf({ type: "string", pattern: "^a*$", maxLength: 2_000 }, text) < 30);
  assert.ok(walksOf({ type: "string", pattern: "^a*$", minLength: 1_990 }, text) < 50);
  const list = ["[", ...Array.from({ length: 999 }, () => "1,")];
  assert.ok(walksOf({ type: "array", items: { const: 1 }, maxItems: 1_000 }, list) < 60);
});

test("near a bound only the tokens that are longer than what is left are gone through again", () => {
  const parts = vocabulary().parts.map(({ bytesMax, ids }: VocabularyPart) => [bytesMax, ids.length]);
  assert.deepEqual(parts, [
    [16, tokens.length - 7],
    [24, 7],
  ]);
  const whole = walksOf({ type: "string", maxLength: 40 }, ['"', ...Array.from({ length: 24 }, () => "a")]);
  assert.equal(whole, 2 + 2 + 7);
});

/** A list, and how often an entry of it was looked up. */
function counted<T>(list: readonly T[]): { readonly nodes: readonly T[]; readonly reads: () => number } {
  let reads = 0;
  const get = (of: readonly T[], key: string | symbol): unknown => {
    reads += 1;
    return Reflect.get(of, key);
  };
  return { nodes: new Proxy(list, { get }), reads: () => reads };
}

test("the keys that may come in an object of many names are told once, and not at each of their bytes", () => {
  const properties = Object.fromEntries(Array.from({ length: 1_000 }, (_, i) => [`name${i}`, { const: 1 }]));
  const compiled = compileSchema(JSON.stringify({ type: "object", properties, additionalProperties: false }));
  const { nodes: heights, reads } = counted(compiled.heights);
  const language = new SchemaLanguage({ ...compiled, heights });
  let state: string | undefined = language.start;
  for (const byte of bytesOf('{"name1":1,"name20":1,"name999":1}')) state = state && language.step(state, byte);
  assert.ok(state !== undefined && language.ends(state));
  assert.ok(reads() < 5 * 1_000, `${reads()} heights looked up`);
});

test("a byte costs the members that begin with it, at however many places the text is", () => {
  const numbers = { anyOf: Array.from({ length: 1_800 }, (_, n) => ({ const: 10_000 + n })) };
  const lists = Array.from({ length: 250 }, (_, i) => ({ type: "array", items: { $ref: "#/$defs/numbers" }, maxItems: i + 2 }));
  const compiled = compileSchema(JSON.stringify({ $defs: { numbers }, anyOf: lists }));
  const { nodes, reads } = counted(compiled.nodes);
  const language = new SchemaLanguage({ ...compiled, nodes });
  const state = language.step(language.start, 0x5b) as string;
  for (let byte = 0; byte < 256; byte++)
    if (byte === 0x31) assert.throws(() => language.step(state, byte), { code: "InvalidRequest", message: /branches of anyOf at once/ });
    else assert.equal(language.step(state, byte) === undefined, byte !== 0x5d && ![0x20, 0x0a, 0x0d, 0x09].includes(byte));
  assert.ok(reads() < 256 * 250 * 4, `${reads()} nodes looked up`);
});

test("the steps from place to place in a pattern are gone through once for a state, not at each code point that is asked for", (t) => {
  const texts = textsOfPattern("^([ab]?){200}$", 0, 20);
  const lengths = t.mock.method(Uint8Array.prototype, "indexOf");
  const state = texts.step(texts.start, 0x61) as string;
  for (let point = 0x20; point < 0x7f; point++) {
    assert.equal(texts.step(state, point) !== undefined, point === 0x61 || point === 0x62);
    assert.equal(texts.reaches(state, point, point + 5), point >= 0x5c && point <= 0x62);
  }
  assert.ok(lengths.mock.callCount() < 1_000, `${lengths.mock.callCount()} lengths looked up`);
});
