// Converts a GGUF's tokenizer to tokenizer.json, tokenizer_config.json and chat template. A new kind is a file and a line in `kinds`.
import type { GgufValue } from "../../weights/gguf-header.ts";
import { bpeParts } from "./tokenizer-bpe.ts";
import { GgufTokens, type TokenizerParts, tokensKey } from "./tokens.ts";

type Metadata = ReadonlyMap<string, GgufValue>;

const controlToken = 3;
const userToken = 4;

/** Keys are values of `tokenizer.ggml.model`. */
const kinds: Readonly<Record<string, (tokens: GgufTokens) => TokenizerParts>> = { gpt2: bpeParts, llama: spmParts };

export interface TokenizerFiles {
  readonly tokenizer: Readonly<Record<string, unknown>>;
  readonly tokenizerConfig: Readonly<Record<string, unknown>>;
  readonly vocabulary: number;
}

/** Texts encoded with special tokens begin with this one. */
function beginWith(token: string, id: number): unknown {
  const special = { SpecialToken: { id: token, type_id: 0 } };
  const single = [special, { Sequence: { id: "A", type_id: 0 } }];
  const pair = [...single, { Sequence: { id: "B", type_id: 1 } }];
  return { type: "TemplateProcessing", single, pair, special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } } };
}

export function tokenizerFromGguf(metadata: Metadata, where: string): TokenizerFiles {
  const tokens = new GgufTokens(metadata, where);
  const model = tokens.text("tokenizer.ggml.model") ?? "none";
  const kind = Object.hasOwn(kinds, model) ? kinds[model] : undefined;
  if (!kind) throw tokens.unsupported(`its tokenizer is of kind "${model}", only ${Object.keys(kinds).join(" and ")} are read from GGUF`);
  const parts = kind(tokens);
  const texts = tokens.texts(tokensKey);
  const added = texts.flatMap((content, id) => {
    const type = tokens.typeOf(id);
    if (type !== controlToken && type !== userToken) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: type === controlToken }];
  });
  const bos = tokens.named("tokenizer.ggml.bos_token_id");
  const begins = bos !== undefined && (tokens.flag("tokenizer.ggml.add_bos_token") ?? parts.beginsWithBos);
  const config: Record<string, unknown> = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    add_prefix_space: false,
    bos_token: bos ?? null,
    eos_token: tokens.named("tokenizer.ggml.eos_token_id") ?? null,
    pad_token: tokens.named("tokenizer.ggml.padding_token_id") ?? null,
    unk_token: tokens.named("tokenizer.ggml.unknown_token_id") ?? null,
  };
  const template = tokens.text("tokenizer.chat_template");
  if (template !== undefined) config.chat_template = template;
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: parts.normalizer,
      pre_tokenizer: parts.preTokenizer,
      post_processor: begins ? beginWith(bos, texts.indexOf(bos)) : null,
      decoder: parts.decoder,
      model: {
        type: "BPE",
        dropout: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        vocab: Object.fromEntries(texts.map((token, id) => [token, id])),
        ...parts.model,
      },
    },
    tokenizerConfig: config,
    vocabulary: texts.length,
  };
}

const space = "\u2581";
const unknownToken = 2;
/** SentencePiece's default maximum is 16 characters. */
const mergedCharactersMax = 64;
const nothing: readonly unknown[] = [];

interface Merge {
  readonly pair: readonly [left: string, right: string];
  readonly score: number;
  readonly left: number;
  readonly right: number;
}

function mergesOf(texts: readonly string[], scores: readonly number[], ids: ReadonlyMap<string, number>): readonly Merge["pair"][] {
  const merges: Merge[] = [];
  for (const [id, text] of texts.entries()) {
    const characters = [...text];
    if (characters.length > mergedCharactersMax) continue;
    let left = "";
    for (const character of characters.slice(0, -1)) {
      left += character;
      const right = text.slice(left.length);
      const [l, r] = [ids.get(left), ids.get(right)];
      if (l !== undefined && r !== undefined) merges.push({ pair: [left, right], score: scores[id] ?? 0, left: l, right: r });
    }
  }
  return merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right).map(({ pair }) => pair);
}

function spmParts(tokens: GgufTokens): TokenizerParts {
  const texts = tokens.texts("tokenizer.ggml.tokens");
  const scores = tokens.numbers("tokenizer.ggml.scores");
  if (scores.length !== texts.length) throw tokens.broken(`${texts.length} tokens have ${scores.length} scores`);
  const ids = new Map(texts.map((text, id) => [text, id]));
  const unknown = texts.findIndex((_, id) => tokens.typeOf(id) === unknownToken);
  const prefixed = tokens.flag("tokenizer.ggml.add_space_prefix") ?? true;
  const toSpace = { type: "Replace", pattern: { String: " " }, content: space };
  const normalizers = [...(prefixed ? [{ type: "Prepend", prepend: space }] : nothing), toSpace];
  const fromSpace = { type: "Replace", pattern: { String: space }, content: " " };
  const strip = prefixed ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : nothing;
  return {
    normalizer: { type: "Sequence", normalizers },
    preTokenizer: null,
    decoder: { type: "Sequence", decoders: [fromSpace, { type: "ByteFallback" }, { type: "Fuse" }, ...strip] },
    beginsWithBos: true,
    model: {
      ignore_merges: false,
      byte_fallback: true,
      fuse_unk: true,
      unk_token: texts[unknown] ?? null,
      merges: mergesOf(texts, scores, ids),
    },
  };
}
