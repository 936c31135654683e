// Byte-level BPE in GGUF (`tokenizer.ggml.model` = "gpt2") as tokenizer.json; the pre-tokenizer must be known.
import { casedLetters } from "./cased-letters.ts";
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
