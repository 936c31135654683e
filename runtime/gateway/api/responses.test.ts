// /v1/responses without a worker: how items become a chat, and events that add up to the whole body.
import assert from "node:assert/strict";
import { test } from "node:test";
import { problems } from "../problem.ts";
import type { Piece } from "./answer.ts";
import { parseResponses } from "./responses.ts";
import { responseWriter } from "./responses-body.ts";

const parse = (extra: object) => parseResponses({ model: "tiny", input: "hi", ...extra }, "tiny");
const schema = { type: "object", properties: {}, additionalProperties: false };

test("items become the messages of a chat, calls those of the assistant before them", () => {
  const parsed = parse({
    instructions: "Be brief.",
    input: [
      {
        role: "user",
        content: [
          { type: "input_text", text: "a" },
          { type: "input_text", text: "b" },
        ],
      },
      { type: "reasoning", id: "rs_1", summary: [] },
      {
        type: "message",
        role: "assistant",
        id: "msg_1",
        status: "completed",
        content: [{ type: "output_text", text: "Let me see.", annotations: [] }],
      },
      { type: "function_call", call_id: "c1", name: "f", arguments: "{}", id: "fc_1", status: "completed" },
      { type: "function_call", call_id: "c2", name: "f", arguments: "{}" },
      { type: "function_call_output", call_id: "c1", output: "one" },
      { type: "function_call_output", call_id: "c2", output: [{ type: "input_text", text: "two" }] },
      { role: "developer", content: "c" },
    ],
    tools: [{ type: "function", name: "f", parameters: schema, strict: null }],
    text: { format: { type: "text" } },
  });
  assert.ok("job" in parsed, JSON.stringify(parsed));
  const calls = ["c1", "c2"].map((id) => ({ id, name: "f", arguments: "{}" }));
  assert.deepEqual(parsed.job.prompts, [
    {
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "ab" },
        { role: "assistant", content: "Let me see.", toolCalls: calls },
        { role: "tool", content: "one", toolCallId: "c1" },
        { role: "tool", content: "two", toolCallId: "c2" },
        { role: "system", content: "c" },
      ],
      tools: [{ name: "f", parameters: schema }],
    },
  ]);
  const called = parse({ input: [{ type: "function_call", call_id: "c", name: "f", arguments: "{}" }] });
  assert.ok("job" in called && "messages" in called.job.prompts[0]!);
  assert.equal(called.job.prompts[0].messages[0]?.role, "assistant");
});

const marker: Piece = { text: "", logprobs: [] };
const usage = { promptTokens: 3, cachedTokens: 2, outputTokens: 5, reasoningTokens: 0 };
const start = { model: "tiny", created: 7, token: "t" };

/** The events of an answer, as a client reads them. */
function events(pieces: readonly Piece[]): any[] {
  const writer = responseWriter({})(start);
  const texts = [...pieces.flatMap((piece) => writer.events({ index: 0, piece }, usage)), ...writer.last(usage)];
  return texts.map((text) => {
    const [, name, data = ""] = /^event: (\S+)\ndata: (.*)\n\n$/s.exec(text) ?? [];
    const event = JSON.parse(data);
    assert.equal(event.type, name);
    return event;
  });
}
/** Without what is drawn at random. */
const same = (body: object): unknown => JSON.parse(JSON.stringify(body).replaceAll(/"(resp|msg|rs|fc)_[0-9a-f]{32}"/g, '"$1"'));

const thoughts: Piece[] = [marker, { text: "", reasoning: "hm ", logprobs: [] }, { text: "", reasoning: "so", logprobs: [] }];
const answers: Record<string, Piece[]> = {
  "a text": [marker, { text: "Yes", logprobs: [] }, { text: ".", logprobs: [], finish: "stop" }],
  "a text that is cut off": [marker, { text: "Yes", logprobs: [], finish: "length" }],
  "nothing at all": [marker, { text: "", logprobs: [], finish: "stop" }],
  "thoughts and a text that is cut off": [...thoughts, { text: "Ye", logprobs: [], finish: "length" }],
  "a call whose end comes with a text and another call": [
    marker,
    { text: "", logprobs: [], calls: [{ index: 0, id: "c1", name: "f", arguments: '{"a"' }] },
    {
      text: " Then ",
      logprobs: [],
      calls: [
        { index: 0, arguments: ":1}" },
        { index: 1, id: "c2", name: "g", arguments: "{}" },
      ],
      finish: "tool_calls",
    },
  ],
  "thoughts and a text": [...thoughts, { text: "Yes.", logprobs: [], finish: "stop" }],
  "a text and two calls": [
    marker,
    { text: "Let me see.", logprobs: [] },
    { text: "", logprobs: [], calls: [{ index: 0, id: "c1", name: "f", arguments: '{"a"' }] },
    {
      text: "",
      logprobs: [],
      calls: [
        { index: 0, arguments: ":1}" },
        { index: 1, id: "c2", name: "g" },
      ],
    },
    { text: "", logprobs: [], calls: [{ index: 1, arguments: "{}" }], finish: "tool_calls" },
  ],
};

for (const [name, pieces] of Object.entries(answers))
  test(`the events of ${name} are in order and add up to the whole body`, () => {
    const all = events(pieces);
    assert.deepEqual(
      all.map(({ sequence_number }) => sequence_number),
      all.map((_, i) => i),
    );
    const { response } = all.at(-1);
    assert.equal(all.at(-1).type, `response.${response.status}`);
    const whole = responseWriter({})(start).whole([pieces], usage);
    assert.deepEqual(same(response), same(whole));
    assert.deepEqual(response.usage, {
      input_tokens: 3,
      input_tokens_details: { cached_tokens: 2 },
      output_tokens: 5,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: 8,
    });
    for (const [index, item] of response.output.entries()) {
      const own = all.filter((event) => event.output_index === index);
      assert.equal(own[0].type, "response.output_item.added");
      assert.deepEqual(own.at(-1).item, item);
      const text = own.filter(({ type }) => type.endsWith(".delta")).map(({ delta }) => delta);
      assert.equal(text.join(""), item.type === "function_call" ? item.arguments : item.content[0].text);
    }
  });

test("the end of a call is not lost to the text behind it", () => {
  const pieces = answers["a call whose end comes with a text and another call"] ?? [];
  const { output }: any = responseWriter({})(start).whole([pieces], usage);
  assert.deepEqual(
    output.map((item: any) => item.arguments ?? item.content[0].text),
    ['{"a":1}', " Then ", "{}"],
  );
});

test("a whole answer has its items by kind, and says that it was cut off", () => {
  const typesOf = (name: string) =>
    (responseWriter({})(start).whole([answers[name] ?? []], usage) as any).output.map(({ type }: any) => type);
  assert.deepEqual(typesOf("thoughts and a text"), ["reasoning", "message"]);
  assert.deepEqual(typesOf("a text and two calls"), ["message", "function_call", "function_call"]);
  assert.deepEqual(typesOf("nothing at all"), ["message"]);
  const cut: any = responseWriter({})(start).whole([answers["a text that is cut off"] ?? []], usage);
  assert.deepEqual([cut.status, cut.incomplete_details], ["incomplete", { reason: "max_output_tokens" }]);
});

test("a stream that fails ends with the error", () => {
  const [event = ""] = responseWriter({})(start).failed(problems.deadline(5));
  assert.match(event, /^event: error\n/);
  const { message } = problems.deadline(5);
  // Clients tell events by their type.
  const fields = { type: "error", sequence_number: 0, message, code: "deadline_exceeded", param: null };
  assert.deepEqual(JSON.parse(event.split("data: ")[1] ?? ""), fields);
});
