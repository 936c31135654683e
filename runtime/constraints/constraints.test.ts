// Constraints: the language of JSON objects beside JSON.parse, the sets of allowed tokens beside each token tried alone, and texts of
// random logits that are held to a language, whole and from the middle on.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { OpenSampling } from "../engine/schedule/sampling/open-sampling.ts";
import { Sampler } from "../engine/schedule/sampling/sampler.ts";
import { Automaton } from "./automaton.ts";
import { languageOf } from "./index.ts";
import { Languages } from "./languages.ts";
import { orderOf, type TokenTexts, Vocabulary } from "./vocabulary.ts";

const object = { name: "json_object", spec: "" } as const;
const json = languageOf(object);
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

function verdict(text: string): "whole" | "part" | "wrong" {
  let state: string | undefined = json.start;
  for (const byte of bytesOf(text)) {
    state = json.step(state, byte);
    if (state === undefined) return "wrong";
  }
  return json.ends(state) ? "whole" : "part";
}

function isObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

test("every JSON object is a text of the language, each of its beginnings a part of one", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 4 })), fc.constantFrom(undefined, 1, "\t"), (value, indent) => {
      const text = JSON.stringify(value, null, indent);
      let state = json.start;
      for (const byte of bytesOf(text)) {
        assert.equal(json.ends(state), false, text);
        const next = json.step(state, byte);
        assert.ok(next !== undefined, text);
        state = next;
      }
      assert.ok(json.ends(state), text);
      assert.equal(json.step(state, 0x20), undefined, "nothing comes after it");
    }),
    { numRuns: 100 },
  );
});

test("what is put together at random is a text of the language exactly when JSON.parse takes it as an object", () => {
  const parts = ["{", "}", "[", "]", ",", ":", '"', '"a":', '"b"', "0", "-1", "01", "1.5", ".5", "2e+3", "1e", "tru", "true", "null", " "];
  const odd = ["\n", '"\\n"', '"\\u00e9":', '"\\u00g0"', '"\\x"', '"é"', "\u0001", "fals", "'"];
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...parts, ...odd), { maxLength: 7 }), (middle) => {
      for (const text of [`{${middle.join("")}}`, `{"k":[${middle.join(",")}]}`, middle.join("")])
        if (!text.endsWith(" ") && !/^\s|\s$/.test(text)) assert.equal(verdict(text) === "whole", isObject(text), text);
    }),
    { numRuns: 3000 },
  );
});

test("depth and white space are bounded", () => {
  const nested = (depth: number) => `{"a":${"[".repeat(depth)}${"]".repeat(depth)}}`;
  assert.equal(verdict(nested(63)), "whole");
  assert.equal(verdict(nested(64)), "wrong");
  assert.equal(verdict(`{${" ".repeat(64)}}`), "whole");
  assert.equal(verdict(`{${" ".repeat(65)}`), "wrong");
});

/** Tokens as vocabularies have them: letters, runs of marks, words, spaces, parts of characters, one without text, one too long. */
const texts: readonly (Uint8Array | undefined)[] = [
  undefined,
  ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  ...[
    '{"',
    '"}',
    '":',
    '": "',
    '", "',
    "}}",
    "]}",
    "}]}",
    "[[",
    "{}",
    " {",
    "  ",
    "\n  ",
    "true",
    " false",
    "null",
    "nu",
    "ll",
    "12",
    "0.",
    "e+",
  ].map(bytesOf),
  ...["name", "na", "nam", '"name"', '"name":', "\\u", "\\n", "00e9"].map(bytesOf),
  new Uint8Array(0),
  bytesOf("a".repeat(600)),
  bytesOf("name"),
];
const eos = 0;

function textsOf(tokens: readonly (Uint8Array | undefined)[]): TokenTexts {
  let end = 0;
  return {
    bytes: Buffer.concat(tokens.map((text) => text ?? Buffer.of())),
    ends: Uint32Array.from(tokens, (text) => (end += text?.length ?? 0)),
  };
}

const vocabularyOf = (tokens: TokenTexts) => new Vocabulary(tokens, orderOf(tokens));
const vocabulary = vocabularyOf(textsOf(texts));
const languagesOf = async (of: Vocabulary, size = texts.length): Promise<Languages> => {
  const languages = new Languages(size, async () => of);
  await languages.prepare();
  return languages;
};

test("the tokens that are allowed in a state are those that may come alone", () => {
  const automaton = new Automaton(json, vocabulary);
  const beginnings = ["", "{", '{"a', '{"a\\', '{"a":', '{"a":1', '{"a":[', '{"a":[{"b":[tr', '{"a":"x"', '{"a":-', '{"\\u0', "{}"];
  for (const beginning of [...beginnings, ...beginnings]) {
    const state = [...bytesOf(beginning)].reduce((from, byte) => json.step(from, byte)!, json.start);
    const bits = automaton.allowed(state)!;
    for (let id = 0; id < texts.length; id++)
      assert.equal((bits[id >>> 5]! >>> (id & 31)) & 1, automaton.after(state, id) === undefined ? 0 : 1, `${beginning} + token ${id}`);
  }
});

const sampler = new Sampler();
/** Numbers that favour ends of strings and brackets, so that texts end. */
const logitsAt = (seed: number, position: number): Float32Array =>
  Float32Array.from({ length: texts.length }, (_, id) => {
    const text = texts[id];
    const closes = text?.length === 1 && '"}]'.includes(String.fromCharCode(text[0]!));
    return 3 * Math.sin((id + 1) * (seed + 2) * 12.9898 + position * 78.233) + (closes ? 3 : 0);
  });

function held(languages: Languages, temperature: number, seed: number, replay: readonly number[] = []): number[] {
  const sampling = { temperature, topP: 1, topK: 0, seed: BigInt(seed), constraint: object } as const;
  const request = new OpenSampling({ sampling, prompt: Uint32Array.of(1), replay: Uint32Array.from(replay), eos: [eos] }, languages);
  const tokens = [...replay];
  while (tokens.length < 400 && tokens.at(-1) !== eos) {
    const { token } = sampler.sample(logitsAt(seed, tokens.length), request, tokens.length)!;
    request.accept(token, tokens.length);
    tokens.push(token);
  }
  return tokens;
}

test("a text that is held to JSON is an object once it ends, greedy or drawn, and goes on the same from any token", async () => {
  const languages = await languagesOf(vocabulary);
  const others = await languagesOf(vocabulary);
  let ended = 0;
  for (let seed = 0; seed < 40; seed++) {
    for (const temperature of [0, 1]) {
      const tokens = held(languages, temperature, seed);
      const text = Buffer.concat(tokens.map((id) => texts[id] ?? new Uint8Array(0))).toString();
      if (tokens.at(-1) === eos) {
        assert.ok(isObject(text), text);
        ended += 1;
      } else assert.equal(verdict(text), "part", text);
      const cut = Math.floor(tokens.length / 2);
      assert.deepEqual(held(others, temperature, seed, tokens.slice(0, cut)), tokens);
    }
  }
  assert.ok(ended > 20, `${ended} of 80 ended`);
});

test("what cannot be held is refused: no end, no tokenizer, tokens that no text of the language has, a vocabulary without braces", async () => {
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, constraint: object } as const;
  const none = new Uint32Array(0);
  const languages = await languagesOf(vocabulary);
  const open = (over: Partial<ConstructorParameters<typeof OpenSampling>[0]>, of = languages) =>
    new OpenSampling({ sampling, prompt: none, replay: none, eos: [eos], ...over }, of);
  assert.throws(() => open({ eos: [] }), { code: "InvalidRequest", message: /ignore_eos/ });
  const other = { ...sampling, constraint: { name: "toString" as "json_object", spec: "" } };
  assert.throws(() => open({ sampling: other }), { code: "InvalidRequest", message: /toString is not one of json_object/ });
  assert.throws(() => open({ replay: Uint32Array.of(98) }), { code: "InvalidRequest", message: /token 98/ });
  const letters = await languagesOf(vocabularyOf(textsOf([undefined, bytesOf("a"), bytesOf("b")])), 3);
  assert.throws(() => sampler.sample(Float32Array.of(1, 2, 3), open({}, letters), 0), { code: "InvalidRequest", message: /no token/ });
});

test("a vocabulary that could not be read is read again for the next request", async () => {
  let reads = 0;
  const languages = new Languages(texts.length, async () => {
    reads += 1;
    if (reads === 1) throw new Error("no such file");
    return vocabulary;
  });
  await assert.rejects(languages.prepare(), { code: "InvalidRequest", message: /no such file/ });
  await Promise.all([languages.prepare(), languages.prepare()]);
  assert.equal(reads, 2);
});
