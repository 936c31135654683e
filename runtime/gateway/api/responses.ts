// Request schemas of /v1/responses, translated into a chat job. Nothing is stored between requests.
import { z } from "zod";
import type { Constraint } from "../../constraints/language.ts";
import type { ChatMessage } from "../../text/text-model.ts";
import { problemOfIssue, problems } from "../problem.ts";
import { callArguments, text } from "./chat-messages.ts";
import { requestBounds } from "./generation-job.ts";
import { modelProblem, only, type Parsed, shared } from "./openai.ts";
import { reasoning } from "./reasoning.ts";
import { jsonSchemaFields, jsonSchemaOf, only as onlyFormats } from "./response-format.ts";
import { responseWriter } from "./responses-body.ts";
import { flatTool, toolName, toolUseOf } from "./tool-use.ts";

const stored = "answers are not stored";
const part = z.strictObject({
  type: z.enum(["input_text", "output_text", "text"], "only text parts are implemented"),
  text,
  /** Present in returned answers; without effect. */
  annotations: z.array(z.unknown()).nullish(),
  logprobs: z.array(z.unknown()).nullish(),
});
const content = z.union([text, z.array(part).max(256)], "must be a string or text parts");
const callId = z.string("must be an id").min(1, "must not be empty").max(128);
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

const format = z
  .discriminatedUnion(
    "type",
    [
      z.strictObject({ type: z.literal("text") }),
      z.strictObject({ type: z.literal("json_object") }),
      z.strictObject({ type: z.literal("json_schema"), ...jsonSchemaFields }),
    ],
    onlyFormats,
  )
  .transform((one, context): Constraint | undefined => {
    if (one.type === "json_schema") return jsonSchemaOf(one.schema ?? {}, context);
    return one.type === "text" ? undefined : { name: one.type, spec: "" };
  });

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
  stream: shared.stream,
  stream_options: z.strictObject({ include_obfuscation: only(false, "not implemented") }).nullish(),
  tools: z.array(flatTool).max(128, "at most 128 tools").nullish(),
  tool_choice: z
    .union(
      [z.enum(["none", "auto", "required"]), z.strictObject({ type: z.literal("function"), name: toolName })],
      "must be none, auto, required or a function",
    )
    .nullish(),
  parallel_tool_calls: z.boolean("must be true or false").nullish(),
  text: z.strictObject({ format: format.nullish(), verbosity: only("medium", "not implemented") }).nullish(),
  store: only(false, stored),
  previous_response_id: z.null(`${stored}; send the conversation as input`).optional(),
  conversation: z.null(`${stored}; send the conversation as input`).optional(),
  background: only(false, stored),
  /** Reasoning is never encrypted, so there is nothing to include. */
  include: z.array(z.literal("reasoning.encrypted_content", "not implemented; leave it out")).max(1).nullish(),
  reasoning,
  truncation: only("disabled", "inputs are not truncated"),
  top_logprobs: only(0, "not implemented"),
  /** Accepted without effect, as are the fields below. */
  metadata: z.record(z.string(), z.unknown()).nullish(),
  user: z.string().max(512).nullish(),
  service_tier: z.enum(["auto", "default"]).nullish(),
  safety_identifier: z.string().max(512).nullish(),
  prompt_cache_key: z.string().max(512).nullish(),
});
type ResponsesRequest = z.infer<typeof schema>;

export function parseResponses(body: unknown, served: string): Parsed {
  const parsed = schema.safeParse(body);
  if (!parsed.success) return { problem: modelProblem(body, served) ?? problemOfIssue(parsed.error) };
  const request = parsed.data;
  if (request.model !== served) return { problem: problems.unknownModel(request.model, served) };
  const constraint = request.text?.format ?? undefined;
  const chosen = request.tool_choice ?? "auto";
  const choice = typeof chosen === "object" ? { name: chosen.name } : chosen;
  const parallel = request.parallel_tool_calls !== false;
  const found = toolUseOf({ tools: request.tools ?? [], choice, parallel, format: constraint });
  if ("problem" in found) return found;
  const off = { minP: 0, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1, bias: [], topLogprobs: 0, topK: 0 };
  const seed = request.seed == null ? undefined : BigInt.asUintN(64, BigInt(request.seed));
  const effort = request.reasoning?.effort ?? undefined;
  const sampling = { temperature: request.temperature ?? 1, topP: request.top_p ?? 1, seed, ...off };
  const job = {
    endpoint: "responses" as const,
    prompts: [{ messages: messagesOf(request), tools: found.use?.tools ?? [], ...(effort ? { effort } : {}) }],
    sampling: constraint ? { ...sampling, constraint } : sampling,
    ...(found.use ? { tools: found.use } : {}),
    n: 1,
    echo: false,
    stops: [],
    ignoreEos: false,
    logprobs: false,
    includeUsage: false,
    maxTokens: request.max_output_tokens ?? undefined,
    priority: request.priority ?? undefined,
    stream: request.stream === true,
  };
  return { job, writer: responseWriter(request) };
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
