// The model of the training demo: a Mixtral so small that two processors teach it to write within two minutes, whose tokens are bytes, so
// that no tokenizer has to be trained. Its weights are drawn by the job. Pure.

/** The token of each byte, as byte-level vocabularies write it: printable ones as they are, others by characters from 256 on. */
function byteTokens(): string[] {
  const printable = (byte: number): boolean => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : 256 + others++));
}

const end = "<|endoftext|>";
const endId = 256;

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
const added = { id: endId, content: end, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };

const tokenizer = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: [added],
  normalizer: null,
  pre_tokenizer: byteLevel,
  post_processor: null,
  decoder: byteLevel,
  model: {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    vocab: Object.fromEntries(byteTokens().map((token, id) => [token, id])),
    merges: [],
  },
};

export const config = {
  architectures: ["MixtralForCausalLM"],
  model_type: "mixtral",
  hidden_act: "silu",
  hidden_size: 96,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  num_key_value_heads: 3,
  num_local_experts: 8,
  num_experts_per_tok: 2,
  vocab_size: endId + 1,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  sliding_window: null,
  tie_word_embeddings: false,
  initializer_range: 0.05,
  eos_token_id: endId,
};

/** The files of its folder, by name. */
export const modelFiles: Readonly<Record<string, string>> = {
  "config.json": JSON.stringify(config, undefined, 2),
  "tokenizer.json": JSON.stringify(tokenizer),
  "tokenizer_config.json": JSON.stringify({ eos_token: end, tokenizer_class: "PreTrainedTokenizerFast" }),
};
