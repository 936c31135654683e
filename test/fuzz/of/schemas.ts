// JSON Schemas as clients send them, and what a model may then write: a schema is compiled or refused in bounded time, and a text that
// may end is JSON. States are of bounded size, those that are alike go on alike, and a walk over tokens is bounded and allows the right ones.
import assert from "node:assert/strict";
import { Automaton } from "../../../runtime/constraints/automaton.ts";
import { languageOf } from "../../../runtime/constraints/index.ts";
import { type Constraint, type Language, whole } from "../../../runtime/constraints/language.ts";
import { orderOf, Vocabulary } from "../../../runtime/constraints/vocabulary.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damagedJson, type Random } from "../mutate.ts";
import { chance, json, number, pick, text, times } from "../words.ts";

interface Input extends Constraint {
  /** Which of the bytes that may follow is next, one number a byte. */
  readonly choices: readonly number[];
}

const names = ["a", "ab", "b", "é", 'q"', "type", "__proto__"];
const patterns = ["^a", "^[ab]{2,4}$", "b$", "a.b|^é+$", "^(ab|😀)*$", "(a+)+$", "^\\d{1,9}$", "[^\\w]", "(", "\\1", "^.{0,200}$", "(?=a)"];
patterns.push("^[ -~]*[a-m][ -~]{450}$", "^(a|[^b])*[ab].{14}$", "^([ab]?c?){60}$", "^(?:..)*\\d(.{3}|\\w{5}){4}x");

/** Words that a walk goes through, all of them from each state. */
const words = [
  "",
  ...Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)),
  "ab",
  "abc",
  '":',
  '","',
  '"}',
  "a1",
  "é",
  "\\u00",
  "\\n",
  "😀",
];
for (const length of [9, 15, 24, 70]) words.push("a".repeat(length), "ab1 ".repeat(length / 2).slice(0, length), `${"b".repeat(length)}"`);
const texts = { bytes: Buffer.from(words.join("")), ends: new Uint32Array(words.length) };
for (let id = 0, end = 0; id < words.length; id++) texts.ends[id] = end += Buffer.byteLength(words[id] as string);
const vocabulary = new Vocabulary(texts, orderOf(texts));
/** Tokens of a text, and the steps of a language that each may ask for. */
const tokensMax = 12;
const stepsMax = 20_000;

/** Tokens that a walk allows are those that may come alone. */
function walkTokens(language: Language, choices: readonly number[]): void {
  let steps = 0;
  const counting: Language = {
    start: language.start,
    step: (state, byte) => {
      steps += 1;
      return language.step(state, byte);
    },
    alike: (state, reach) => language.alike(state, reach),
    ends: (state) => language.ends(state),
  };
  const automaton = new Automaton(counting, vocabulary);
  let state = language.start;
  for (const choice of choices.slice(0, tokensMax)) {
    steps = 0;
    const bits = automaton.allowed(state) as Uint32Array;
    assert.ok(steps <= stepsMax, `${steps} steps for one token`);
    const nexts = words.flatMap((_, id) => {
      const next = automaton.after(state, id);
      assert.equal(((bits[id >>> 5] as number) >>> (id & 31)) & 1, next === undefined ? 0 : 1, `${words[id]} after ${state}`);
      return next ?? [];
    });
    const next = nexts[choice % nexts.length];
    if (next === undefined) return;
    state = next;
  }
}

function schemaOf(random: Random, depth: number): unknown {
  const kind = random(depth > 0 ? 9 : 6);
  if (kind === 0)
    return { type: "string", ...few(random, { minLength: random(9), maxLength: random(40), pattern: pick(random, patterns) }) };
  if (kind === 1)
    return { type: pick(random, ["number", "integer"]), ...few(random, { minimum: number(random), maximum: number(random) }) };
  if (kind === 2) return { enum: times(random, 4, () => json(random, 2)) };
  if (kind === 3) return { const: json(random, 2) };
  if (kind === 4)
    return pick(random, [true, false, {}, { type: "boolean" }, { type: ["string", "null"] }, { $ref: "#" }, { $ref: "#/$defs/x" }]);
  if (kind === 5) return { type: "integer", exclusiveMinimum: random(99) - 50, exclusiveMaximum: random(200) - 50 };
  if (kind === 6) {
    const items = few(random, {
      minItems: random(4),
      maxItems: random(6),
      prefixItems: times(random, 2, () => schemaOf(random, depth - 1)),
    });
    return { type: "array", items: schemaOf(random, depth - 1), ...items };
  }
  if (kind === 7) return { [pick(random, ["anyOf", "oneOf", "allOf"])]: times(random, 3, () => schemaOf(random, depth - 1)) };
  const properties = Object.fromEntries(times(random, 4, () => [pick(random, names), schemaOf(random, depth - 1)]));
  const more = few(random, { required: times(random, 3, () => pick(random, names)), additionalProperties: schemaOf(random, depth - 1) });
  return { type: "object", properties, ...more, ...(chance(random, 30) ? { $defs: { x: schemaOf(random, depth - 1) } } : {}) };
}

const few = (random: Random, all: object): object => Object.fromEntries(Object.entries(all).filter(() => chance(random, 50)));

function specOf(random: Random): Constraint {
  const at = random(100);
  if (at < 5) return { name: "json_object", spec: "" };
  const schema = schemaOf(random, 3);
  const spoiled = JSON.stringify(chance(random, 15) ? damagedJson(schema, random) : schema) ?? "";
  if (at < 80) return { name: "json_schema", spec: chance(random, 97) ? spoiled : spoiled.slice(0, random(spoiled.length + 1)) };
  const calls = times(random, 3, () => ({ before: `<c>${text(random, 3)}`, schema: spoiled, after: text(random, 3) || "</c>" }));
  const spec = {
    begin: "",
    end: pick(random, ["", "!"]),
    between: "\n",
    trigger: pick(random, ["", "<c>", "<"]),
    single: chance(random, 50),
    calls,
  };
  return { name: "tool_calls", spec: JSON.stringify(chance(random, 10) ? damagedJson(spec, random) : spec) ?? "" };
}

const stateCharsMax = 64 * 1024;
/** A choice of 94 begins with a printed byte, so that walks go on in words. */
const printed = Array.from({ length: 256 }, (_, i) => (0x21 + i) % 256);

function walk(language: Language, choices: readonly number[], isJson: boolean): void {
  let state = language.start;
  const bytes: number[] = [];
  for (const choice of choices) {
    if (language.ends(state) && isJson) JSON.parse(Buffer.from(bytes).toString());
    assert.ok(state.length <= stateCharsMax, `a state of ${state.length} characters`);
    let next: string | undefined;
    for (let i = 0; i < 256 && next === undefined; i++) {
      const byte = printed[(choice + i) % 256] as number;
      next = language.step(state, byte);
      if (next !== undefined) bytes.push(byte);
    }
    if (next === undefined) {
      assert.ok(language.ends(state), `nothing goes on after ${Buffer.from(bytes)}`);
      return;
    }
    const alike = whole(language.alike(state, { bytes: 4, ends: true }));
    assert.equal(language.step(alike, bytes.at(-1) as number) !== undefined, true, "states that are alike go on alike");
    state = next;
  }
}

const subject = { compile: languageOf };

export const schemas: Fuzzer<typeof subject, Input> = {
  name: "schemas",
  share: 90,
  deadlineMs: 10_000,
  refusals: ["InvalidRequest"],
  start: () => subject,
  input: (random) => ({ ...specOf(random), choices: times(random, 40, () => random(256)) }),
  attempt: ({ compile }, { name, spec, choices }) => {
    const language = compile({ name, spec });
    walk(language, choices, name !== "tool_calls");
    walkTokens(language, choices);
  },
  plant: ({ compile }) => ({ compile: unguarded(compile, /no number is within its bounds|never ends|no text has it/) }),
};
