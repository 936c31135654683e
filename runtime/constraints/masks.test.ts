// Sets of allowed tokens where a language counts: the same as each token tried alone, near the bounds and far from them, and few of them
// for a long text.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Automaton, LargeTable } from "./automaton.ts";
import { jsonSchema } from "./index.ts";
import { type Language, whole } from "./language.ts";
import { type Held, Languages } from "./languages.ts";
import { compileSchema } from "./schema/compile.ts";
import { formats } from "./schema/formats.ts";
import { textsOfPattern } from "./schema/pattern.ts";
import { SchemaLanguage } from "./schema/walk.ts";
import { orderOf, type TokenTexts, Vocabulary, type Walk } from "./vocabulary.ts";

/** A number from 0 to 1. */
const uniform = (seed: bigint, at: number): number =>
  (Math.imul(at + 1, 0x9e3779b1) ^ Math.imul(at ^ (at >>> 7), 0x85ebca6b) ^ Number(seed)) / 2 ** 32 + 0.5;
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

/** Counts the tokens that are gone through. */
class Counting extends Vocabulary {
  tokens = 0;
  override walk(...from: Parameters<Vocabulary["walk"]>): Walk {
    this.tokens += from[0].ids.length;
    return super.walk(...from);
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
  fc
    .tuple(
      fc.constantFrom("a*", "[ab]*", "(a|[b,])*", "([ab,][ab])*", ".*", "[b-]*"),
      fc.constantFrom("a", "[a,]", "b?"),
      fc.nat(40),
      bounds,
    )
    .map(([loop, one, length, [minLength, maxLength]]) => ({
      ...{ type: "string", pattern: `^${loop}${one}([ab,]|\\S){${length}}$` },
      ...(length % 3 === 0 ? { maxLength: 2 * maxLength + length + 1 } : length % 3 === 1 ? { minLength } : {}),
    })),
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
        const bits = automaton.allowed(state)!;
        const next = tokens.map((_, id) => automaton.after(state, id));
        for (const [id, after] of next.entries()) {
          const bit = (bits[id >>> 5]! >>> (id & 31)) & 1;
          assert.equal(bit, after === undefined ? 0 : 1, `${Buffer.from(tokens[id]!)} after ${state} of ${JSON.stringify(schema)}`);
        }
        if (whole(automaton.language.alike(state, { bytes: 16, ends: true })) !== state) far += 1;
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
  return counting.tokens / tokens.length;
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

/** Letters, longer words and runs of one character, as real vocabularies have them. */
function manyTokens(count: number): TokenTexts {
  const texts = Array.from({ length: count }, (_, id) => {
    const length = id < 95 ? 1 : id < 150 ? id - 60 : 2 + Math.floor(uniform(3n, id) * (id % 50 === 0 ? 28 : 9));
    const codes = Array.from({ length }, (_, i) => 32 + (id < 150 ? id % 95 : Math.floor(uniform(5n, id * 32 + i) * 95)));
    return Buffer.from(String.fromCharCode(...codes));
  });
  let end = 0;
  return { bytes: Buffer.concat(texts), ends: Uint32Array.from(texts, ({ length }) => (end += length)) };
}

test("no token of a text asks for many steps, however often a pattern repeats and wherever its text is", () => {
  const texts = manyTokens(5_000);
  const vocabulary = new Vocabulary(texts, orderOf(texts));
  const patterns = [
    "^[ -~]*[a-m][ -~]{450}$",
    "^[ -~]*[a-m][ -~]{14}$",
    "^(?:[ -~][ -~])*[a-m][ -~]{40}$",
    "^([a-m]|[n-z ])*[a-m][a-z ]{20}$",
  ];
  patterns.push("^[a-z]*[a-m][a-z0-9]{400}$", "^.*[a-m].{14}[0-9].*$", "^.*(a.{14}|b.{15})$", "^[ -~]{0,200}[a-m][ -~]{100}$");
  for (const held of [...patterns.map((pattern) => ({ pattern })), ...Object.keys(formats).map((format) => ({ format }))]) {
    const language = jsonSchema(JSON.stringify({ type: "string", ...held }));
    let steps = 0;
    const step: Language["step"] = (state, byte) => {
      steps += 1;
      return language.step(state, byte);
    };
    const counting: Language = { start: language.start, step, alike: language.alike.bind(language), ends: language.ends.bind(language) };
    const automaton = new Automaton(counting, vocabulary);
    let state = language.start;
    let most = 0;
    for (let position = 0; position < 40; position++) {
      steps = 0;
      const bits = automaton.allowed(state)!;
      most = Math.max(most, steps);
      const open = [...texts.ends.keys()].filter((id) => ((bits[id >>> 5]! >>> (id & 31)) & 1) === 1);
      const drawn = open[Math.floor(uniform(7n, position) * open.length)];
      if (drawn === undefined) break;
      state = automaton.after(state, drawn)!;
    }
    assert.ok(most < 9_000, `${most} steps for a token of ${JSON.stringify(held)}`);
  }
});

/** Languages over many tokens whose clock goes on by one at each look. */
async function ofManyTokens() {
  const texts = manyTokens(5_000);
  const known = new Vocabulary(texts, orderOf(texts));
  let now = 0;
  const languages = new Languages(
    5_000,
    async () => known,
    () => now++,
  );
  await languages.prepare();
  const hold = (pattern: string) =>
    languages.hold({ name: "json_schema", spec: JSON.stringify({ type: "string", pattern }) }, [4_999], Uint32Array.of(2));
  return { languages, hold };
}

test("a walk that takes long is left and gone on with, to the same tokens, and who has walked least goes first", async () => {
  const { languages, hold } = await ofManyTokens();
  const [long, short] = [hold("^[ -~]*[a-m][ -~]{450}$"), hold("^[a-c]{9}$")];
  const into = new Uint32Array(5_001);
  const want = long.candidates(into)!;
  const first = into.slice(0, want);
  const again = hold("^[ -~]*[a-n][ -~]{450}$");
  languages.walk(1);
  assert.equal(again.candidates(into), undefined);
  let steps = 0;
  while (again.candidates(into) === undefined && steps++ < 1_000) languages.walk(3);
  assert.ok(steps > 3, `${steps} steps`);
  assert.deepEqual(into.slice(0, want), first);
  const other = hold("^[ -~]*[a-o][ -~]{450}$");
  languages.walk(4);
  assert.deepEqual([other.candidates(into), short.candidates(into)], [undefined, undefined], "no time is left for it");
  for (steps = 0; short.candidates(into) === undefined && steps < 1_000; steps++) languages.walk(3);
  assert.equal(other.candidates(into), undefined, "the one that had walked more waits");
  languages.walk(3);
  const { walkedMs } = other;
  languages.walk(3);
  assert.equal(other.walkedMs, walkedMs, "who does not ask any more gets no time");
});

test("near a bound of lengths the places that are alike are looked for in the same time, and left when it is over", async () => {
  const texts = manyTokens(500);
  const known = new Vocabulary(texts, orderOf(texts));
  let now = 0;
  const languages = new Languages(
    500,
    async () => known,
    () => now++,
  );
  await languages.prepare();
  const spec = JSON.stringify({ type: "string", pattern: "^[ -~]*[a-m][ -~]{100}$", maxLength: 600 });
  const begun = [2, ...Array.from({ length: 520 }, (_, i) => 65 + (i % 26))];
  const held = languages.hold({ name: "json_schema", spec }, [499], Uint32Array.from(begun));
  const into = new Uint32Array(501);
  let turns = 0;
  now = 0;
  languages.walk(8);
  for (let most = 0; held.candidates(into) === undefined; turns++) {
    most = Math.max(most, now);
    now = 0;
    languages.walk(8);
    assert.ok(most <= 40, `${most} looks at the clock at once`);
  }
  assert.ok(turns > 10 && turns < 1_000, `${turns} turns`);
});

/** Its states are the texts of up to nine bytes. */
const texts9: Language = {
  start: ">",
  step: (state, byte) => (state.length > 9 ? undefined : state + String.fromCharCode(byte)),
  alike: (state) => state,
  ends: () => true,
};

test("one automaton at a time has many states: others wait until its walk has ended, or until nobody goes on with it", () => {
  const texts = manyTokens(5_000);
  const vocabulary = new Vocabulary(texts, orderOf(texts));
  const want = new Automaton(texts9, vocabulary).allowed(">")!;
  for (const isLeft of [false, true]) {
    const largeTable = new LargeTable();
    const [one, other, third] = [0, 1, 2].map(() => new Automaton(texts9, vocabulary, largeTable)) as [Automaton, Automaton, Automaton];
    let looks = 0;
    const some = (): boolean => ++looks % 4 !== 0;
    while (one.table.length <= 4_096 * 256) assert.equal(one.allowed(">", some), undefined);
    for (let i = 0; i < 40; i++) for (const waits of [other, third]) assert.equal(waits.allowed(">"), undefined);
    const sizes = [one, other, third].map(({ table }) => table.byteLength / 2 ** 20);
    assert.ok(sizes[0]! > 4 && Math.max(...sizes.slice(1)) <= 4, `${sizes} MiB`);
    if (isLeft) largeTable.pass();
    else while (one.allowed(">", some) === undefined) looks += 1;
    assert.deepEqual(other.allowed(">"), want);
    assert.deepEqual(one.allowed(">"), want, "what was left begins anew");
  }
});

test("a large table is given back once nobody asks for its walk, and not while somebody does, whoever waits", async () => {
  const texts = manyTokens(5_000);
  const known = new Vocabulary(texts, orderOf(texts));
  const table = new LargeTable();
  const automaton = new Automaton(texts9, known, table);
  let looks = 0;
  const grow = () => {
    while (automaton.table.length <= 4_096 * 256)
      assert.equal(
        automaton.allowed(">", () => ++looks % 4 !== 0),
        undefined,
      );
  };
  grow();
  for (let step = 0; step < 200; step++) {
    automaton.uses();
    table.pass(1);
  }
  assert.ok(automaton.table.length > 4_096 * 256, "somebody asks");
  for (let step = 0; step < 64; step++) table.pass(1);
  assert.ok(automaton.table.length < 4_096 * 256, "nobody has for 64 steps");
  grow();
  table.pass();
  assert.ok(automaton.table.length < 4_096 * 256, "no request is open");
});

test("requests that come all the time, each with a schema of its own, put off no walk for ever", async () => {
  const { languages, hold } = await ofManyTokens();
  const into = new Uint32Array(5_001);
  const long = hold("^[ -~]*[a-m][ -~]{450}$");
  const others: Held[] = [];
  let step = 0;
  for (; step < 100; step++) {
    languages.walk(30);
    if (long.candidates(into) !== undefined) break;
    others.push(hold(`^[ -~]*[a-m][ -~]{${100 + step}}$`));
    for (const other of others) other.candidates(into);
  }
  assert.ok(step < 10, `${step} steps`);
});

test("walks of few states never wait for one of many, however many states they found together", () => {
  const texts = manyTokens(300);
  const vocabulary = new Vocabulary(texts, orderOf(texts));
  const largeTable = new LargeTable();
  largeTable.has(new Automaton(texts9, vocabulary));
  const small = new Automaton(texts9, vocabulary, largeTable);
  for (let i = 0; i < 100; i++) assert.ok(small.allowed(String(i)), `walk ${i}`);
});

test("near a bound only the tokens that are longer than what is left are gone through again", () => {
  const parts = vocabulary().parts.map(({ reach, ids }) => [reach.bytes, reach.ends, ids.length]);
  assert.deepEqual(parts, [
    [16, false, 16],
    [24, false, 4],
    [16, true, 9],
    [24, true, 3],
  ]);
  const whole = walksOf({ type: "string", maxLength: 40 }, ['"', ...Array.from({ length: 24 }, () => "a")]);
  assert.equal(whole, 3 + 17 / 32);
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
