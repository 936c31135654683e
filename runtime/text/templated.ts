// A chat as plain values for Hugging Face templates.
import { AppError } from "../../crds/common.ts";
import type { ChatMessage } from "./text-model.ts";
import type { Tool, ToolFormat } from "./tools/tool-format.ts";

export interface TemplatedChat {
  readonly messages: readonly object[];
  /** Unset without tools: templates test for it. */
  readonly tools?: readonly object[];
}

/** Throws AppError `InvalidRequest` for tools where the template takes none. */
export function templatedChat(messages: readonly ChatMessage[], tools: readonly Tool[], format: ToolFormat | undefined): TemplatedChat {
  const found = messages.map((message) => templated(message, format));
  if (tools.length === 0) return { messages: found };
  if (format === undefined) throw noTools();
  return { messages: found, tools: tools.map((tool) => ({ type: "function", function: tool })) };
}

const noTools = (): AppError =>
  new AppError("tools: this model's chat template takes none whose calls could be read; leave them out", {
    code: "InvalidRequest",
    operation: "rendering the chat",
  });

function templated({ role, content, name, toolCalls, toolCallId }: ChatMessage, format: ToolFormat | undefined): object {
  const named = name === undefined ? {} : { name };
  const idOf = (id: string | undefined) => (id === undefined ? id : (format?.callId?.(id) ?? id));
  if (role === "tool") return { role, content, tool_call_id: idOf(toolCallId), ...named };
  if (toolCalls === undefined || toolCalls.length === 0) return { role, content, ...named };
  if (format === undefined) throw noTools();
  const calls = toolCalls.map(({ id, name: tool, arguments: json }) => ({
    id: idOf(id),
    type: "function",
    function: { name: tool, arguments: format.arguments === "json" ? json : (JSON.parse(json) as unknown) },
  }));
  return { role, content: content === "" ? format.noContent : content, ...named, tool_calls: calls };
}

/** Upper bound of the authored characters. */
export function charactersOfChat(messages: readonly ChatMessage[], tools: readonly Tool[]): number {
  const ofCalls = (calls: ChatMessage["toolCalls"] = []) => calls.reduce((sum, call) => sum + call.name.length + call.arguments.length, 0);
  const ofMessages = messages.reduce(
    (sum, { content, name = "", toolCalls }) => sum + content.length + name.length + ofCalls(toolCalls),
    0,
  );
  return tools.length === 0 ? ofMessages : ofMessages + JSON.stringify(tools).length;
}
