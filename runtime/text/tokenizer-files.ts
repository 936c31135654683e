// Reads and checks the text files of a model folder; errors name file and field.
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";

/** Twice the longest known tokenizer.json; parsed JSON may take ten times its text. */
const fileBytesMax = 64 * 1024 * 1024;
const templateBytesMax = 1024 * 1024;
const tokenId = z.number().int().min(0).max(4_294_967_295);

const addedToken = z.looseObject({
  id: tokenId,
  content: z.string(),
  special: z.boolean().default(false),
  normalized: z.boolean().optional(),
});
export type AddedToken = z.infer<typeof addedToken>;

const tokenizerSchema = z.looseObject({
  model: z.looseObject({
    type: z.string().optional(),
    vocab: z.union([z.record(z.string(), tokenId), z.array(z.tuple([z.string(), z.number()]))]),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
  }),
  added_tokens: z.array(addedToken).default([]),
  normalizer: z.unknown(),
  post_processor: z.unknown(),
  decoder: z.unknown(),
});
export type TokenizerJson = z.infer<typeof tokenizerSchema>;

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

export interface TextFiles {
  readonly path: string;
  readonly json: TokenizerJson;
  readonly config: TokenizerConfig;
  readonly template: { readonly path: string; readonly text: string } | undefined;
  readonly vocab: number;
  /** The index is the id; there are holes. */
  readonly texts: readonly string[];
  /** Ids that end generation, ascending. */
  readonly eosIds: readonly number[];
}

export function broken(path: string, what: string, cause?: unknown): AppError {
  return new AppError(`${path}: ${what}; import the model again from an intact source`, {
    code: "BadTokenizer",
    operation: "loading the tokenizer",
    ...(cause === undefined ? {} : { cause }),
  });
}

/** Throws AppError `BadTokenizer`. */
export async function readTextFiles(dir: string): Promise<TextFiles> {
  const path = join(dir, "tokenizer.json");
  const json = await readParsed(path, tokenizerSchema);
  if (!json) throw broken(path, "not found");
  const config = (await readParsed(join(dir, "tokenizer_config.json"), configSchema)) ?? configSchema.parse({});
  const model = await readParsed(join(dir, "config.json"), endsSchema);
  const vocab = model?.vocab_size;
  if (!vocab) throw broken(join(dir, "config.json"), "has no vocab_size");
  const texts = textsById(path, json, vocab);
  return { path, json, config, template: await chatTemplate(dir, config), vocab, texts, eosIds: await endIds(dir, config, vocab, texts) };
}

export const contentOf = (token: z.infer<typeof namedToken>): string | undefined => (typeof token === "string" ? token : token?.content);

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
    throw broken(path, "is not JSON", cause); // the cause quotes it, and a download may be anybody's answer
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw broken(path, `field ${issue?.path.join(".") || "(root)"}: ${issue?.message ?? "invalid"}`);
}

/** Throws when an id is outside the model's embedding table. */
function textsById(path: string, json: TokenizerJson, vocab: number): readonly string[] {
  const texts: string[] = [];
  const entries: [string, number][] = Array.isArray(json.model.vocab)
    ? json.model.vocab.map(([text], id) => [text, id])
    : Object.entries(json.model.vocab);
  for (const { content, id } of json.added_tokens) entries.push([content, id]);
  for (const [text, id] of entries) {
    if (id >= vocab) throw broken(path, `token ${JSON.stringify(text)} has id ${id}, the model's vocabulary has ${vocab}`);
    texts[id] = text;
  }
  return texts;
}

async function chatTemplate(dir: string, config: TokenizerConfig): Promise<TextFiles["template"]> {
  const path = join(dir, "chat_template.jinja");
  const inline = config.chat_template;
  const named = Array.isArray(inline) ? inline.find(({ name }) => name === "default")?.template : inline;
  const text = (await readText(path, templateBytesMax)) ?? named;
  return text ? { path, text } : undefined;
}

/** An id outside the vocabulary could never occur. */
async function endIds(dir: string, config: TokenizerConfig, vocab: number, texts: readonly string[]): Promise<readonly number[]> {
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
  return [...ids].sort((a, b) => a - b);
}
