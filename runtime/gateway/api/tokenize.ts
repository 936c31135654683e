// vLLM's /tokenize and /detokenize: token ids of a prompt or a chat, and the text of ids. No worker is asked.
import { setImmediate } from "node:timers/promises";
import { z } from "zod";
import { invalid, type Problem } from "../problem.ts";
import { type AnswerDeps, encodePrompt, tooLong } from "./answer.ts";
import { text } from "./chat-messages.ts";
import type { Prompt } from "./generation-request.ts";
import { parseChat } from "./openai.ts";
import { flag, only, readBody, tokenIds } from "./request-fields.ts";

interface TokenDeps extends Pick<AnswerDeps, "textModel" | "maxContext"> {
  readonly servedName: string;
}
type Answered = { readonly body: object } | { readonly problem: Problem };

/** Tokens that are decoded at a time, before other requests have their turn. */
const sliceTokens = 4_096;

const model = z.string().nullish();
const shared = { model, return_token_strs: flag };
const ofPrompt = z.strictObject({ ...shared, prompt: text, add_special_tokens: only(true, "only those of the tokenizer are added") });
/** The others are those of a chat. */
const ofChat = z.strictObject({
  ...shared,
  messages: z.unknown(),
  tools: z.unknown().optional(),
  chat_template_kwargs: z.unknown().optional(),
  add_special_tokens: only(false, "the chat template has them"),
  add_generation_prompt: only(true, "answers begin behind it"),
  continue_final_message: only(false, "not implemented"),
});
const ofTokens = z.strictObject({ model, tokens: tokenIds });

export async function tokenize(body: unknown, deps: TokenDeps, signal?: AbortSignal): Promise<Answered> {
  const isChat = typeof body === "object" && body !== null && "messages" in body;
  const read = isChat ? readBody(ofChat, body, deps.servedName) : readBody(ofPrompt, body, deps.servedName);
  if ("problem" in read) return read;
  const { request } = read;
  const prompt = "prompt" in request ? { text: request.prompt } : promptOfChat(request, deps.servedName);
  if ("problem" in prompt) return prompt;
  const encoded = await encodePrompt(prompt, isChat ? "messages" : "prompt", deps, signal);
  if ("problem" in encoded) return encoded;
  const tokens = [...encoded.ids];
  const decoder = new TextDecoder();
  const textOf = (id: number) => decoder.decode(deps.textModel.piece(id));
  const token_strs = request.return_token_strs === true ? await texts(tokens, textOf, signal) : null;
  return { body: { count: tokens.length, max_model_len: deps.maxContext, tokens, token_strs } };
}

function promptOfChat(
  { messages, tools, chat_template_kwargs }: z.infer<typeof ofChat>,
  served: string,
): Prompt | { readonly problem: Problem } {
  const parsed = parseChat({ model: served, messages, tools, chat_template_kwargs }, served);
  return "problem" in parsed ? parsed : (parsed.job.prompts[0] as Prompt);
}

export async function detokenize(body: unknown, { textModel, servedName, maxContext }: TokenDeps, signal?: AbortSignal): Promise<Answered> {
  const read = readBody(ofTokens, body, servedName);
  if ("problem" in read) return read;
  const { tokens } = read.request;
  if (tokens.length > maxContext) return tooLong(maxContext, "tokens", `${tokens.length} of tokens`);
  const unknown = tokens.find((id) => id >= textModel.vocab);
  if (unknown !== undefined)
    return { problem: invalid(`\`tokens\`: token ${unknown} is not below ${textModel.vocab}.`, "tokens", "invalid_value") };
  const decoder = textModel.decoder();
  const prompt = await texts(tokens, (id) => decoder.push(id), signal);
  return { body: { prompt: prompt.join("") + decoder.flush() } };
}

async function texts(tokens: readonly number[], textOf: (id: number) => string, signal: AbortSignal | undefined): Promise<string[]> {
  const found: string[] = [];
  for (let at = 0; at < tokens.length; at += sliceTokens) {
    if (at > 0) await setImmediate(undefined, signal ? { signal } : {});
    for (const id of tokens.slice(at, at + sliceTokens)) found.push(textOf(id));
  }
  return found;
}
