// Request schemas of /v1/responses, translated into a chat. Nothing is stored between requests.
import { z } from "zod";
import type { ChatMessage } from "../../text/text-model.ts";
import { callArguments, callId, text } from "./chat-messages.ts";
import { requestBounds } from "./generation-request.ts";
import { reasoning } from "./reasoning.ts";
import { chatOf, common, flag, only, type Parsed, readBody, shared, withoutEffect } from "./request-fields.ts";
import { flatFormat } from "./response-format.ts";
import { responseWriter } from "./responses-body.ts";
import { flatTool, toolName } from "./tool-use.ts";

const stored = "answers are not stored";
const part = z.strictObject({
  type: z.enum(["input_text", "output_text", "text"], "only text parts are implemented"),
  text,
  /** Present in returned answers; without effect. */
  annotations: z.array(z.unknown()).nullish(),
  logprobs: z.array(z.unknown()).nullish(),
});
const content = z.union([text, z.array(part).max(256)], "must be a string or text parts");
const returned = { id: z.string().max(128).nullish(), status: z.string().max(32).nullish() };

const item = z.union(
  [
    z.strictObject({
      type: z.literal("message").optional(),
      role: z.enum(["user", "assistant", "system", "developer"], "must be user, assistant, system or developer"),
      content,
      phase: z.string().max(32).nullish(),
      ...returned,
    }),
    z.strictObject({ type: z.literal("function_call"), call_id: callId, name: toolName, arguments: callArguments, ...returned }),
    z.strictObject({ type: z.literal("function_call_output"), call_id: callId, output: content, ...returned }),
    /** Returned reasoning is not shown to the model. */
    z.looseObject({ type: z.literal("reasoning") }),
  ],
  "must be a message, function_call, function_call_output or reasoning",
);
type Item = z.infer<typeof item>;

const schema = z.strictObject({
  model: shared.model,
  input: z.union(
    [text.min(1, "must not be empty"), z.array(item).min(1, "must not be empty").max(requestBounds.messages)],
    "must be a string or a list of items",
  ),
  instructions: text.nullish(),
  max_output_tokens: shared.max_tokens,
  temperature: shared.temperature,
  top_p: shared.top_p,
  /** Extensions, as in /v1/chat/completions. */
  seed: shared.seed,
  priority: shared.priority,
  cache_salt: shared.cache_salt,
  stream: shared.stream,
  stream_options: z.strictObject({ include_obfuscation: only(false, "not implemented") }).nullish(),
  tools: z.array(flatTool).max(128, "at most 128 tools").nullish(),
  tool_choice: z
    .union(
      [z.enum(["none", "auto", "required"]), z.strictObject({ type: z.literal("function"), name: toolName })],
      "must be none, auto, required or a function",
    )
    .nullish(),
  parallel_tool_calls: flag,
  text: z.strictObject({ format: flatFormat.nullish(), verbosity: only("medium", "not implemented") }).nullish(),
  store: only(false, stored),
  previous_response_id: z.null(`${stored}; send the conversation as input`).optional(),
  conversation: z.null(`${stored}; send the conversation as input`).optional(),
  background: only(false, stored),
  /** Reasoning is never encrypted, so there is nothing to include. */
  include: z.array(z.literal("reasoning.encrypted_content", "not implemented; leave it out")).max(1).nullish(),
  reasoning,
  truncation: only("disabled", "inputs are not truncated"),
  top_logprobs: only(0, "not implemented"),
  user: shared.user,
  ...withoutEffect,
});
export const responsesFields = Object.keys(schema.shape);
type ResponsesRequest = z.infer<typeof schema>;

export function parseResponses(body: unknown, served: string): Parsed {
  const read = readBody(schema, body, served);
  if ("problem" in read) return read;
  const { request } = read;
  const chat = chatOf("responses", common(request, 0), {
    messages: messagesOf(request),
    effort: request.reasoning?.effort,
    tools: request.tools ?? [],
    choice: request.tool_choice ?? "auto",
    parallel: request.parallel_tool_calls !== false,
    constraint: request.text?.format ?? undefined,
    maxTokens: request.max_output_tokens,
    logprobs: false,
  });
  return "problem" in chat ? chat : { ...chat, writer: responseWriter(request) };
}

function messagesOf({ input, instructions }: ResponsesRequest): ChatMessage[] {
  const messages: ChatMessage[] = instructions ? [{ role: "system", content: instructions }] : [];
  if (typeof input === "string") return [...messages, { role: "user", content: input }];
  for (const one of input) add(messages, one);
  return messages;
}

/** A chat has calls in the preceding assistant message. */
function add(messages: ChatMessage[], one: Item): void {
  switch (one.type) {
    case "reasoning":
      return;
    case "function_call_output":
      messages.push({ role: "tool", content: flat(one.output), toolCallId: one.call_id });
      return;
    case "function_call": {
      const call = { id: one.call_id, name: one.name, arguments: one.arguments };
      const last = messages.at(-1);
      if (last?.role !== "assistant") messages.push({ role: "assistant", content: "", toolCalls: [call] });
      else messages[messages.length - 1] = { ...last, toolCalls: [...(last.toolCalls ?? []), call] };
      return;
    }
    default:
      messages.push({ role: one.role === "developer" ? "system" : one.role, content: flat(one.content) });
  }
}

function flat(given: z.infer<typeof content>): string {
  return typeof given === "string" ? given : given.map((one) => one.text).join("");
}
