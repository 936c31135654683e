// Byte-level BPE in GGUF (`tokenizer.ggml.model` = "gpt2") as tokenizer.json; the pre-tokenizer must be known.
import type { GgufTokens, TokenizerParts } from "./tokens.ts";

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true } as const;
const gpt2 = { ...byteLevel, use_regex: true };

const sequence = (...pretokenizers: readonly unknown[]): unknown => ({ type: "Sequence", pretokenizers });
const split = (Regex: string): unknown => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false });
/** Applies the patterns one after the other. */
const cuts = (...patterns: readonly string[]): unknown => sequence(...patterns.map(split), { ...byteLevel, use_regex: false });

const endings = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const word = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
const blanks = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`;
const rest = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*|${blanks}`;
const [upper, lower] = [String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`];
const before = String.raw`[^\r\n\p{L}\p{N}]?`;
const o200k = `${before}${upper}*${lower}+${endings}?|${before}${upper}+${lower}*${endings}?`;
const deepseek = String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_${"`"}{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*`;

/** Letters with upper and lower case, in the Unicode version of DeepSeek's first tokenizer: hex code points and ranges. */
const ranges = `
41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556
10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b
1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115
2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d
a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2
10cc0-10cf2 118a0-118df 1e900-1e943`;

const character = (hex: string): string => String.fromCodePoint(Number.parseInt(hex, 16));

/** The inside of a regular expression's character class. */
const casedLetters: string = ranges
  .trim()
  .split(/\s+/)
  .map((range) => range.split("-").map(character).join("-"))
  .join("");

/** Line ends, words, punctuation, trailing blanks, Chinese and Korean, single digits. */
const firstDeepseek = [
  "[\r\n]",
  `\\s?[${casedLetters}]+`,
  String.raw`\s?[!-/:-~！-／：-～‘-‟　-。]+`,
  String.raw`\s+$`,
  "[一-龥ࠀ-一가-퟿]+",
  String.raw`\p{N}`,
];

interface PreTokenizer {
  readonly pre: unknown;
  readonly normalizer?: unknown;
  /** A text that is a token stays one, whatever merges say. */
  readonly ignoreMerges?: boolean;
}

const nfc = { type: "NFC" };

/** Keys are llama.cpp's names in `tokenizer.ggml.pre`. */
const preTokenizers: Readonly<Record<string, PreTokenizer>> = {
  "gpt-2": { pre: gpt2 },
  smollm: { pre: sequence({ type: "Digits", individual_digits: true }, gpt2) },
  olmo: { pre: gpt2, normalizer: nfc },
  qwen2: { pre: cuts(String.raw`${endings}|${word}|\p{N}|${rest}`), normalizer: nfc },
  "llama-bpe": { pre: cuts(String.raw`${endings}|${word}|\p{N}{1,3}|${rest}`), ignoreMerges: true },
  "gpt-4o": { pre: cuts(String.raw`${o200k}|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|${blanks}`), ignoreMerges: true },
  "deepseek-llm": { pre: cuts(...firstDeepseek) },
  "deepseek-v3": { pre: cuts(String.raw`\p{N}{1,3}`, "[一-龥぀-ゟ゠-ヿ]+", `${deepseek}|${blanks}`) },
};

export function bpeParts(tokens: GgufTokens): TokenizerParts {
  const pre = tokens.text("tokenizer.ggml.pre") ?? "gpt-2";
  const found = Object.hasOwn(preTokenizers, pre) ? preTokenizers[pre] : undefined;
  if (!found) throw tokens.unsupported(`its pre-tokenizer "${pre}" is none of ${Object.keys(preTokenizers).join(", ")}`);
  const merges = tokens.texts("tokenizer.ggml.merges");
  const badMerge = merges.find((merge) => merge.split(" ").length !== 2);
  if (badMerge !== undefined) throw tokens.broken(`merge "${badMerge}" is no pair`);
  return {
    normalizer: found.normalizer ?? null,
    preTokenizer: found.pre,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    beginsWithBos: false,
    model: { ignore_merges: found.ignoreMerges ?? false, byte_fallback: false, fuse_unk: false, unk_token: null, merges },
  };
}
