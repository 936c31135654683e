// The tokenizer of a model folder: texts and chats to ids, ids to streamed text.
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import { channelTokens } from "./channels.ts";
import { ControlTokens, isMark } from "./control-tokens.ts";
import { ByteLevelDecoder, byteLevelBytes, sentencePieceBytes, WindowDecoder } from "./detokenize.ts";
import { type PromptOrigin, renderWithOrigin } from "./prompt-origin.ts";
import { type TemplatedChat, templatedChat } from "./templated.ts";
import type { ChatMessage, Decoding } from "./text-model.ts";
import { thoughtTokens } from "./think-text.ts";
import { thinkingOf, type Variables } from "./thinking.ts";
import { type AddedToken, broken, contentOf, readTextFiles, type TextFiles } from "./tokenizer-files.ts";
import { toolFormatOf } from "./tools/index.ts";
import type { Tool } from "./tools/tool-format.ts";

type Render = (chat: TemplatedChat, variables?: Variables) => string;

function isByteLevel(decoder: unknown): boolean {
  const parsed = z.looseObject({ type: z.string(), decoders: z.array(z.unknown()).optional() }).safeParse(decoder);
  if (!parsed.success) return false;
  if (parsed.data.type === "ByteLevel") return true;
  return parsed.data.type === "Sequence" && parsed.data.decoders?.length === 1 && isByteLevel(parsed.data.decoders[0]);
}

function renderer({ template, config }: TextFiles): Render {
  if (!template) {
    return () => {
      throw new AppError("this model has no chat template; use /v1/completions", {
        code: "InvalidRequest",
        operation: "rendering the chat",
      });
    };
  }
  const parsed = parseTemplate(template);
  return ({ messages, tools }, variables = {}) => {
    try {
      return parsed.render({
        messages,
        ...(tools ? { tools } : {}),
        ...variables,
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
  };
}

function parseTemplate({ path, text }: NonNullable<TextFiles["template"]>): Template {
  try {
    return new Template(text);
  } catch (cause) {
    throw broken(path, `the chat template does not parse (${cause instanceof Error ? cause.message : cause})`, cause);
  }
}

const plainChats: readonly (readonly { readonly role: string; readonly content: string }[])[] = [
  [{ role: "user", content: "a" }],
  [
    { role: "system", content: "a" },
    { role: "user", content: "a" },
    { role: "assistant", content: "a" },
    { role: "user", content: "a" },
  ],
];

/** Tokens that are cut out before normalisation. */
const isRaw = ({ special, normalized }: AddedToken, { normalizer }: TextFiles["json"]) => !normalizer || !(normalized ?? !special);

/** Special and end tokens, and marks that the template writes around turns, since some fine-tuned models lack the flag. */
function controlTokens({ json, config, eosIds }: TextFiles, render: Render): ControlTokens {
  const raw = json.added_tokens.filter((token) => isRaw(token, json));
  const all = new ControlTokens(raw, new Set());
  const written = new Set(plainChats.flatMap((messages) => [...all.in(quiet(() => render({ messages })))]));
  const { bos_token, eos_token, pad_token, unk_token } = config;
  const named = new Set([bos_token, eos_token, pad_token, unk_token].map(contentOf));
  const isControl = (token: AddedToken) =>
    token.special || eosIds.includes(token.id) || named.has(token.content) || (written.has(token.content) && isMark(token));
  const control = json.added_tokens.filter(isControl);
  return new ControlTokens([...new Set([...raw, ...control])], new Set(control.map(({ id }) => id)));
}

function quiet(render: () => string): string {
  try {
    return render();
  } catch {
    return ""; // a template need not take every chat
  }
}

function build({ path, json, config }: Pick<TextFiles, "path" | "json" | "config">): Tokenizer {
  try {
    const tokenizer = new Tokenizer(json, config);
    // A vocabulary without letters encodes to nothing, without an error.
    const { ids } = tokenizer.encode("probe");
    if (ids.length === 0) throw new Error("it encodes text to no token at all");
    tokenizer.decode(ids); // a broken decoder shows at its first use
    return tokenizer;
  } catch (cause) {
    throw broken(path, `cannot be used (${cause instanceof Error ? cause.message : cause})`, cause);
  }
}

function decodeAll(tokenizer: Tokenizer, ids: readonly number[]): string {
  if (ids.length === 0) return "";
  return tokenizer.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false });
}

/** `shown` omits special and unknown tokens. */
function piecesOf({ json, texts }: TextFiles) {
  const special = new Set(json.added_tokens.filter((token) => token.special).map((token) => token.id));
  const added = new Set(json.added_tokens.map((token) => token.id));
  const byteLevel = isByteLevel(json.decoder);
  const piece = (id: number): Uint8Array => {
    const text = texts[id] ?? "";
    if (added.has(id)) return new TextEncoder().encode(text);
    return byteLevel ? byteLevelBytes(text) : sentencePieceBytes(text);
  };
  const shown = (id: number) => (texts[id] === undefined || special.has(id) ? undefined : piece(id));
  return { byteLevel, piece, shown };
}

/** `textOf` decodes without special tokens; byte-level vocabularies do not need it. */
function decodingOf(files: TextFiles, textOf: (ids: readonly number[]) => string): Decoding {
  const { json, vocab, texts, eosIds } = files;
  const { byteLevel, piece, shown } = piecesOf(files);
  const tools = toolFormatOf(files.template?.text ?? "");
  const thinking = thinkingOf(files.template?.text ?? "");
  const thoughts = thoughtTokens((content) => json.added_tokens.find((token) => token.content === content)?.id);
  const marks = json.added_tokens.filter(({ special, content }) => special && tools?.marks?.includes(content));
  const channels = channelTokens((content) => json.added_tokens.find((token) => token.special && token.content === content)?.id);
  return {
    ...(channels && { channels }),
    ...(thinking && { thinking }),
    ...(thoughts && { thoughts }),
    ...(tools && { tools, toolMarks: new Map(marks.map(({ id, content }) => [id, content])) }),
    vocab,
    eosIds,
    charsPerTokenMax: texts.reduce((most, text) => Math.max(most, text.length), 1),
    decoder: byteLevel ? () => new ByteLevelDecoder(shown) : () => new WindowDecoder(textOf),
    piece,
  };
}

export interface ModelTokenizer extends Decoding {
  /** Raw text; control tokens in it count as such. */
  encode(text: string): readonly number[];
  encodeChat(messages: readonly ChatMessage[], tools?: readonly Tool[], variables?: Variables): readonly number[];
  /** The text that `encodeChat` tokenizes. */
  chatText(messages: readonly ChatMessage[], tools?: readonly Tool[], variables?: Variables): string;
  /** Omits special tokens. */
  decode(ids: readonly number[]): string;
}

function tokenizerOf(files: TextFiles): ModelTokenizer {
  const render = renderer(files);
  const control = controlTokens(files, render);
  const tokenizer = build({ path: files.path, json: control.disguise(files.json), config: control.disguiseConfig(files.config) });
  const decoding = decodingOf(files, (ids) => control.unmark(decodeAll(tokenizer, ids)));
  const chat = (messages: readonly ChatMessage[], tools: readonly Tool[] = [], variables: Variables = {}): PromptOrigin =>
    renderWithOrigin((one) => render(one, variables), templatedChat(messages, tools, decoding.tools), control.units);
  return {
    ...decoding,
    encode: (text) => (text === "" ? [] : tokenizer.encode(control.mark(text)).ids),
    chatText: (messages, tools, variables) => chat(messages, tools, variables).text,
    encodeChat(messages, tools, variables) {
      const { text, own } = chat(messages, tools, variables);
      return tokenizer.encode(control.mark(text, own), { add_special_tokens: false }).ids;
    },
    decode(ids) {
      const stream = decoding.decoder();
      return ids.map((id) => stream.push(id)).join("") + stream.flush();
    },
  };
}

/** Throws AppError `BadTokenizer` naming the file and field. */
export async function loadTokenizer(dir: string): Promise<ModelTokenizer> {
  return tokenizerOf(await readTextFiles(dir));
}

/** A byte-level vocabulary needs no tokenizer for it. Throws as `loadTokenizer`. */
export async function loadDecoding(dir: string): Promise<Decoding> {
  const files = await readTextFiles(dir);
  if (isByteLevel(files.json.decoder)) return decodingOf(files, () => "");
  const tokenizer = build(files);
  return decodingOf(files, (ids) => decodeAll(tokenizer, ids));
}

/** Concatenated; token i ends at `ends[i]` and may be empty. */
interface PackedTexts {
  readonly bytes: Uint8Array;
  readonly ends: Uint32Array;
}

/** The visible bytes of all tokens, none for special and unknown ones; throws as `loadTokenizer`. */
export async function readTokenTexts(dir: string): Promise<PackedTexts> {
  const files = await readTextFiles(dir);
  const { shown } = piecesOf(files);
  const texts = Array.from({ length: files.vocab }, (_, id) => shown(id));
  const ends = new Uint32Array(texts.length);
  let end = 0;
  for (const [id, text] of texts.entries()) {
    end += text?.length ?? 0;
    ends[id] = end;
  }
  const bytes = new Uint8Array(end);
  for (const [id, text] of texts.entries()) if (text) bytes.set(text, (ends[id] as number) - text.length);
  return { bytes, ends };
}
