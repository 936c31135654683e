// SentencePiece BPE in GGUF (`tokenizer.ggml.model` = "llama": Llama 2, Mixtral) as tokenizer.json. Merges are derived: two tokens merge
// where their text is a token, best scores first.
import type { GgufTokens, TokenizerParts } from "./tokens.ts";

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

export function spmParts(tokens: GgufTokens): TokenizerParts {
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
