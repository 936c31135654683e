// The tokenizer inside a GGUF file as Hugging Face's tokenizer.json, tokenizer_config.json and chat template. Pure.
// Byte-level BPE only; the pre-tokenizer is named in the metadata and must be one we have checked encodings for.
import { AppError } from "../../../crds/common.ts";
import type { GgufValue } from "../../weights/gguf-header.ts";
import { ggufInteger } from "./metadata.ts";

type Metadata = ReadonlyMap<string, GgufValue>;

const controlToken = 3;
const userToken = 4;

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true } as const;

/** Pre-tokenizers by `tokenizer.ggml.pre`. smollm splits every digit off before GPT-2's own pattern. */
const preTokenizers: Readonly<Record<string, unknown>> = {
  "gpt-2": byteLevel,
  smollm: { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, byteLevel] },
};

export interface TokenizerFiles {
  readonly tokenizer: Readonly<Record<string, unknown>>;
  readonly tokenizerConfig: Readonly<Record<string, unknown>>;
  readonly vocabulary: number;
}

function strings(metadata: Metadata, key: string, where: string): readonly string[] {
  const value = metadata.get(key);
  if (!Array.isArray(value) || value.some((item) => typeof item !== "string")) {
    throw new AppError(`${where}: GGUF metadata "${key}" is no list of texts, so no tokenizer can be made`, { code: "BadTokenizer" });
  }
  return value as readonly string[];
}

function unsupported(where: string, what: string): AppError {
  return new AppError(`${where}: ${what}; import the model from its Hugging Face folder, which has tokenizer.json`, {
    code: "UnsupportedTokenizer",
  });
}

function specialName(metadata: Metadata, key: string, tokens: readonly string[], where: string): string | undefined {
  const id = ggufInteger(metadata, key);
  if (id === undefined) return undefined;
  const token = tokens[id];
  if (token === undefined)
    throw new AppError(`${where}: GGUF metadata "${key}" = ${id} is outside the vocabulary of ${tokens.length}`, { code: "BadTokenizer" });
  return token;
}

export function tokenizerFromGguf(metadata: Metadata, where: string): TokenizerFiles {
  const model = metadata.get("tokenizer.ggml.model");
  if (model !== "gpt2")
    throw unsupported(where, `its tokenizer is of kind "${String(model)}", only byte-level BPE ("gpt2") is read from GGUF`);
  const pre = String(metadata.get("tokenizer.ggml.pre") ?? "gpt-2");
  if (!Object.hasOwn(preTokenizers, pre))
    throw unsupported(where, `its pre-tokenizer "${pre}" is none of ${Object.keys(preTokenizers).join(", ")}`);
  const tokens = strings(metadata, "tokenizer.ggml.tokens", where);
  const merges = strings(metadata, "tokenizer.ggml.merges", where);
  const types = metadata.get("tokenizer.ggml.token_type");
  const typeOf = (id: number): unknown => (Array.isArray(types) ? types[id] : undefined);
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const added = tokens.flatMap((content, id) => {
    const type = typeOf(id);
    if (type !== controlToken && type !== userToken) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: type === controlToken }];
  });
  const badMerge = merges.find((merge) => merge.split(" ").length !== 2);
  if (badMerge !== undefined) throw new AppError(`${where}: merge "${badMerge}" is no pair`, { code: "BadTokenizer" });
  const config = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    add_prefix_space: false,
    bos_token: specialName(metadata, "tokenizer.ggml.bos_token_id", tokens, where) ?? null,
    eos_token: specialName(metadata, "tokenizer.ggml.eos_token_id", tokens, where) ?? null,
    pad_token: specialName(metadata, "tokenizer.ggml.padding_token_id", tokens, where) ?? null,
    unk_token: specialName(metadata, "tokenizer.ggml.unknown_token_id", tokens, where) ?? null,
    ...(metadata.has("tokenizer.chat_template") ? { chat_template: String(metadata.get("tokenizer.chat_template")) } : {}),
  };
  return { tokenizer: tokenizerJson(vocab, merges, added, preTokenizers[pre]), tokenizerConfig: config, vocabulary: tokens.length };
}

function tokenizerJson(
  vocab: unknown,
  merges: readonly string[],
  added: readonly unknown[],
  preTokenizer: unknown,
): Readonly<Record<string, unknown>> {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: preTokenizer,
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}
