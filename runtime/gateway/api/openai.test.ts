// What the OpenAI schemas take, and how it comes out.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Problem } from "../problem.ts";
import type { GenerationRequest } from "./generation-request.ts";
import { parseChat, parseCompletion } from "./openai.ts";

const user = { role: "user", content: "hi" };
const chat = (extra: object) => ({ model: "tiny", messages: [user], ...extra });
const text = (extra: object) => ({ model: "tiny", prompt: "hi", ...extra });

const schemaFormat = (schema: object) => ({
  response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } },
});

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

test("penalties, bias, likeliest tokens, format, priority and salt come out as they went in", () => {
  const settings = { presence_penalty: -2, frequency_penalty: 0.5, repetition_penalty: 1.1, min_p: 0.1, logit_bias: { 5: -100, 70: 1.5 } };
  const job = jobOf(parseChat(chat({ ...settings, logprobs: true, top_logprobs: 20, priority: -3 }), "tiny"));
  const bias = [
    { id: 5, value: -100 },
    { id: 70, value: 1.5 },
  ];
  const want = { minP: 0.1, presencePenalty: -2, frequencyPenalty: 0.5, repetitionPenalty: 1.1, bias, topLogprobs: 20 };
  assert.deepEqual(job.sampling, { temperature: 1, topP: 1, topK: 0, seed: undefined, ...want });
  assert.equal(job.priority, -3);
  const salts = [{}, { cache_salt: "a" }].map((fields) => jobOf(parseCompletion(text(fields), "tiny")).cacheSalt);
  assert.deepEqual(salts, ["", "a"]);
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

test("a field that is null is absent, however deep, but not in JSON that is anybody's", () => {
  const said = { role: "assistant", content: "a", refusal: null, audio: null, name: null, tool_calls: null };
  const nulls = {
    functions: null,
    prediction: null,
    audio: null,
    web_search_options: null,
    metadata: { a: null },
    stream_options: { include_usage: null },
  };
  const { prompts, usageIn } = jobOf(parseChat(chat({ ...nulls, messages: [said, user] }), "tiny"));
  assert.deepEqual(prompts, [{ messages: [{ role: "assistant", content: "a" }, user], tools: [] }]);
  assert.equal(usageIn, "none");
  const { constraint } = jobOf(parseChat(chat(schemaFormat({ const: null })), "tiny")).sampling;
  assert.equal(constraint?.spec, '{"const":null}');
});

test("vLLM's extensions come out as they went in", () => {
  const stopped = jobOf(parseChat(chat({ stop_token_ids: [3, 9], skip_special_tokens: true }), "tiny"));
  assert.deepEqual(stopped.stopTokens, [3, 9]);
  const usageOf = (stream_options: object) => jobOf(parseCompletion(text({ stream_options }), "tiny")).usageIn;
  assert.equal(usageOf({ include_usage: true, continuous_usage_stats: true }), "every");
  assert.equal(usageOf({ include_usage: true }), "last");
  assert.equal(usageOf({ continuous_usage_stats: true }), "none");
  for (const parse of [(extra: object) => parseChat(chat(extra), "tiny"), (extra: object) => parseCompletion(text(extra), "tiny")]) {
    const held = (structured_outputs: object | null) => jobOf(parse({ structured_outputs })).sampling.constraint;
    assert.deepEqual(held({ json: { type: "integer" } }), { name: "json_schema", spec: '{"type":"integer"}' });
    assert.deepEqual(held({ json_object: true }), { name: "json_object", spec: "" });
    assert.deepEqual(held({ regex: "a+" }), { name: "regex", spec: "a+" });
    assert.deepEqual(held({ choice: ["a", "b"] }), { name: "choice", spec: '["a","b"]' });
    assert.equal(held(null), undefined);
  }
});
