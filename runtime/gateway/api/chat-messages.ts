// Schemas of chat messages, tool calls and their answers included.
import { z } from "zod";
import type { ChatMessage } from "../../text/text-model.ts";
import { isShallow, toolName } from "./tool-use.ts";

const bounds = { promptChars: 4_000_000, contentParts: 256, calls: 128, idChars: 128 } as const;

export const text = z.string().max(bounds.promptChars, `at most ${bounds.promptChars} characters`);
export const noItems = (why: string) => z.array(z.unknown()).max(0, `${why}; leave it out`).nullish();
const leftOut = () => z.null("not implemented; leave it out").optional();

const textPart = z.strictObject({ type: z.literal("text", "only text parts are implemented"), text });
const content = z.union([text, z.array(textPart).max(bounds.contentParts)], "must be a string or text parts");
export const callId = z.string("must be an id").min(1, "must not be empty").max(bounds.idChars);

/** JSON of a call's arguments, as the model wrote it. */
export const callArguments = text.refine(isObject, "must be the JSON of an object");

function isObject(json: string): boolean {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === "object" && value !== null && !Array.isArray(value) && isShallow(value);
  } catch {
    return false;
  }
}

const call = z.strictObject({
  id: callId,
  type: z.literal("function", "only functions are implemented"),
  function: z.strictObject({ name: toolName, arguments: callArguments }),
});

export const message = z.discriminatedUnion(
  "role",
  [
    z.strictObject({ role: z.enum(["system", "developer", "user"]), content, name: z.string().max(64).optional() }),
    z
      .strictObject({
        role: z.literal("assistant"),
        content: content.nullish(),
        name: z.string().max(64).optional(),
        refusal: leftOut(),
        /** Accepted without effect: returned reasoning is not shown to the model. */
        reasoning_content: text.nullish(),
        tool_calls: z.array(call).max(bounds.calls, `at most ${bounds.calls} calls`).nullish(),
        annotations: noItems("not implemented"),
        audio: leftOut(),
        function_call: leftOut(),
      })
      .refine((one) => one.content != null || (one.tool_calls ?? []).length > 0, {
        path: ["content"],
        message: "must be a string or text parts",
      }),
    z.strictObject({ role: z.literal("tool"), content, tool_call_id: callId, name: z.string().max(64).optional() }),
  ],
  "must be system, developer, user, assistant or tool",
);

type Content = z.infer<typeof content> | null | undefined;

function flat(given: Content): string {
  if (given == null) return "";
  return typeof given === "string" ? given : given.map((part) => part.text).join("");
}

export function chatMessage(one: z.infer<typeof message>): ChatMessage {
  const named = one.name === undefined ? {} : { name: one.name };
  if (one.role === "tool") return { role: "tool", content: flat(one.content), toolCallId: one.tool_call_id, ...named };
  const role = one.role === "developer" ? "system" : one.role;
  const plain = { role, content: flat(one.content), ...named } as const;
  if (one.role !== "assistant" || (one.tool_calls ?? []).length === 0) return plain;
  const toolCalls = (one.tool_calls ?? []).map(({ id, function: called }) => ({ id, name: called.name, arguments: called.arguments }));
  return { ...plain, toolCalls };
}
