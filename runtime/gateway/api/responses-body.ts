// Bodies of /v1/responses: an answer as items, whole and as events, which add up to the whole.
import type { Problem } from "../problem.ts";
import { type AnswerCall, isMarker, type Piece, type Usage } from "./answer.ts";
import type { AnswerWriter, WriterStart } from "./choices.ts";
import { idOf } from "./resume.ts";

interface TextItem {
  readonly kind: "message" | "reasoning";
  readonly id: string;
  text: string;
}
interface CallItem {
  readonly kind: "call";
  readonly id: string;
  readonly callId: string;
  readonly name: string;
  /** Index among the answer's calls. */
  readonly call: number;
  text: string;
}
type Item = TextItem | CallItem;
type Status = "in_progress" | "completed" | "incomplete" | "failed";

/** Names in events and parts. */
const wordOf = { message: "output_text", reasoning: "reasoning_text" } as const;

/** Request fields that the answer repeats. */
interface Asked {
  readonly instructions?: string | null | undefined;
  readonly max_output_tokens?: number | null | undefined;
  readonly temperature?: number | null | undefined;
  readonly top_p?: number | null | undefined;
  readonly tools?: readonly object[] | null | undefined;
  readonly tool_choice?: string | object | null | undefined;
  readonly parallel_tool_calls?: boolean | null | undefined;
  readonly reasoning?: { readonly effort?: string | null | undefined } | null | undefined;
  readonly metadata?: object | null | undefined;
  readonly user?: string | null | undefined;
}

export function responseWriter(request: Asked): (start: WriterStart) => AnswerWriter {
  return (start) => new ResponseWriter(request, start);
}

class ResponseWriter implements AnswerWriter {
  readonly #request: Asked;
  readonly #start: WriterStart;
  readonly id: string;
  readonly #items: Item[] = [];
  #open = false;
  #status: Status = "in_progress";
  #sequence = 0;

  constructor(request: Asked, start: WriterStart) {
    this.#request = request;
    this.#start = start;
    this.id = `resp_${start.token}`;
  }

  whole(answers: readonly (readonly Piece[])[], usage: Usage): object {
    for (const piece of answers.flat()) this.events({ piece });
    this.last(usage);
    return this.#response(usage);
  }

  events({ piece }: { readonly piece: Piece }): string[] {
    return this.#eventsOf(piece).filter((event) => event !== "");
  }

  #eventsOf(piece: Piece): string[] {
    if (isMarker(piece)) return ["created", "in_progress"].map((type) => this.#event(`response.${type}`, { response: this.#response() }));
    const { reasoning = "", text, calls = [] } = piece;
    // Continues a call before other text of the piece, which ends the call.
    const next = calls.findIndex(({ id }) => id !== undefined);
    const more = next < 0 ? calls : calls.slice(0, next);
    const events = [
      ...this.#calls(more),
      ...this.#text("reasoning", reasoning),
      ...this.#text("message", text),
      ...this.#calls(calls.slice(more.length)),
    ];
    if (piece.finish) this.#status = piece.finish === "length" ? "incomplete" : "completed";
    return events;
  }

  last(usage: Usage): string[] {
    // An empty answer is an empty message.
    const empty = this.#items.length === 0 ? this.#begin({ kind: "message", id: this.#newId("msg"), text: "" }) : [];
    const events = [...empty, ...this.#end(), this.#event(`response.${this.#status}`, { response: this.#response(usage) })];
    return events.filter((event) => event !== "");
  }

  failed(problem: Problem): string[] {
    const { message, code, param } = problem; // its type is the event's own
    return [this.#event("error", { message, code, param })];
  }

  #text(kind: TextItem["kind"], text: string): string[] {
    if (text === "") return [];
    const last = this.#items.at(-1);
    const goesOn = this.#open && last?.kind === kind;
    const events = goesOn ? [] : this.#begin({ kind, id: this.#newId(kind === "message" ? "msg" : "rs"), text: "" });
    const item = this.#items.at(-1) as TextItem;
    item.text += text;
    return [
      ...events,
      this.#event(`response.${wordOf[kind]}.delta`, { ...this.#place(), content_index: 0, delta: text, ...logprobs(kind) }),
    ];
  }

  #calls(calls: readonly AnswerCall[]): string[] {
    return calls.flatMap(({ index, id, name = "", arguments: more = "" }) => {
      const events = id === undefined ? [] : this.#begin({ kind: "call", id: this.#newId("fc"), callId: id, name, call: index, text: "" });
      const item = this.#items.at(-1);
      if (item?.kind !== "call" || more === "") return events;
      item.text += more;
      return [...events, this.#event("response.function_call_arguments.delta", { ...this.#place(), delta: more })];
    });
  }

  #begin(item: Item): string[] {
    const before = this.#end();
    this.#items.push(item);
    this.#open = true;
    const output_index = this.#items.length - 1;
    const added = this.#event("response.output_item.added", { output_index, item: shown(item, "in_progress") });
    if (item.kind === "call") return [...before, added];
    return [
      ...before,
      added,
      this.#event("response.content_part.added", { ...this.#place(), content_index: 0, part: part(item.kind, "") }),
    ];
  }

  #end(): string[] {
    const item = this.#items.at(-1);
    if (!this.#open || item === undefined) return [];
    this.#open = false;
    const whole = { output_index: this.#items.length - 1, item: shown(item, this.#endOf(item)) };
    return [...this.#partDone(item), this.#event("response.output_item.done", whole)];
  }

  /** The last item alone is incomplete when the answer is cut off. */
  #endOf(item: Item): Status {
    return this.#status === "incomplete" && item === this.#items.at(-1) ? "incomplete" : "completed";
  }

  #partDone(item: Item): string[] {
    const place = this.#place();
    if (item.kind === "call")
      return [this.#event("response.function_call_arguments.done", { ...place, name: item.name, arguments: item.text })];
    const done = { ...place, content_index: 0 };
    return [
      this.#event(`response.${wordOf[item.kind]}.done`, { ...done, text: item.text, ...logprobs(item.kind) }),
      this.#event("response.content_part.done", { ...done, part: part(item.kind, item.text) }),
    ];
  }

  #place(): { readonly item_id: string; readonly output_index: number } {
    return { item_id: this.#items.at(-1)?.id ?? "", output_index: this.#items.length - 1 };
  }

  #newId(prefix: string): string {
    return `${prefix}_${idOf(this.#start.token, prefix, this.#items.length)}`;
  }

  /** "" for an event that the client has. */
  #event(type: string, fields: object): string {
    const sequence_number = this.#sequence++;
    if (sequence_number <= (this.#start.after ?? -1)) return "";
    return `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number, ...fields })}\n\n`;
  }

  #response(usage?: Usage): object {
    const { instructions, max_output_tokens, temperature, top_p, tools, tool_choice, parallel_tool_calls, metadata, user } = this.#request;
    const { effort } = this.#request.reasoning ?? {};
    const status = this.#status;
    return {
      id: this.id,
      object: "response",
      created_at: this.#start.created,
      status,
      error: null,
      incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
      instructions: instructions ?? null,
      max_output_tokens: max_output_tokens ?? null,
      model: this.#start.model,
      output: usage ? this.#items.map((item) => shown(item, this.#endOf(item))) : [],
      parallel_tool_calls: parallel_tool_calls ?? true,
      previous_response_id: null,
      reasoning: { effort: effort ?? null, summary: null },
      store: false,
      temperature: temperature ?? 1,
      tool_choice: tool_choice ?? "auto",
      tools: tools ?? [],
      top_p: top_p ?? 1,
      truncation: "disabled",
      usage: usage ? usageBody(usage) : null,
      user: user ?? null,
      metadata: metadata ?? {},
    };
  }
}

const logprobs = (kind: TextItem["kind"]): object => (kind === "message" ? { logprobs: [] } : {});

function part(kind: TextItem["kind"], text: string): object {
  return { type: wordOf[kind], text, ...(kind === "message" ? { annotations: [], logprobs: [] } : {}) };
}

function shown(item: Item, status: Status): object {
  const { kind, id, text } = item;
  if (kind === "call") return { id, type: "function_call", status, call_id: item.callId, name: item.name, arguments: text };
  const content = status === "in_progress" ? [] : [part(kind, text)];
  if (kind === "reasoning") return { id, type: "reasoning", status, summary: [], content };
  return { id, type: "message", status, role: "assistant", content };
}

function usageBody({ promptTokens, cachedTokens, outputTokens, reasoningTokens }: Usage): object {
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens },
    output_tokens: outputTokens,
    output_tokens_details: { reasoning_tokens: reasoningTokens },
    total_tokens: promptTokens + outputTokens,
  };
}
