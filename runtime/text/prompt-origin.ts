// Finds which characters of a rendered chat a user wrote, by rendering it again with exchanged characters (DECISIONS.md 2).
import { AppError } from "../../crds/common.ts";
import type { TemplatedChat } from "./templated.ts";

/** Chats never contain this noncharacter; it is one unit in JSON too, so that lengths stay. */
const mask = "\uFFFF";
const replacement = "\uFFFD";

export interface PromptOrigin {
  readonly text: string;
  /** True when the template wrote these characters; throws `InvalidRequest` when that is unclear. */
  own(from: number, to: number): boolean;
}

/**
 * Tries all characters of `units` (UTF-16) at once; if the template then behaves differently, each alone, as one of clear origin is enough
 * for a mark.
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

/** Fields and values that templates interpret; they contain no marks. */
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

/** Changes every authored string, field names included. */
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

/** A refusal of exchanged messages says nothing about the real ones. */
function attempt(render: () => string): string | undefined {
  try {
    return render();
  } catch {
    return undefined;
  }
}
