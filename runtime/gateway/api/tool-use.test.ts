// The fields `tools` and `tool_choice`: when an answer is held to calls.
import assert from "node:assert/strict";
import { test } from "node:test";
import { byteText } from "../../../test/kit/gateway/byte-text.ts";
import { languageOf } from "../../constraints/index.ts";
import type { ToolSpec } from "../../constraints/tool-calls.ts";
import { hermes, llama, mistral } from "../../text/tools/index.ts";
import { prepare } from "./answer.ts";
import { parseChat } from "./openai.ts";
import { heldTo } from "./tool-use.ts";

const city = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = { name: "get_weather", description: "The weather", parameters: city };
const tool = (fields: object = {}) => ({ type: "function", function: { ...weather, ...fields } });
const user = { role: "user", content: "hi" };
const parse = (extra: object) => parseChat({ model: "tiny", messages: [user], tools: [tool()], ...extra }, "tiny");
const calls = (json: string) => [{ id: "c1", type: "function", function: { name: "get_weather", arguments: json } }];

/** The spec that a request holds its answer to; undefined where it may say anything. */
function specOf(extra: object): ToolSpec | undefined {
  const parsed = parse(extra);
  assert.ok("job" in parsed, JSON.stringify(parsed));
  assert.ok(parsed.job.tools);
  const held = heldTo(parsed.job.tools, hermes);
  assert.ok("constraint" in held, JSON.stringify(held));
  return held.constraint && JSON.parse(held.constraint.spec);
}

test("an answer is held to calls where the client relies on them, and not elsewhere", () => {
  assert.equal(specOf({}), undefined);
  const strict = specOf({ tools: [tool({ strict: true }), tool({ name: "other" })] });
  assert.equal(strict?.trigger, "<tool_call>");
  assert.deepEqual(
    strict.calls.map(({ schema }) => JSON.parse(schema)),
    [city, { type: "object" }],
  );
  const required = specOf({ tool_choice: "required" });
  assert.deepEqual([required?.trigger, required?.single, required?.calls.length], ["", false, 1]);
  const two = [tool(), tool({ name: "other", parameters: undefined })];
  const named = specOf({ tools: two, tool_choice: { type: "function", function: { name: "other" } } });
  assert.deepEqual([named?.single, named?.calls.length], [true, 1]);
  assert.deepEqual(JSON.parse(named?.calls[0]?.schema ?? ""), { type: "object", properties: {}, additionalProperties: false });
  assert.equal(specOf({ parallel_tool_calls: false })?.single, true);
});

test("none leaves the tools out, and a chat gives calls and their answers back", () => {
  const none = parse({ tool_choice: "none" });
  assert.ok("job" in none);
  assert.deepEqual([none.job.tools, none.job.prompts], [undefined, [{ messages: [user], tools: [] }]]);
  const given = parse({
    messages: [user, { role: "assistant", tool_calls: calls('{"city":"Oslo"}') }, { role: "tool", content: "rain", tool_call_id: "c1" }],
  });
  assert.ok("job" in given);
  assert.deepEqual(given.job.prompts, [
    {
      messages: [
        user,
        { role: "assistant", content: "", toolCalls: [{ id: "c1", name: "get_weather", arguments: '{"city":"Oslo"}' }] },
        { role: "tool", content: "rain", toolCallId: "c1" },
      ],
      tools: [weather],
    },
  ]);
});

test("a model without tools, and a schema that cannot be held, are told", () => {
  const parsed = parse({
    tools: [tool({ strict: true, parameters: { ...city, properties: { city: { type: "string", format: "date", pattern: "x" } } } })],
  });
  assert.ok("job" in parsed && parsed.job.tools);
  const unknown = heldTo(parsed.job.tools, undefined);
  assert.ok("problem" in unknown);
  assert.equal(unknown.problem.code, "unsupported_parameter");
  const date = heldTo(parsed.job.tools, hermes);
  assert.ok("problem" in date);
  assert.match(date.problem.message, /tools\[0\]\.function\.parameters: #\/properties\/city\/format/);
});

test("an answer that is held to calls has an end, which ignore_eos may not take away, nor stop_token_ids move", async () => {
  const deps = { textModel: { ...byteText, tools: hermes, encodeChat: async () => Uint32Array.of(1) }, maxContext: 999 };
  for (const given of [{ ignore_eos: true }, { stop_token_ids: [3] }]) {
    const prepared = async (extra: object) => {
      const parsed = parse({ ...given, ...extra });
      assert.ok("job" in parsed);
      return prepare(parsed.job, deps);
    };
    const refused = await prepared({ tool_choice: "required" });
    assert.ok("problem" in refused);
    assert.deepEqual([refused.problem.param], Object.keys(given));
    assert.ok("prompts" in (await prepared({})), "free text has none");
  }
});

test("calls of every format that has texts are held to its words, and what is so held is read as calls", () => {
  for (const format of [hermes, llama, mistral]) {
    const parsed = parse({ tool_choice: "required", tools: [tool(), tool({ name: "other" })] });
    assert.ok("job" in parsed && parsed.job.tools);
    const held = heldTo(parsed.job.tools, format);
    assert.ok("constraint" in held && held.constraint);
    const language = languageOf(held.constraint);
    const { begin, before, after, between, end, single = false } = format.texts;
    const call = (name: string) => `${before(name)}{"city":"Oslo"}${after}`;
    const two = `${begin}${call("get_weather")}${between}${call("other")}${end}`;
    const states = (text: string) => {
      let state: string | undefined = language.start;
      for (const byte of new TextEncoder().encode(text)) state = state === undefined ? undefined : language.step(state, byte);
      return state;
    };
    assert.equal(states(two) === undefined, single, "templates of one of them refuse a turn with two");
    const one = `${begin}${call("other")}${end}`;
    assert.ok(language.ends(states(one) ?? "-"), one);
    assert.equal(states(`${begin}${before("nobody")}`), undefined);
    const reader = format.reader();
    const pieces = [reader.push(one), reader.end()];
    assert.deepEqual(
      pieces.flatMap(({ calls: found }) => found),
      [{ index: 0, name: "other", arguments: '{"city":"Oslo"}' }],
    );
  }
});
