// Which characters of a rendered chat a user wrote: the chat is rendered again with characters of the messages exchanged (DECISIONS.md 2).
// Pure.
import { AppError } from "../../crds/common.ts";
import type { TemplatedChat } from "./templated.ts";

/** A code point that is no character, which chats are rid of first. Of one unit in JSON too, as what it replaces, so that lengths stay. */
const mask = "\uFFFF";
const replacement = "\uFFFD";

export interface PromptOrigin {
  readonly text: string;
  /** True when the characters from..to are the template's; throws `InvalidRequest` when it hides whose they are. */
  own(from: number, to: number): boolean;
}

/**
 * Renders a chat and finds the origin of characters that are one of `units` (UTF-16). All at once as a rule. A template that looks
 * for some of them in the messages then takes another way, and each is tried alone: a mark needs only one whose origin shows.
 */
export function renderWithOrigin(render: (chat: TemplatedChat) => string, chat: TemplatedChat, units: ReadonlySet<string>): PromptOrigin {
  const whole = changed(chat, (text) => text.toWellFormed().replaceAll(mask, replacement));
  const text = render(whole);
  const written = new Set<string>();
  changed(whole, (part) => {
    for (const unit of units) if (part.includes(unit)) written.add(unit);
    return part;
  });
  const users = new Uint8Array(text.length);
  const shown = (chosen: ReadonlySet<string>): boolean => {
    const other = attempt(() => render(changed(whole, (part) => masked(part, chosen))));
    if (other === undefined || !sameBut(text, other, chosen)) return false;
    for (let at = 0; at < text.length; at++) if (text[at] !== other[at]) users[at] = 1;
    return true;
  };
  const hidden = written.size === 0 || shown(written) ? new Set<string>() : new Set([...written].filter((unit) => !shown(new Set([unit]))));
  const own = (from: number, to: number): boolean => {
    let certain = false;
    for (let at = from; at < to; at++) {
      if (users[at] === 1) return false;
      certain ||= !hidden.has(text[at] ?? "");
    }
    if (certain) return true;
    throw new AppError(
      `messages: they hold ${JSON.stringify(text.slice(from, to))}, which the chat template of this model cannot tell from its own control tokens; leave it out`,
      { code: "InvalidRequest", operation: "rendering the chat" },
    );
  };
  return { text, own };
}

/** Fields that templates read by their names, and values that they compare; a chat's author may write them, and they are no marks. */
const fields = new Set([
  "messages",
  "tools",
  "role",
  "content",
  "name",
  "tool_calls",
  "tool_call_id",
  "id",
  "type",
  "function",
  "arguments",
]);
for (const field of ["description", "parameters", "properties", "required", "items", "enum", "additionalProperties"]) fields.add(field);
const compared = new Set(["system", "user", "assistant", "tool", "function", "object", "array", "string", "number", "integer", "boolean"]);

/** The chat with all that its author wrote changed, names of fields included. */
function changed<T>(value: T, change: (text: string) => string): T {
  const deep = (part: unknown, field: string): unknown => {
    if (typeof part === "string") return (field === "role" || field === "type") && compared.has(part) ? part : change(part);
    if (Array.isArray(part)) return part.map((each) => deep(each, field));
    if (typeof part !== "object" || part === null) return part;
    return Object.fromEntries(Object.entries(part).map(([key, each]) => [fields.has(key) ? key : change(key), deep(each, key)]));
  };
  return deep(value, "") as T;
}

function masked(text: string, chosen: ReadonlySet<string>): string {
  let out = "";
  let done = 0;
  for (let at = 0; at < text.length; at++) {
    if (!chosen.has(text[at] ?? "")) continue;
    out += text.slice(done, at) + mask;
    done = at + 1;
  }
  return out + text.slice(done);
}

function sameBut(text: string, other: string, chosen: ReadonlySet<string>): boolean {
  if (text.length !== other.length) return false;
  for (let at = 0; at < text.length; at++) {
    if (text[at] !== other[at] && !(other[at] === mask && chosen.has(text[at] ?? ""))) return false;
  }
  return true;
}

/** A template may refuse the exchanged messages, which says nothing about the real ones. */
function attempt(render: () => string): string | undefined {
  try {
    return render();
  } catch {
    return undefined;
  }
}
