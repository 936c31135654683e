// The constraint `tool_calls`: free text, then tool calls in the model's markup, each with arguments that match its schema. The spec
// states the markup.
import { z } from "zod";
import { AppError } from "../../crds/common.ts";
import type { Language, Reach } from "./language.ts";
import { compileSchema } from "./schema/compile.ts";
import { SchemaLanguage } from "./schema/walk.ts";

const toolSpecBytesMax = 65_536;
const toolsMax = 128;

const text = z.string().max(1_024);
const specSchema = z.strictObject({
  begin: text,
  end: text,
  between: text,
  /** The text that free text must not contain, except as a call. Empty = no free text and at least one call. */
  trigger: text,
  single: z.boolean(),
  calls: z
    .array(z.strictObject({ before: text.min(1), schema: z.string(), after: text.min(1) }))
    .min(1)
    .max(toolsMax),
});
export type ToolSpec = z.infer<typeof specSchema>;

/** Throws AppError `InvalidRequest`, which names the place in the spec. */
export function toolCalls(spec: string): Language {
  return new ToolCallsLanguage(parsed(spec));
}

function parsed(spec: string): ToolSpec {
  const refused = (why: string): AppError => new AppError(`tool_calls: ${why}`, { code: "InvalidRequest" });
  if (spec.length > toolSpecBytesMax) throw refused(`the tools have ${spec.length} bytes, at most ${toolSpecBytesMax} are taken`);
  let json: unknown;
  try {
    json = JSON.parse(spec);
  } catch {
    throw refused("the spec is no JSON");
  }
  const checked = specSchema.safeParse(json);
  if (!checked.success) throw refused(`the spec is wrong: ${z.prettifyError(checked.error)}`);
  const { begin, calls, trigger } = checked.data;
  if (!calls.every(({ before }) => (begin + before).startsWith(trigger))) throw refused("calls begin otherwise than the trigger");
  return checked.data;
}

interface Call {
  readonly schema: SchemaLanguage;
  readonly after: Uint8Array;
}

const bytesOf = (of: string): Uint8Array => new TextEncoder().encode(of);

type Words = "f" | "l" | "z";

/** The first known text that matches so far. */
interface Within {
  readonly words: Words;
  readonly index: number;
  readonly length: number;
}

/**
 * A state is a letter with numbers, and the schema's state within arguments. "t": free text that ends with so many bytes of the trigger.
 * "f", "l", "z": a known text. "s": arguments. "x": after them. "e": the end.
 */
class ToolCallsLanguage implements Language {
  readonly start: string;
  readonly #calls: readonly Call[];
  readonly #words: Readonly<Record<Words, readonly Uint8Array[]>>;
  readonly #trigger: Uint8Array;
  readonly #afterCall: string;

  constructor({ begin, end, between, trigger, single, calls }: ToolSpec) {
    this.#calls = calls.map(({ schema, after }, index) => ({
      schema: new SchemaLanguage(compiled(schema, index)),
      after: bytesOf(after),
    }));
    const ends = end === "" ? [] : [bytesOf(end)];
    this.#words = {
      f: calls.map(({ before }) => bytesOf(begin + before)),
      l: [...calls.map(({ before }) => bytesOf(between + before)), ...ends],
      z: ends,
    };
    this.#trigger = bytesOf(trigger);
    const free = trigger !== "";
    this.start = free ? "t 0" : "f 0 0";
    if (single) this.#afterCall = end === "" ? "e" : "z 0 0";
    else this.#afterCall = free && end === "" ? "t 0" : "l 0 0";
  }

  step(state: string, byte: number): string | undefined {
    const [at = "", first = "", second = ""] = state.split(" ", 3);
    const index = Number(first);
    if (at === "t") return this.#freeText(index, byte);
    if (at === "f" || at === "l" || at === "z") return this.#known({ words: at, index, length: Number(second) }, byte);
    if (at === "s") return this.#arguments(index, state.slice(at.length + first.length + 2), byte);
    return at === "x" ? this.#behind(index, Number(second), byte) : undefined;
  }

  *alike(state: string, reach: Reach): Generator<undefined, string> {
    if (!state.startsWith("s ")) return state;
    const cut = state.indexOf(" ", 2);
    const { schema } = this.#calls[Number(state.slice(2, cut))] as Call;
    return `${state.slice(0, cut)} ${yield* schema.alike(state.slice(cut + 1), reach)}`;
  }

  ends(state: string): boolean {
    if (state === "e" || state.startsWith("t ")) return true;
    return state === "l 0 0" && this.#words.z.length === 0;
  }

  #freeText(matched: number, byte: number): string {
    const trigger = this.#trigger;
    let length = matched;
    while (length > 0 && trigger[length] !== byte) length = borderOf(trigger.subarray(0, length));
    if (trigger[length] === byte) length++;
    return length < trigger.length ? `t ${length}` : this.#at({ words: "f", index: 0, length });
  }

  /** All texts with the same beginning stay possible. */
  #known({ words, index, length }: Within, byte: number): string | undefined {
    const all = this.#words[words];
    const came = (all[index] as Uint8Array).subarray(0, length);
    const next = all.findIndex((text) => text[length] === byte && startsWith(text, came));
    return next < 0 ? undefined : this.#at({ words, index: next, length: length + 1 });
  }

  #at({ words, index, length }: Within): string {
    if (length < (this.#words[words][index] as Uint8Array).length) return `${words} ${index} ${length}`;
    const call = words === "z" ? undefined : this.#calls[index];
    return call === undefined ? "e" : `s ${index} ${call.schema.start}`;
  }

  #arguments(tool: number, inner: string, byte: number): string | undefined {
    const { schema } = this.#calls[tool] as Call;
    if (schema.ends(inner)) return this.#behind(tool, 0, byte); // arguments are an object, so nothing continues it
    const next = schema.step(inner, byte);
    return next === undefined ? undefined : `s ${tool} ${next}`;
  }

  #behind(tool: number, length: number, byte: number): string | undefined {
    const { after } = this.#calls[tool] as Call;
    if (after[length] !== byte) return undefined;
    return length + 1 < after.length ? `x ${tool} ${length + 1}` : this.#afterCall;
  }
}

function compiled(schema: string, index: number) {
  try {
    return compileSchema(schema);
  } catch (caught) {
    throw new AppError(`tools[${index}].function.parameters: ${AppError.from(caught).message}`, { code: "InvalidRequest" });
  }
}

const startsWith = (literal: Uint8Array, beginning: Uint8Array): boolean => beginning.every((byte, at) => literal[at] === byte);

/** The length of the longest proper prefix that is also a suffix. */
function borderOf(text: Uint8Array): number {
  for (let length = text.length - 1; length > 0; length--) {
    if (startsWith(text, text.subarray(text.length - length))) return length;
  }
  return 0;
}
