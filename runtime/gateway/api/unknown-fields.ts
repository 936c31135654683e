// Fields of requests that no API here has: left out, logged once by name and counted, unless they are known to change an answer.
import type { UnknownFields as Mode } from "../../../crds/names.ts";
import type { Log } from "../../observe/log.ts";
import type { Metrics } from "../../observe/runtime-metrics.ts";
import { invalid, type Problem } from "../problem.ts";
import { embeddingsFields } from "./embeddings.ts";
import { chatFields, completionFields } from "./openai.ts";
import { responsesFields } from "./responses.ts";

/** Names that are logged; what comes after them is only counted. */
const namesMax = 64;
const nameCharsMax = 64;
/** Unknown fields of a request; nobody has more by mistake. */
const unknownMax = 256;

const fieldsOf = {
  chat: new Set(chatFields),
  completions: new Set(completionFields),
  responses: new Set(responsesFields),
  embeddings: new Set(embeddingsFields),
} as const;
type Api = keyof typeof fieldsOf;

/** Of OpenAI, vLLM and other servers: an answer without them would not be the one that was asked for. */
const changesAnswers: ReadonlySet<string> = new Set([
  ...Object.values(fieldsOf).flatMap((fields) => [...fields]),
  ...["guided_json", "guided_regex", "guided_choice", "guided_grammar", "structural_tag", "grammar", "json_schema", "regex"],
  ...["allowed_token_ids", "bad_words", "logits_processors", "length_penalty", "early_stopping", "use_beam_search", "beam_width"],
  ...["num_beams", "do_sample", "no_repeat_ngram_size", "typical_p", "top_a", "tfs", "mirostat_mode", "xtc_probability", "dry_multiplier"],
  ...["n_predict", "max_new_tokens", "stop_sequences", "truncate_prompt_tokens", "include_stop_str_in_output", "prompt_logprobs"],
  ...["chat_template", "add_generation_prompt", "continue_final_message", "add_special_tokens", "documents", "system", "prefill"],
  ...["enable_thinking", "thinking", "thinking_budget", "thinking_token_budget", "verbosity", "function_call", "max_tool_calls"],
  ...["web_search_options", "audio", "context_management", "return_token_ids", "return_tokens_as_token_ids", "vllm_xargs"],
]);

export class UnknownFields {
  readonly #mode: Mode;
  readonly #log: Log;
  readonly #metrics: Metrics<"gateway">;
  readonly #names = new Set<string>();

  constructor(mode: Mode, log: Log, metrics: Metrics<"gateway">) {
    this.#mode = mode;
    this.#log = log;
    this.#metrics = metrics;
  }

  /** The body without what may be left out; the API refuses what stays and is none of its fields. */
  without(body: unknown, endpoint: string): { readonly json: unknown } | { readonly problem: Problem } {
    if (typeof body !== "object" || body === null || Array.isArray(body)) return { json: body };
    const own = Object.hasOwn(fieldsOf, endpoint) ? fieldsOf[endpoint as Api] : undefined;
    const isKnown = (name: string) => own?.has(name) || changesAnswers.has(name);
    const left = Object.keys(body).filter((name) => !isKnown(name));
    if (left.length > unknownMax) return { problem: tooMany(left) };
    if (own === undefined || this.#mode === "Refuse" || left.length === 0) return { json: body };
    this.#metrics.add("enodia_gateway_ignored_fields_total", left.length, { endpoint: endpoint as Api });
    for (const name of left.map((one) => one.slice(0, nameCharsMax))) {
      if (this.#names.has(name) || this.#names.size >= namesMax) continue;
      this.#names.add(name);
      this.#log.warn({ field: name, endpoint }, "a field of requests is not known and ignored; gateway.unknownFields: Refuse refuses it");
    }
    return { json: Object.fromEntries(Object.entries(body).filter(([name]) => isKnown(name))) };
  }
}

function tooMany(names: readonly string[]): Problem {
  const first = names[0]?.slice(0, nameCharsMax) ?? "";
  return invalid(
    `\`${first}\` and others: ${names.length} fields are unknown, at most ${unknownMax}: leave them out.`,
    first,
    "invalid_value",
  );
}
