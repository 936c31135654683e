// The client of OpenAI itself against a real gateway with two real workers of the tiny model: what its own types and parsers make of chats,
// streams, tools, schemas, completions with prompts' log-probabilities, responses, embeddings and errors.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import OpenAI, { APIError } from "openai";
import { gatewayOfRanks } from "../../../test/kit/gateway/local-gateway.ts";
import { Ranks, tinyStore } from "../../../test/kit/ranks/ranks.ts";
import { loadTokenizer, type ModelTokenizer } from "../../text/tokenizer.ts";
import type { Gateway } from "../gateway.ts";

/** Turns as the tiny model's own template writes them, and tools as Qwen's does. */
const template = [
  "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool.function.name }} {% endfor %}",
  '<tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\n{% endif -%}',
  "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}",
  '{%- for call in message.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}',
  "\n</tool_call>{% endfor -%}<|im_end|>\n{% endfor -%}<|im_start|>assistant\n",
  "{%- if enable_thinking is defined and not enable_thinking %}no thoughts{% endif -%}",
].join("");

let store: Awaited<ReturnType<typeof tinyStore>>;
let tokenizer: ModelTokenizer;
let ranks: Ranks;
let gateway: Gateway;
let client: OpenAI;

before(async () => {
  store = await tinyStore();
  await writeFile(join(store.dir, "chat_template.jinja"), template);
  tokenizer = await loadTokenizer(store.dir);
  ranks = new Ranks(store);
  for (const rank of [0, 1]) await ranks.launch(rank);
  await ranks.firstPlan();
  gateway = await gatewayOfRanks(ranks, { textDir: join(store.dir, "../text"), maxContext: 512 });
  client = new OpenAI({ baseURL: `http://127.0.0.1:${gateway.httpPort}/v1`, apiKey: "none", maxRetries: 0 });
});
after(async () => {
  await gateway.close(0);
  await ranks.close();
  store.remove();
});

const model = "tiny";
const messages = [{ role: "user" as const, content: "hi" }];
const city = { type: "object", properties: { city: { enum: ["Oslo", "Rome"] } }, required: ["city"], additionalProperties: false };
const tools = ["weather", "time"].map((name) => ({ type: "function" as const, function: { name, parameters: city } }));

test("models are listed", async () => {
  const names: string[] = [];
  for await (const one of client.models.list()) names.push(one.id);
  assert.deepEqual(names, [model]);
  assert.equal((await client.models.retrieve(model)).object, "model");
});

test("a chat, whole and as the stream that the client adds up, has the same text; several answers too", async () => {
  const settings = { model, messages, seed: 3, max_tokens: 12, n: 3, logprobs: true, top_logprobs: 2 };
  const whole = await client.chat.completions.create(settings);
  assert.equal(whole.choices.length, 3);
  const streamed = await client.chat.completions.stream({ ...settings, stream_options: { include_usage: true } }).finalChatCompletion();
  assert.deepEqual(
    streamed.choices.map(({ index, message, logprobs, finish_reason }) => [index, message.content, logprobs, finish_reason]),
    whole.choices.map(({ index, message, logprobs, finish_reason }) => [index, message.content, logprobs, finish_reason]),
  );
  assert.deepEqual([whole.usage?.completion_tokens, streamed.usage?.completion_tokens], [36, 36]);
  const second = await client.chat.completions.create({ ...settings, n: 1, seed: 4 });
  assert.equal(second.choices[0]?.message.content, whole.choices[1]?.message.content, "the second answer is that of the next seed");
});

test("a required call is one of the tools with arguments that fit, whole and streamed; its answer goes back", async () => {
  const settings = { model, messages, tools, tool_choice: "required" as const, parallel_tool_calls: false, seed: 1, max_tokens: 250 };
  const whole = await client.chat.completions.create(settings);
  const [choice] = whole.choices;
  assert.equal(choice?.finish_reason, "tool_calls", JSON.stringify(whole));
  assert.equal(choice.message.content, null);
  const [call] = choice.message.tool_calls ?? [];
  assert.ok(call?.type === "function" && ["weather", "time"].includes(call.function.name));
  const { city: chosen } = JSON.parse(call.function.arguments);
  assert.ok(["Oslo", "Rome"].includes(chosen), call.function.arguments);
  const streamed = await client.chat.completions.stream(settings).finalChatCompletion();
  const [again] = streamed.choices[0]?.message.tool_calls ?? [];
  assert.deepEqual(again?.type === "function" && [again.function.name, again.function.arguments], [
    call.function.name,
    call.function.arguments,
  ]);
  const answered = [...messages, choice.message, { role: "tool" as const, tool_call_id: call.id, content: "rain" }];
  const next = await client.chat.completions.create({ model, messages: answered, tools, max_tokens: 4, seed: 1 });
  assert.equal(next.choices[0]?.finish_reason, "length");
});

test("a named tool is the one that is called, and none calls none", async () => {
  const settings = { model, messages, tools, seed: 2, max_tokens: 250 };
  const named = await client.chat.completions.create({ ...settings, tool_choice: { type: "function", function: { name: "time" } } });
  const [call] = named.choices[0]?.message.tool_calls ?? [];
  assert.ok(call?.type === "function");
  assert.equal(call.function.name, "time");
  const none = await client.chat.completions.create({ ...settings, tool_choice: "none", max_tokens: 8 });
  const without = await client.chat.completions.create({ model, messages, seed: 2, max_tokens: 8 });
  assert.equal(none.choices[0]?.message.content, without.choices[0]?.message.content);
});

test("a schema holds the answer, as the client's own parser finds", async () => {
  const json_schema = { name: "place", strict: true, schema: city };
  const parsed = await client.chat.completions.parse({
    model,
    messages,
    seed: 1,
    max_tokens: 400,
    response_format: { type: "json_schema", json_schema },
  });
  const place = parsed.choices[0]?.message.parsed as { city: string } | null;
  assert.ok(place && ["Oslo", "Rome"].includes(place.city), JSON.stringify(parsed.choices));
});

test("a harness that scores continuations gets what each token of the prompt is worth, as text and as tokens, many at a time", async () => {
  const texts = ["The capital of Norway is Oslo", "hello hello hello"];
  const settings = { model, max_tokens: 1, temperature: 0, logprobs: 1, echo: true, seed: 1234 };
  const ids = texts.map((text) => [...tokenizer.encode(text)]);
  const scored = await client.completions.create({ ...settings, prompt: ids });
  assert.equal(scored.choices.length, 2);
  for (const [at, { index, text, logprobs }] of scored.choices.entries()) {
    assert.equal(index, at);
    const { token_logprobs: worths = [], top_logprobs: tops = [], tokens = [] } = logprobs ?? {};
    assert.equal(worths.length, (ids[at]?.length ?? 0) + 1, "the prompt and the one token that was made");
    assert.equal(worths[0] as unknown, null);
    assert.ok(worths.slice(1).every((worth) => worth < 0));
    for (const [i, top] of tops.entries()) if (i > 0) assert.equal((top as Record<string, number>)[tokens[i] ?? ""], worths[i]);
    assert.ok(text.startsWith(texts[at] ?? "-"), text);
  }
  const alone = await client.completions.create({ ...settings, prompt: texts[1] as string });
  assert.deepEqual(alone.choices[0]?.logprobs, scored.choices[1]?.logprobs, "the same alone as in company");
  const nothing = await client.completions.create({ ...settings, prompt: texts, max_tokens: 0 });
  assert.deepEqual(
    nothing.choices.map(({ logprobs }) => logprobs?.token_logprobs),
    scored.choices.map(({ logprobs }) => logprobs?.token_logprobs?.slice(0, -1)),
  );
  assert.deepEqual(nothing.usage?.completion_tokens, 0);
});

test("responses have the text of the chat, whole and streamed, and say when they were cut off", async () => {
  const settings = { model, input: "hi", max_output_tokens: 12, seed: 3 } as OpenAI.Responses.ResponseCreateParamsNonStreaming;
  const whole = await client.responses.create(settings);
  const chat = await client.chat.completions.create({ model, messages, max_tokens: 12, seed: 3 });
  assert.equal(whole.output_text, chat.choices[0]?.message.content);
  assert.deepEqual([whole.status, whole.incomplete_details?.reason, whole.usage?.output_tokens], ["incomplete", "max_output_tokens", 12]);
  const types: string[] = [];
  const stream = client.responses
    .stream(settings as Parameters<typeof client.responses.stream>[0])
    .on("event", ({ type }) => types.push(type));
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
  assert.deepEqual(
    types.slice(0, 4),
    ["created", "in_progress", "output_item.added", "content_part.added"].map((type) => `response.${type}`),
  );
  assert.equal(types.at(-1), "response.incomplete");
});

test("a response calls a tool, and its output goes back", async () => {
  const flat = tools.map(({ type, function: { name, parameters } }) => ({ type, name, parameters, strict: true }));
  const input = [{ role: "user" as const, content: "hi" }];
  const asked = await client.responses.create({ model, input, tools: flat, tool_choice: "required", parallel_tool_calls: false });
  const [call] = asked.output;
  assert.ok(call?.type === "function_call", JSON.stringify(asked.output));
  assert.ok(["Oslo", "Rome"].includes(JSON.parse(call.arguments).city));
  const output = { type: "function_call_output" as const, call_id: call.call_id, output: "rain" };
  const next = await client.responses.create({
    model,
    input: [...input, call, output],
    tools: flat,
    tool_choice: "none",
    max_output_tokens: 4,
  });
  assert.equal(next.output[0]?.type, "message");
});

test("an effort reaches the model's template, in chats and responses, and the answer says it again", async () => {
  const chat = async (reasoning_effort: "none" | "low" | null) => {
    const { usage } = await client.chat.completions.create({ model, messages, max_tokens: 2, seed: 1, reasoning_effort });
    return usage?.prompt_tokens ?? 0;
  };
  const [without, low, none] = [await chat(null), await chat("low"), await chat("none")];
  assert.equal(low, without);
  assert.ok(none > low, `${none} tokens, ${low} with thoughts`);
  const input = "hi";
  const reasoning = { effort: "none", summary: "auto" } as const;
  const whole = await client.responses.create({ model, input, reasoning, max_output_tokens: 2 });
  assert.deepEqual([whole.usage?.input_tokens, whole.reasoning?.effort], [none, "none"]);
  const wrong = client.chat.completions.create({ model, messages, reasoning_effort: "most" as "high" });
  await assert.rejects(wrong, (error) => error instanceof APIError && error.status === 400 && error.param === "reasoning_effort");
});

test("embeddings are vectors, and errors are the client's own", async () => {
  const { data } = await client.embeddings.create({ model, input: ["a", "b"] });
  assert.deepEqual([data.length, data[0]?.embedding.length], [2, 64]);
  const wrong = client.chat.completions.create({ model: "other", messages });
  await assert.rejects(wrong, (error) => error instanceof APIError && error.status === 404 && error.code === "model_not_found");
  const stored = client.responses.create({ model, input: "hi", store: true });
  await assert.rejects(stored, (error) => error instanceof APIError && error.status === 400 && error.param === "store");
});
