// The OpenAI schemas: what they take, and the message that each refused request gets.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Problem, problemBody, rejectReason } from "../problem.ts";
import { type GenerationRequest, requestBounds } from "./generation-request.ts";
import { parseChat, parseCompletion } from "./openai.ts";

const user = { role: "user", content: "hi" };
const chat = (extra: object) => ({ model: "tiny", messages: [user], ...extra });
const text = (extra: object) => ({ model: "tiny", prompt: "hi", ...extra });

const schemaFormat = (schema: object) => ({
  response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } },
});

interface Bad {
  readonly body: unknown;
  readonly param: string | null;
  readonly message: RegExp;
  readonly code?: string;
  readonly status?: number;
  readonly completions?: true;
}

const bad = new Map<string, Bad>([
  ["not an object", { body: [1], param: null, message: /body/i }],
  ["null", { body: null, param: null, message: /body/i }],
  ["no model", { body: { messages: [user] }, param: "model", message: /name the model/ }],
  ["another model", { body: chat({ model: "gpt-4" }), param: "model", message: /gpt-4.*use `tiny`/, code: "model_not_found", status: 404 }],
  ["another model and other errors", { body: { model: "x", n: 9 }, param: "model", message: /does not exist/, status: 404 }],
  ["no messages", { body: { model: "tiny" }, param: "messages", message: /list of messages/ }],
  ["empty messages", { body: chat({ messages: [] }), param: "messages", message: /at least one/ }],
  ["messages as text", { body: chat({ messages: "hi" }), param: "messages", message: /list of messages/ }],
  [
    "a role we lack",
    {
      body: chat({ messages: [user, { role: "function", name: "f", content: "x" }] }),
      param: "messages[1].role",
      message: /system, developer, user, assistant or tool/,
    },
  ],
  [
    "content as number",
    { body: chat({ messages: [{ role: "user", content: 5 }] }), param: "messages[0].content", message: /string or text parts/ },
  ],
  [
    "an image",
    {
      body: chat({ messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] }),
      param: "messages[0].content[0].type",
      message: /only text parts/,
    },
  ],
  [
    "a field inside a message",
    {
      body: chat({ messages: [{ ...user, weight: 1 }] }),
      param: "messages[0].weight",
      message: /Unsupported field/,
      code: "unsupported_parameter",
    },
  ],
  [
    "an unknown field",
    {
      body: chat({ guided_json: {} }),
      param: "guided_json",
      message: /Unsupported field `guided_json`: remove it/,
      code: "unsupported_parameter",
    },
  ],
  ["no answer", { body: chat({ n: 0 }), param: "n", message: /1 to 128/ }],
  ["too many answers", { body: chat({ n: 129 }), param: "n", message: /1 to 128/ }],
  ["temperature below", { body: chat({ temperature: -0.1 }), param: "temperature", message: /0 to 2/ }],
  ["temperature above", { body: chat({ temperature: 2.1 }), param: "temperature", message: /0 to 2/ }],
  ["temperature as text", { body: chat({ temperature: "warm" }), param: "temperature", message: /must be a number/ }],
  ["top_p zero", { body: chat({ top_p: 0 }), param: "top_p", message: /above 0/ }],
  ["top_p above one", { body: chat({ top_p: 1.5 }), param: "top_p", message: /at most 1/ }],
  ["top_k below -1", { body: chat({ top_k: -2 }), param: "top_k", message: /0 \(off\) or more/ }],
  ["top_k as fraction", { body: chat({ top_k: 1.5 }), param: "top_k", message: /whole number/ }],
  ["max_tokens zero", { body: chat({ max_tokens: 0 }), param: "max_tokens", message: /at least 1/ }],
  ["max_tokens as text", { body: chat({ max_completion_tokens: "9" }), param: "max_completion_tokens", message: /must be a number/ }],
  ["two different limits", { body: chat({ max_tokens: 1, max_completion_tokens: 2 }), param: "max_tokens", message: /differ/ }],
  ["five stop strings", { body: chat({ stop: ["a", "b", "c", "d", "e"] }), param: "stop", message: /at most 4/ }],
  ["an empty stop string", { body: chat({ stop: [""] }), param: "stop[0]", message: /not be empty/ }],
  ["a seed as fraction", { body: chat({ seed: 0.5 }), param: "seed", message: /whole number/ }],
  ["a penalty above", { body: chat({ presence_penalty: 2.5 }), param: "presence_penalty", message: /-2 to 2/ }],
  ["a penalty below", { body: chat({ frequency_penalty: -3 }), param: "frequency_penalty", message: /-2 to 2/ }],
  ["a repetition penalty of nothing", { body: chat({ repetition_penalty: 0 }), param: "repetition_penalty", message: /0.01 to 10/ }],
  ["min_p above", { body: chat({ min_p: 1.1 }), param: "min_p", message: /0 to 1/ }],
  ["a bias on a word", { body: chat({ logit_bias: { the: 1 } }), param: "logit_bias.the", message: /token id/ }],
  ["a bias above", { body: chat({ logit_bias: { 5: 101 } }), param: "logit_bias.5", message: /-100 to 100/ }],
  ["a bias as text", { body: chat({ logit_bias: { 5: "1" } }), param: "logit_bias.5", message: /-100 to 100/ }],
  ["a bias as list", { body: chat({ logit_bias: 5 }), param: "logit_bias", message: /must map token ids/ }],
  [
    "many biases",
    {
      body: chat({ logit_bias: Object.fromEntries(Array.from({ length: 1025 }, (_, id) => [id, 1])) }),
      param: "logit_bias",
      message: /at most/,
    },
  ],
  ["a priority as fraction", { body: chat({ priority: 0.5 }), param: "priority", message: /whole number/ }],
  ["a priority beyond 32 bits", { body: chat({ priority: 2 ** 31 }), param: "priority", message: /./ }],
  [
    "a response format",
    {
      body: chat({ response_format: { type: "grammar" } }),
      param: "response_format.type",
      message: /only text, json_object, json_schema/,
    },
  ],
  [
    "a schema without a name",
    {
      body: chat({ response_format: { type: "json_schema", json_schema: {} } }),
      param: "response_format.json_schema.name",
      message: /name/,
    },
  ],
  [
    "a schema that is not implemented",
    {
      body: chat(schemaFormat({ type: "object", properties: { at: { type: "string", format: "date" } } })),
      param: "response_format.json_schema.schema",
      message: /#\/properties\/at\/format: is not implemented; write it as a pattern/,
    },
  ],
  [
    "a schema that is too large",
    {
      body: chat(schemaFormat({ description: "x".repeat(70_000) })),
      param: "response_format.json_schema.schema",
      message: /at most 65536/,
    },
  ],
  [
    "a schema that is too deep to be written",
    {
      body: chat(schemaFormat(JSON.parse(`${'{"items":'.repeat(100_000)}{}${"}".repeat(100_000)}`))),
      param: "response_format.json_schema.schema",
      message: /inside each other; use \$ref/,
    },
  ],
  [
    "a format that never ends",
    { body: chat({ response_format: { type: "json_object" }, ignore_eos: true }), param: "ignore_eos", message: /an end/ },
  ],
  ["more top logprobs", { body: chat({ logprobs: true, top_logprobs: 21 }), param: "top_logprobs", message: /0 to 20/ }],
  ["top logprobs without logprobs", { body: chat({ top_logprobs: 5 }), param: "top_logprobs", message: /needs `logprobs: true`/ }],
  ["stream as text", { body: chat({ stream: "yes" }), param: "stream", message: /true or false/ }],
  ["an unknown stream option", { body: chat({ stream_options: { x: 1 } }), param: "stream_options.x", message: /Unsupported/ }],
  ["chat fields in completions", { body: text({ messages: [user] }), completions: true, param: "messages", message: /Unsupported/ }],
  ["no prompt", { body: { model: "tiny" }, completions: true, param: "prompt", message: /a string, a list/ }],
  ["no prompts", { body: text({ prompt: [] }), completions: true, param: "prompt", message: /not be empty/ }],
  ["too many prompts", { body: text({ prompt: Array(129).fill("a") }), completions: true, param: "prompt", message: /at most 128/ }],
  ["too many answers to prompts", { body: text({ prompt: ["a", "b"], n: 65 }), completions: true, param: "n", message: /at most 128/ }],
  ["a prompt of no tokens", { body: text({ prompt: [[1], []] }), completions: true, param: "prompt[1]", message: /not be empty/ }],
  ["negative token ids", { body: text({ prompt: [1, -2] }), completions: true, param: "prompt[1]", message: /./ }],
  ["a token id as text", { body: text({ prompt: [1, "2", ""] }), completions: true, param: "prompt[1]", message: /token id/ }],
  ["a token id beyond 32 bits", { body: text({ prompt: [2 ** 32] }), completions: true, param: "prompt[0]", message: /token id/ }],
  ["echo as text", { body: text({ echo: "yes" }), completions: true, param: "echo", message: /true or false/ }],
  ["nothing at all", { body: text({ max_tokens: 0 }), completions: true, param: "max_tokens", message: /at least 1 without `echo`/ }],
  ["best of", { body: text({ best_of: 3, n: 2 }), completions: true, param: "best_of", message: /only as many answers as `n`/ }],
  ["suffix", { body: text({ suffix: "x" }), completions: true, param: "suffix", message: /not implemented/ }],
  ["more logprobs", { body: text({ logprobs: 21 }), completions: true, param: "logprobs", message: /0 to 20/ }],
]);

for (const [name, { body, param, message, code, status, completions }] of bad) {
  test(`refused with its field: ${name}`, () => {
    const parsed = (completions ? parseCompletion : parseChat)(body, "tiny");
    assert.ok("problem" in parsed, JSON.stringify(parsed));
    assert.equal(parsed.problem.param, param, parsed.problem.message);
    assert.match(parsed.problem.message, message);
    assert.equal(parsed.problem.status, status ?? 400);
    if (code) assert.equal(parsed.problem.code, code);
    assert.deepEqual(Object.keys((problemBody(parsed.problem) as { error: object }).error), ["message", "type", "param", "code"]);
    assert.equal(rejectReason(parsed.problem), "invalid");
  });
}

function jobOf(parsed: { job: GenerationRequest } | { problem: Problem }): GenerationRequest {
  assert.ok("job" in parsed, JSON.stringify(parsed));
  return parsed.job;
}

test("defaults are those of the original API", () => {
  const job = jobOf(parseChat(chat({}), "tiny"));
  const off = { minP: 0, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1, bias: [], topLogprobs: 0 };
  assert.deepEqual(job.sampling, { temperature: 1, topP: 1, topK: 0, seed: undefined, ...off });
  assert.equal(job.priority, undefined);
  assert.equal(job.maxTokens, undefined);
  assert.equal(jobOf(parseCompletion(text({}), "tiny")).maxTokens, 16);
});

test("penalties, bias, likeliest tokens, format and priority come out as they went in", () => {
  const settings = { presence_penalty: -2, frequency_penalty: 0.5, repetition_penalty: 1.1, min_p: 0.1, logit_bias: { 5: -100, 70: 1.5 } };
  const job = jobOf(parseChat(chat({ ...settings, logprobs: true, top_logprobs: 20, priority: -3 }), "tiny"));
  const bias = [
    { id: 5, value: -100 },
    { id: 70, value: 1.5 },
  ];
  const want = { minP: 0.1, presencePenalty: -2, frequencyPenalty: 0.5, repetitionPenalty: 1.1, bias, topLogprobs: 20 };
  assert.deepEqual(job.sampling, { temperature: 1, topP: 1, topK: 0, seed: undefined, ...want });
  assert.equal(job.priority, -3);
  const formatOf = (format: object) => jobOf(parseChat(chat(format), "tiny")).sampling.constraint;
  assert.deepEqual(formatOf({ response_format: { type: "json_object" } }), { name: "json_object", spec: "" });
  assert.deepEqual(formatOf(schemaFormat({ type: "integer" })), { name: "json_schema", spec: '{"type":"integer"}' });
  assert.equal(formatOf({ response_format: { type: "text" } }), undefined);
  const plain = jobOf(parseCompletion(text({ logprobs: 3 }), "tiny"));
  assert.deepEqual([plain.logprobs, plain.sampling.topLogprobs], [true, 3]);
});

test("everything clients usually send along is taken", () => {
  const extra = {
    n: 1,
    stop: null,
    presence_penalty: 0,
    frequency_penalty: 0,
    logit_bias: {},
    user: "me",
    tools: [],
    response_format: { type: "text" },
    stream_options: null,
    top_k: -1,
  };
  const job = jobOf(
    parseChat(
      chat({
        ...extra,
        stop: "END",
        max_completion_tokens: 5,
        messages: [
          {
            role: "developer",
            content: [
              { type: "text", text: "a" },
              { type: "text", text: "b" },
            ],
          },
          user,
        ],
      }),
      "tiny",
    ),
  );
  assert.deepEqual(job.prompts, [{ messages: [{ role: "system", content: "ab" }, user], tools: [] }]);
  assert.deepEqual(job.stops, ["END"]);
  assert.equal(job.maxTokens, 5);
  assert.equal(job.sampling.topK, 0);
  const promptsOf = (prompt: unknown) => jobOf(parseCompletion(text({ prompt, n: 2, best_of: 2 }), "tiny")).prompts;
  assert.deepEqual(promptsOf("one"), [{ text: "one" }]);
  assert.deepEqual(promptsOf(["one", "two"]), [{ text: "one" }, { text: "two" }]);
  assert.deepEqual(promptsOf([1, 2]), [{ tokens: [1, 2] }]);
  assert.deepEqual(promptsOf([[1, 2], [3]]), [{ tokens: [1, 2] }, { tokens: [3] }]);
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
  fc.assert(
    fc.property(
      fc.oneof(
        fc.json({ maxDepth: 4 }).map((json) => JSON.parse(json)),
        fc.dictionary(fc.constantFrom("model", "messages", "prompt", "stop", "n", "stream", "seed"), fc.jsonValue()),
      ),
      (body) => {
        for (const parse of [parseChat, parseCompletion]) {
          const parsed = parse(body, "tiny");
          assert.ok(
            "job" in parsed || (parsed.problem.status >= 400 && parsed.problem.message.length > 5 && parsed.problem.message.length < 700),
          );
        }
      },
    ),
    { numRuns: 500 },
  );
});
