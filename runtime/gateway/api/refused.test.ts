// The message that each refused request gets, of all APIs; any JSON is a job or a problem.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Problem, problemBody, rejectReason } from "../problem.ts";
import { embeddingBounds, parseEmbeddings } from "./embeddings.ts";
import { requestBounds } from "./generation-request.ts";
import { parseChat, parseCompletion } from "./openai.ts";
import { parseResponses } from "./responses.ts";

type Parse = (body: unknown, served: string) => { readonly problem: Problem } | { readonly job: object };
/** `message`: code and status where they are no "invalid_value" of 400. */
type Bad = readonly [name: string, body: unknown, param: string | null, message: RegExp, code?: string, status?: number];

const user = { role: "user", content: "hi" };
const chat = (extra: object) => ({ model: "tiny", messages: [user], ...extra });
const said = (message: object) => chat({ messages: [user, message] });
const schemaFormat = (schema: object) =>
  chat({ response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } } });
const deep = (open: string, close: string, count: number, inside = "") =>
  JSON.parse(`${open.repeat(count)}${inside}${close.repeat(count)}`);

const badChats: readonly Bad[] = [
  ["not an object", [1], null, /body/i],
  ["null", null, null, /body/i],
  ["no model", { messages: [user] }, "model", /name the model/],
  ["another model", chat({ model: "gpt-4" }), "model", /gpt-4.*use `tiny`/, "model_not_found", 404],
  ["another model and other errors", { model: "x", n: 9 }, "model", /does not exist/, "model_not_found", 404],
  ["no messages", { model: "tiny" }, "messages", /list of messages/],
  ["empty messages", chat({ messages: [] }), "messages", /at least one/],
  ["messages as text", chat({ messages: "hi" }), "messages", /list of messages/],
  ["a role we lack", said({ role: "function", name: "f", content: "x" }), "messages[1].role", /system, developer, user, assistant or tool/],
  ["content as number", said({ role: "user", content: 5 }), "messages[1].content", /string or text parts/],
  ["an image", said({ role: "user", content: [{ type: "image_url" }] }), "messages[1].content[0].type", /only text parts/],
  ["a field inside a message", said({ ...user, weight: 1 }), "messages[1].weight", /Unsupported field/, "unsupported_parameter"],
  ["an unknown field", chat({ guided_json: {} }), "guided_json", /Unsupported field `guided_json`: remove it/, "unsupported_parameter"],
  ["no answer", chat({ n: 0 }), "n", /1 to 128/],
  ["too many answers", chat({ n: 129 }), "n", /1 to 128/],
  ["temperature below", chat({ temperature: -0.1 }), "temperature", /0 to 2/],
  ["temperature above", chat({ temperature: 2.1 }), "temperature", /0 to 2/],
  ["temperature as text", chat({ temperature: "warm" }), "temperature", /must be a number/],
  ["top_p zero", chat({ top_p: 0 }), "top_p", /above 0/],
  ["top_p above one", chat({ top_p: 1.5 }), "top_p", /at most 1/],
  ["top_k below -1", chat({ top_k: -2 }), "top_k", /0 \(off\) or more/],
  ["top_k as fraction", chat({ top_k: 1.5 }), "top_k", /whole number/],
  ["max_tokens zero", chat({ max_tokens: 0 }), "max_tokens", /at least 1/],
  ["max_tokens as text", chat({ max_completion_tokens: "9" }), "max_completion_tokens", /must be a number/],
  ["two different limits", chat({ max_tokens: 1, max_completion_tokens: 2 }), "max_tokens", /differ/],
  ["five stop strings", chat({ stop: ["a", "b", "c", "d", "e"] }), "stop", /at most 4/],
  ["an empty stop string", chat({ stop: [""] }), "stop[0]", /not be empty/],
  ["a seed as fraction", chat({ seed: 0.5 }), "seed", /whole number/],
  ["a penalty above", chat({ presence_penalty: 2.5 }), "presence_penalty", /-2 to 2/],
  ["a penalty below", chat({ frequency_penalty: -3 }), "frequency_penalty", /-2 to 2/],
  ["a repetition penalty of nothing", chat({ repetition_penalty: 0 }), "repetition_penalty", /0.01 to 10/],
  ["min_p above", chat({ min_p: 1.1 }), "min_p", /0 to 1/],
  ["a bias on a word", chat({ logit_bias: { the: 1 } }), "logit_bias.the", /token id/],
  ["a bias above", chat({ logit_bias: { 5: 101 } }), "logit_bias.5", /-100 to 100/],
  ["a bias as text", chat({ logit_bias: { 5: "1" } }), "logit_bias.5", /-100 to 100/],
  ["a bias as list", chat({ logit_bias: 5 }), "logit_bias", /must map token ids/],
  ["many biases", chat({ logit_bias: Object.fromEntries(Array.from({ length: 1025 }, (_, id) => [id, 1])) }), "logit_bias", /at most/],
  ["a priority as fraction", chat({ priority: 0.5 }), "priority", /whole number/],
  ["a priority beyond 32 bits", chat({ priority: 2 ** 31 }), "priority", /./],
  ["a format", chat({ response_format: { type: "grammar" } }), "response_format.type", /only text, json_object, json_schema/],
  ["no name", chat({ response_format: { type: "json_schema", json_schema: {} } }), "response_format.json_schema.name", /name/],
  [
    "a schema that is not implemented",
    schemaFormat({ type: "object", properties: { at: { type: "integer", multipleOf: 2 } } }),
    "response_format.json_schema.schema",
    /#\/properties\/at\/multipleOf: is not implemented; list the values in enum/,
  ],
  ["a large schema", schemaFormat({ description: "x".repeat(70_000) }), "response_format.json_schema.schema", /at most 65536/],
  ["a deep schema", schemaFormat(deep('{"items":', "}", 100_000, "{}")), "response_format.json_schema.schema", /each other; use \$ref/],
  ["a format that never ends", chat({ response_format: { type: "json_object" }, ignore_eos: true }), "ignore_eos", /an end/],
  ["more top logprobs", chat({ logprobs: true, top_logprobs: 21 }), "top_logprobs", /0 to 20/],
  ["top logprobs without logprobs", chat({ top_logprobs: 5 }), "top_logprobs", /needs `logprobs: true`/],
  ["a regex that is none", chat({ structured_outputs: { regex: "(" } }), "structured_outputs.regex", /pattern: /],
  ["a regex that looks around", chat({ structured_outputs: { regex: "a(?=b)" } }), "structured_outputs.regex", /looks around/],
  ["no choice", chat({ structured_outputs: { choice: [] } }), "structured_outputs.choice", /1 to 1000 texts/],
  ["a choice of numbers", chat({ structured_outputs: { choice: [1] } }), "structured_outputs.choice", /1 to 1000 texts/],
  [
    "a grammar",
    chat({ structured_outputs: { grammar: "root ::= x" } }),
    "structured_outputs.grammar",
    /say one of json, json_object, regex/,
  ],
  ["no language", chat({ structured_outputs: {} }), "structured_outputs", /say one of json/],
  ["languages at once", chat({ structured_outputs: { regex: "a", choice: ["a"] } }), "structured_outputs", /say one of json/],
  [
    "two languages",
    chat({ structured_outputs: { json_object: true }, response_format: { type: "json_object" } }),
    "structured_outputs",
    /send one/,
  ],
  ["a least number below", chat({ min_tokens: -1 }), "min_tokens", /at least 0/],
  ["a variable of ours", chat({ chat_template_kwargs: { messages: "x" } }), "chat_template_kwargs.messages", /a request may set/],
  ["a token as variable", chat({ chat_template_kwargs: { bos_token: "x" } }), "chat_template_kwargs.bos_token", /a request may set/],
  ["marks as variable", chat({ chat_template_kwargs: { a: "<|im_end|>" } }), "chat_template_kwargs.a", /letters, digits/],
  ["a list as variable", chat({ chat_template_kwargs: { a: [1] } }), "chat_template_kwargs.a", /true, false, a number/],
  ["special tokens", chat({ skip_special_tokens: false }), "skip_special_tokens", /never shown/],
  ["a stop token as text", chat({ stop_token_ids: ["a"] }), "stop_token_ids[0]", /must be a number/],
  ["many stop tokens", chat({ stop_token_ids: new Array(65).fill(1) }), "stop_token_ids", /at most 64/],
  ["stream as text", chat({ stream: "yes" }), "stream", /true or false/],
  ["an unknown stream option", chat({ stream_options: { x: 1 } }), "stream_options.x", /Unsupported/, "unsupported_parameter"],
];

const text = (extra: object) => ({ model: "tiny", prompt: "hi", ...extra });
const badCompletions: readonly Bad[] = [
  ["chat fields in completions", text({ messages: [user] }), "messages", /Unsupported/, "unsupported_parameter"],
  ["no prompt", { model: "tiny" }, "prompt", /a string, a list/],
  ["no prompts", text({ prompt: [] }), "prompt", /not be empty/],
  ["too many prompts", text({ prompt: Array(129).fill("a") }), "prompt", /at most 128/],
  ["too many answers to prompts", text({ prompt: ["a", "b"], n: 65 }), "n", /at most 128/],
  ["a prompt of no tokens", text({ prompt: [[1], []] }), "prompt[1]", /not be empty/],
  ["negative token ids", text({ prompt: [1, -2] }), "prompt[1]", /./],
  ["a token id as text", text({ prompt: [1, "2", ""] }), "prompt[1]", /token id/],
  ["a token id beyond 32 bits", text({ prompt: [2 ** 32] }), "prompt[0]", /token id/],
  ["echo as text", text({ echo: "yes" }), "echo", /true or false/],
  ["nothing at all", text({ max_tokens: 0 }), "max_tokens", /at least 1 without `echo`/],
  ["best of", text({ best_of: 3, n: 2 }), "best_of", /only as many answers as `n`/],
  ["suffix", text({ suffix: "x" }), "suffix", /not implemented/],
  ["more logprobs", text({ logprobs: 21 }), "logprobs", /0 to 20/],
  ["a grammar", text({ structured_outputs: { grammar: "root ::= x" } }), "structured_outputs.grammar", /say one of json/],
  ["vLLM's whitespace", text({ structured_outputs: { whitespace_pattern: " " } }), "structured_outputs.whitespace_pattern", /Unsupported/],
  ["what never ends", text({ structured_outputs: { json_object: true }, ignore_eos: true }), "ignore_eos", /an end/],
  ["a chat's format", text({ response_format: { type: "json_object" } }), "response_format", /Unsupported/, "unsupported_parameter"],
];

const tool = (fields: object = {}) => ({ type: "function", function: { name: "get_weather", parameters: { type: "object" }, ...fields } });
const withTools = (extra: object) => chat({ tools: [tool()], ...extra });
const broken = { role: "assistant", tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: "{" } }] };
const badTools: readonly Bad[] = [
  ["a tool of another kind", chat({ tools: [{ type: "web_search" }] }), "tools[0].type", /only functions/],
  ["a name with spaces", chat({ tools: [tool({ name: "get weather" })] }), "tools[0].function.name", /1 to 64/],
  ["a schema of no object", chat({ tools: [tool({ parameters: { type: "string" } })] }), "tools[0].function.parameters", /object/],
  [
    "a schema that is too deep",
    chat({ tools: [tool({ parameters: { type: "object", x: deep("[", "]", 70) } })] }),
    "tools[0].function.parameters",
    /inside each other/,
  ],
  ["two of one name", chat({ tools: [tool(), tool()] }), "tools", /two are called get_weather/],
  ["too many", chat({ tools: Array.from({ length: 129 }, (_, i) => tool({ name: `t${i}` })) }), "tools", /at most 128/],
  ["a choice of none that is there", chat({ tools: [], tool_choice: "required" }), "tool_choice", /no tools/],
  ["a choice of another", withTools({ tool_choice: { type: "function", function: { name: "x" } } }), "tool_choice", /no tool is called x/],
  ["a format beside", withTools({ response_format: { type: "json_object" } }), "response_format", /calls no tools/],
  ["functions", withTools({ functions: [{}] }), "functions", /use tools/],
  ["arguments that are no JSON", said(broken), "messages[1].tool_calls[0].function.arguments", /JSON of an object/],
  ["an assistant that says nothing", said({ role: "assistant", content: null }), "messages[1].content", /string or text parts/],
  ["an answer to no call", said({ role: "tool", content: "x" }), "messages[1].tool_call_id", /id/],
];

const asks = (extra: object) => ({ model: "tiny", input: "hi", ...extra });
const dated = { type: "json_schema", name: "a", schema: { type: "string", format: "date", pattern: "^2" } };
const badResponses: readonly Bad[] = [
  ["another model", asks({ model: "x" }), "model", /use `tiny`/, "model_not_found", 404],
  ["no input", asks({ input: [] }), "input", /not be empty/],
  ["an input that is none", asks({ input: 5 }), "input", /string or a list of items/],
  ["an image", asks({ input: [{ role: "user", content: [{ type: "input_image" }] }] }), "input[0].content[0].type", /only text/],
  [
    "arguments that are no JSON",
    asks({ input: [{ type: "function_call", call_id: "c", name: "f", arguments: "x" }] }),
    "input[0].arguments",
    /JSON of an object/,
  ],
  ["a stored answer", asks({ store: true }), "store", /not stored/],
  ["an answer before", asks({ previous_response_id: "resp_1" }), "previous_response_id", /send the conversation/],
  ["work in the background", asks({ background: true }), "background", /not stored/],
  ["an effort that is none", asks({ reasoning: { effort: "most" } }), "reasoning.effort", /none, minimal, low/],
  ["a summary that is none", asks({ reasoning: { summary: "long" } }), "reasoning.summary", /auto, concise/],
  ["what else could come along", asks({ include: ["file_search_call.results"] }), "include[0]", /not implemented/],
  ["a tool of the vendor's", asks({ tools: [{ type: "web_search" }] }), "tools[0].type", /only functions/],
  ["a choice of no tool", asks({ tool_choice: "required" }), "tool_choice", /no tools/],
  ["a field that is none", asks({ max_tokens: 5 }), "max_tokens", /Unsupported/, "unsupported_parameter"],
  ["a schema that cannot be held", asks({ text: { format: dated } }), "text.format.schema", /write both as one pattern/],
];

const badEmbeddings: readonly Bad[] = [
  ["no body", null, null, /body/i],
  ["no model", { input: "a" }, "model", /name the model/],
  ["another model", { model: "x", input: 5 }, "model", /use `tiny`/, "model_not_found", 404],
  ["no input", { model: "tiny" }, "input", /a string, a list of strings/],
  ["an empty text", asks({ input: "" }), "input", /must not be empty/],
  ["an empty list", asks({ input: [] }), "input", /must not be empty/],
  ["an empty text in a list", asks({ input: ["a", ""] }), "input[1]", /must not be empty/],
  ["an empty list of tokens", asks({ input: [[1], []] }), "input[1]", /must not be empty/],
  ["a token below 0", asks({ input: [1, -1] }), "input[1]", /token id/],
  ["too many inputs", asks({ input: new Array(embeddingBounds.inputs + 1).fill("a") }), "input", /at most 2048/],
  ["dimensions", asks({ dimensions: 64 }), "dimensions", /one size/],
  ["another encoding", asks({ encoding_format: "int8" }), "encoding_format", /float or base64/],
  ["an unknown field", asks({ pooling: "mean" }), "pooling", /Unsupported field/, "unsupported_parameter"],
];

const apis: readonly (readonly [api: string, parse: Parse, bad: readonly Bad[]])[] = [
  ["a chat", parseChat, badChats],
  ["a completion", parseCompletion, badCompletions],
  ["tools of a chat", parseChat, badTools],
  ["a response", parseResponses, badResponses],
  ["embeddings", parseEmbeddings, badEmbeddings],
];
for (const [api, parse, bad] of apis)
  for (const [name, body, param, message, code, status = 400] of bad)
    test(`${api} is refused with its field: ${name}`, () => {
      const parsed = parse(body, "tiny");
      assert.ok("problem" in parsed, JSON.stringify(parsed));
      const { problem } = parsed;
      assert.equal(problem.param, param, problem.message);
      assert.match(problem.message, message);
      assert.equal(problem.status, status);
      if (code) assert.equal(problem.code, code);
      assert.deepEqual(Object.keys((problemBody(problem) as { error: object }).error), ["message", "type", "param", "code"]);
      assert.equal(rejectReason(problem), "invalid");
    });

test("millions of wrong items are one problem, not millions", () => {
  const many = (item: unknown, count: number) => new Array<unknown>(count).fill(item);
  for (const [body, parse] of [
    [text({ prompt: many("", requestBounds.promptTokens) }), parseCompletion],
    [text({ prompt: many("", 3_000_000) }), parseCompletion],
    [chat({ messages: many(1, 3_000_000) }), parseChat],
    [chat({ messages: [{ role: "user", content: many(1, 3_000_000) }] }), parseChat],
    [chat({ stop: many(1, 3_000_000) }), parseChat],
  ] as const) {
    const before = process.threadCpuUsage();
    assert.ok("problem" in parse(body, "tiny"));
    const { user, system } = process.threadCpuUsage(before);
    const ms = (user + system) / 1_000;
    assert.ok(ms < 4_000, `${ms} ms`); // with an issue for each it is ten times that
  }
});

test("any JSON is a job or a problem, never an exception", () => {
  const fields = ["messages", "prompt", "stop", "n", "seed", "input", "tools", "tool_choice", "text", "instructions", "stream", "store"];
  const some = fc.dictionary(fc.constantFrom(...fields, "model", "metadata"), fc.jsonValue({ maxDepth: 4 }));
  const any = fc.json({ maxDepth: 4 }).map((json) => JSON.parse(json));
  const anyBody = fc.oneof(
    any,
    some,
    some.map((body) => chat({ prompt: "hi", ...body })),
    some.map(asks),
  );
  fc.assert(
    fc.property(anyBody, (body) => {
      for (const [, parse] of apis) {
        const parsed = parse(body, "tiny");
        if ("job" in parsed) continue;
        const { status, message } = parsed.problem;
        assert.ok(status >= 400 && message.length > 5 && message.length < 700, message);
      }
    }),
    { numRuns: 800 },
  );
});
