// The chat fields `tools` and `tool_choice`, and the constraint that they put on an answer.
import { z } from "zod";
import { AppError } from "../../../crds/common.ts";
import { languageOf } from "../../constraints/index.ts";
import type { Constraint } from "../../constraints/language.ts";
import type { ToolSpec } from "../../constraints/tool-calls.ts";
import type { Tool, ToolFormat } from "../../text/tools/tool-format.ts";
import { invalid, type Problem } from "../problem.ts";

const toolsMax = 128;
const descriptionChars = 65_536;

export const toolName = z.string("must be a name").regex(/^[a-zA-Z0-9_-]{1,64}$/, "must have 1 to 64 letters, digits, _ or -");

/** Bounds nesting of values that are walked or serialised. */
const nestingMax = 64;

export function isShallow(value: unknown, left = nestingMax): boolean {
  if (typeof value !== "object" || value === null) return true;
  return left > 0 && Object.values(value).every((each) => isShallow(each, left - 1));
}

const parameters = z
  .record(z.string(), z.unknown(), "must be a JSON Schema")
  .refine((schema) => schema.type === "object", 'must have `type: "object"`')
  .refine((schema) => isShallow(schema), `has more than ${nestingMax} values inside each other`);

const toolFields = {
  name: toolName,
  description: z.string().max(descriptionChars).nullish(),
  parameters: parameters.nullish(),
  /** Constrains calls of this tool to its parameters. */
  strict: z.boolean("must be true or false").nullish(),
};

/** The form of /v1/responses. */
export const flatTool = z.strictObject({ type: z.literal("function", "only functions are implemented"), ...toolFields });

export const tools = z
  .array(z.strictObject({ type: z.literal("function", "only functions are implemented"), function: z.strictObject(toolFields) }))
  .max(toolsMax, `at most ${toolsMax} tools`)
  .nullish();

export const toolChoice = z
  .union(
    [z.enum(["none", "auto", "required"]), z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: toolName }) })],
    "must be none, auto, required or a function",
  )
  .nullish();

export interface ToolUse {
  readonly tools: readonly Tool[];
  /** Names of strict tools. */
  readonly strict: ReadonlySet<string>;
  readonly choice: "auto" | "required" | { readonly name: string };
  /** Allows several calls. */
  readonly parallel: boolean;
}

export interface AskedTools {
  readonly tools: readonly z.infer<z.ZodObject<typeof toolFields>>[];
  readonly choice: "none" | "auto" | "required" | { readonly name: string };
  readonly parallel: boolean;
  readonly format: Constraint | undefined;
}

/** Undefined without tools. */
export function toolUseOf({ tools: requested, choice, parallel, format }: AskedTools): { use: ToolUse | undefined } | { problem: Problem } {
  const refused = (message: string, param = "tool_choice") => ({ problem: invalid(`\`${param}\`: ${message}.`, param, "invalid_value") });
  const names = requested.map(({ name }) => name);
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice !== undefined) return refused(`two are called ${twice}`, "tools");
  if (requested.length === 0) return choice === "auto" || choice === "none" ? { use: undefined } : refused("there are no tools");
  if (choice === "none") return { use: undefined };
  if (typeof choice === "object" && !names.includes(choice.name)) return refused(`no tool is called ${choice.name}`);
  if (format !== undefined)
    return refused("an answer in a format calls no tools; leave one of both out, or choose none", "response_format");
  const found = requested.map(
    ({ name, description, parameters: schema }): Tool => ({
      name,
      ...(description == null ? {} : { description }),
      ...(schema == null ? {} : { parameters: schema }),
    }),
  );
  const strict = new Set(requested.filter((tool) => tool.strict === true).map(({ name }) => name));
  return { use: { tools: found, strict, choice, parallel } };
}

/** Undefined where the answer is free. Throws AppError `InvalidRequest`. */
function toolConstraint({ tools: offered, strict, choice, parallel }: ToolUse, { texts }: ToolFormat): Constraint | undefined {
  const free = choice === "auto";
  if (free && strict.size === 0 && (parallel || texts === undefined)) return undefined;
  if (texts === undefined) {
    const message = "this model's answers cannot be held to calls; leave strict out, and choose auto or none";
    throw new AppError(message, { code: "InvalidRequest" });
  }
  const chosen = typeof choice === "object" ? offered.filter(({ name }) => name === choice.name) : offered;
  const schemaOf = ({ name, parameters: schema }: Tool): object => {
    if (free && !strict.has(name)) return { type: "object" };
    return schema ?? { type: "object", properties: {}, additionalProperties: false };
  };
  const calls = chosen.map((tool) => ({ before: texts.before(tool.name), schema: JSON.stringify(schemaOf(tool)), after: texts.after }));
  const { begin, end, between, trigger, single = false } = texts;
  const spec: ToolSpec = {
    begin,
    end,
    between,
    trigger: free ? trigger : "",
    single: single || !parallel || typeof choice === "object",
    calls,
  };
  const constraint = { name: "tool_calls", spec: JSON.stringify(spec) } as const;
  languageOf(constraint);
  return constraint;
}

/** The constraint for a model, or why there cannot be one. */
export function heldTo(use: ToolUse, format: ToolFormat | undefined): { constraint: Constraint | undefined } | { problem: Problem } {
  if (format === undefined) {
    const message = "`tools`: this model's chat template takes none whose calls could be read: leave them out.";
    return { problem: invalid(message, "tools", "unsupported_parameter") };
  }
  try {
    return { constraint: toolConstraint(use, format) };
  } catch (caught) {
    return { problem: invalid(`\`tools\`: ${AppError.from(caught).message}.`, "tools", "invalid_value") };
  }
}
