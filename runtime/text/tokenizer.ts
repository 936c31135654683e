// The tokenizer of a model folder: text to ids, chats to ids through the model's own template, ids to streamed text.
// Reads tokenizer.json, tokenizer_config.json, chat_template.jinja and the two configs that say where text ends.
// Not here: stop strings (stop-text.ts) and usage (the gateway).
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { ByteLevelDecoder, byteLevelBytes, sentencePieceBytes, WindowDecoder } from "./detokenize.ts";
import type { TokenDecoder } from "./stop-text.ts";
import type { ChatMessage, TextModel } from "./text-model.ts";

/** Twice the longest tokenizer.json known; parsed JSON may take ten times its text. */
const fileBytesMax = 64 * 1024 * 1024;
const templateBytesMax = 1024 * 1024;
const tokenId = z.number().int().min(0).max(4_294_967_295);

const tokenizerSchema = z.looseObject({
  model: z.looseObject({
    type: z.string().optional(),
    vocab: z.union([z.record(z.string(), tokenId), z.array(z.tuple([z.string(), z.number()]))]),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
  }),
  added_tokens: z.array(z.looseObject({ id: tokenId, content: z.string(), special: z.boolean().default(false) })).default([]),
  decoder: z.unknown(),
});
type TokenizerJson = z.infer<typeof tokenizerSchema>;

const namedToken = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish();
const configSchema = z.looseObject({
  bos_token: namedToken,
  eos_token: namedToken,
  pad_token: namedToken,
  unk_token: namedToken,
  chat_template: z.union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))]).nullish(),
});
type TokenizerConfig = z.infer<typeof configSchema>;

const endsSchema = z.looseObject({
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  vocab_size: z.number().int().min(1).nullish(),
});

function broken(path: string, what: string, cause?: unknown): AppError {
  return new AppError(`${path}: ${what}; import the model again from an intact source`, {
    code: "BadTokenizer",
    operation: "loading the tokenizer",
    ...(cause === undefined ? {} : { cause }),
  });
}

async function readText(path: string, most: number): Promise<string | undefined> {
  const info = await stat(path).catch(() => undefined);
  if (!info) return undefined;
  if (!info.isFile()) throw broken(path, "is not a regular file");
  if (info.size > most) throw broken(path, `has ${info.size} bytes, more than the ${most} allowed`);
  return readFile(path, "utf8");
}

async function readParsed<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  const text = await readText(path, fileBytesMax);
  if (text === undefined) return undefined;
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw broken(path, `is not JSON (${cause instanceof Error ? cause.message : cause})`, cause);
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw broken(path, `field ${issue?.path.join(".") || "(root)"}: ${issue?.message ?? "invalid"}`);
}

const contentOf = (token: z.infer<typeof namedToken>): string | undefined => (typeof token === "string" ? token : token?.content);

/** Ids to token texts, special ones marked. Throws when an id is outside the model's embedding table. */
function tokensById(
  path: string,
  json: TokenizerJson,
  vocab: number,
): { readonly texts: readonly string[]; readonly special: ReadonlySet<number> } {
  const texts: string[] = [];
  const entries: [string, number][] = Array.isArray(json.model.vocab)
    ? json.model.vocab.map(([text], id) => [text, id])
    : Object.entries(json.model.vocab);
  for (const { content, id } of json.added_tokens) entries.push([content, id]);
  for (const [text, id] of entries) {
    if (id >= vocab) throw broken(path, `token ${JSON.stringify(text)} has id ${id}, the model's vocabulary has ${vocab}`);
    texts[id] = text;
  }
  return { texts, special: new Set(json.added_tokens.filter((token) => token.special).map((token) => token.id)) };
}

/** Byte-level vocabularies decode token by token; they are the common case. */
function isByteLevel(decoder: unknown): boolean {
  const parsed = z.looseObject({ type: z.string(), decoders: z.array(z.unknown()).optional() }).safeParse(decoder);
  if (!parsed.success) return false;
  if (parsed.data.type === "ByteLevel") return true;
  return parsed.data.type === "Sequence" && parsed.data.decoders?.length === 1 && isByteLevel(parsed.data.decoders[0]);
}

async function chatTemplate(dir: string, config: TokenizerConfig): Promise<Template | undefined> {
  const path = join(dir, "chat_template.jinja");
  const inline = config.chat_template;
  const named = Array.isArray(inline) ? inline.find(({ name }) => name === "default")?.template : inline;
  const text = (await readText(path, templateBytesMax)) ?? named;
  if (!text) return undefined;
  try {
    return new Template(text);
  } catch (cause) {
    throw broken(path, `the chat template does not parse (${cause instanceof Error ? cause.message : cause})`, cause);
  }
}

function renderChat(template: Template | undefined, config: TokenizerConfig, messages: readonly ChatMessage[]): string {
  if (!template)
    throw new AppError("this model has no chat template; use /v1/completions", { code: "InvalidRequest", operation: "rendering the chat" });
  try {
    return template.render({
      messages,
      add_generation_prompt: true,
      bos_token: contentOf(config.bos_token) ?? "",
      eos_token: contentOf(config.eos_token) ?? "",
      pad_token: contentOf(config.pad_token) ?? "",
      unk_token: contentOf(config.unk_token) ?? "",
    });
  } catch (cause) {
    throw new AppError(`messages: the model's chat template refuses them (${cause instanceof Error ? cause.message : cause})`, {
      code: "InvalidRequest",
      operation: "rendering the chat",
      cause,
    });
  }
}

/** Every id at which generation ends: what any of the three files names. One outside the vocabulary would never come. */
async function endIds(
  dir: string,
  config: TokenizerConfig,
  vocab: number,
  texts: readonly string[],
): Promise<{ readonly eosIds: readonly number[] }> {
  const ids = new Set<number>();
  for (const name of ["generation_config.json", "config.json"]) {
    const ends = (await readParsed(join(dir, name), endsSchema))?.eos_token_id;
    for (const id of Array.isArray(ends) ? ends : ends === undefined || ends === null ? [] : [ends]) {
      if (id >= vocab) throw broken(join(dir, name), `eos_token_id is ${id}, the model's vocabulary has ${vocab}`);
      ids.add(id);
    }
  }
  const named = contentOf(config.eos_token);
  const id = named === undefined ? -1 : texts.indexOf(named);
  if (id >= 0) ids.add(id);
  return { eosIds: [...ids].sort((a, b) => a - b) };
}

function build(path: string, json: TokenizerJson, config: TokenizerConfig): Tokenizer {
  try {
    const tokenizer = new Tokenizer(json, config);
    // A vocabulary that knows no letter encodes without an error, to nothing.
    if (tokenizer.encode("probe").ids.length === 0) throw new Error("it encodes text to no token at all");
    return tokenizer;
  } catch (cause) {
    throw broken(path, `cannot be used (${cause instanceof Error ? cause.message : cause})`, cause);
  }
}

export interface ModelTokenizer extends TextModel {
  /** The prompt text that `encodeChat` tokenises. */
  chatText(messages: readonly ChatMessage[]): string;
  /** All ids at once, special tokens left out. */
  decode(ids: readonly number[]): string;
}

/** Loads the tokenizer of a store or model folder; throws AppError `BadTokenizer` naming the file and field. */
export async function loadTokenizer(dir: string): Promise<ModelTokenizer> {
  const path = join(dir, "tokenizer.json");
  const json = await readParsed(path, tokenizerSchema);
  if (!json) throw broken(path, "not found");
  const config = (await readParsed(join(dir, "tokenizer_config.json"), configSchema)) ?? configSchema.parse({});
  const model = await readParsed(join(dir, "config.json"), endsSchema);
  const vocab = model?.vocab_size;
  if (!vocab) throw broken(join(dir, "config.json"), "has no vocab_size");
  const { texts, special } = tokensById(path, json, vocab);
  const tokenizer = build(path, json, config);
  const template = await chatTemplate(dir, config);
  const added = new Set(json.added_tokens.map((token) => token.id));
  const byteLevel = isByteLevel(json.decoder);
  const piece = (id: number): Uint8Array => {
    const text = texts[id] ?? "";
    if (added.has(id)) return new TextEncoder().encode(text);
    return byteLevel ? byteLevelBytes(text) : sentencePieceBytes(text);
  };
  const bytesOf = (id: number) => (texts[id] === undefined || special.has(id) ? undefined : piece(id));
  const decodeWindow = (ids: readonly number[]): string =>
    ids.length === 0 ? "" : tokenizer.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  const decoder: () => TokenDecoder = byteLevel ? () => new ByteLevelDecoder(bytesOf) : () => new WindowDecoder(decodeWindow);
  const { eosIds } = await endIds(dir, config, vocab, texts);
  const chatText = (messages: readonly ChatMessage[]) => renderChat(template, config, messages);
  return {
    vocab,
    eosIds,
    charsPerTokenMax: texts.reduce((most, text) => Math.max(most, text.length), 1),
    encode: (text) => (text === "" ? [] : tokenizer.encode(text).ids),
    chatText,
    encodeChat: (messages) => tokenizer.encode(chatText(messages), { add_special_tokens: false }).ids,
    decoder,
    decode(ids) {
      const stream = decoder();
      return ids.map((id) => stream.push(id)).join("") + stream.flush();
    },
    piece,
  };
}
