// A chat with a model that answers in channels: what it says to itself comes in a field of its own, whole and in chunks.
import assert from "node:assert/strict";
import { test } from "node:test";
import { piecesOf } from "../../../test/kit/gateway/answers.ts";
import { byteText } from "../../../test/kit/gateway/byte-text.ts";
import type { TextModel } from "../../text/text-model.ts";
import { thinkingOf } from "../../text/thinking.ts";
import { hermes } from "../../text/tools/index.ts";
import { isMarker, type Piece, prepare } from "./answer.ts";
import type { GenerationRequest } from "./generation-request.ts";
import { parseChat } from "./openai.ts";
import { ChunkWriter, wholeBody } from "./openai-body.ts";
import { parseResponses } from "./responses.ts";

/** Ids that the test's tokenizer has no text for. */
const channels = { start: 1, channel: 2, message: 3, end: 4 };
const bytes = (text: string) => [...new TextEncoder().encode(text)];
const thought = [2, ...bytes("analysis"), 3, ...bytes("hm é"), 4];
const final = [1, ...bytes("assistant"), 2, ...bytes("final"), 3, ...bytes("Yes.")];

/** A model that answers in channels. */
const answer = (endpoint: GenerationRequest["endpoint"], ids: readonly number[], tools = false): Promise<Piece[]> =>
  answerOf({ endpoint, ...(tools ? { tools: {} } : {}) }, ids, { channels });

const answerOf = (asked: object, ids: readonly number[], model: Partial<TextModel>, prompt: readonly number[] = [1]): Promise<Piece[]> =>
  piecesOf(asked, { ids, prompt }, { textModel: { ...byteText, ...model } });

const usage = { promptTokens: 1, cachedTokens: 0, outputTokens: 1, reasoningTokens: 0 };
const envelope = { endpoint: "chat", id: "c", created: 0, model: "m", logprobs: false } as const;

test("content and reasoning_content are apart, whole and in chunks", async () => {
  const pieces = await answer("chat", [...thought, ...final]);
  const { choices }: any = wholeBody(envelope, [pieces], usage);
  assert.deepEqual(choices[0].message, { role: "assistant", content: "Yes.", reasoning_content: "hm é", refusal: null });
  const chunks = new ChunkWriter(envelope, "none");
  const deltas: any[] = pieces.filter((piece) => !isMarker(piece)).map((piece) => (chunks.piece(piece, 0) as any).choices[0].delta);
  assert.equal(deltas.map(({ reasoning_content = "" }) => reasoning_content).join(""), "hm é");
  assert.equal(deltas.map(({ content = "" }) => content).join(""), "Yes.");
  assert.ok(
    deltas.every((delta, i) => i === deltas.length - 1 || Object.keys(delta).length === 1),
    "one of them a chunk",
  );
});

test("without thoughts there is no such field, and completions show what the model says as it is", async () => {
  const { choices }: any = wholeBody(envelope, [await answer("chat", final)], usage);
  assert.deepEqual(choices[0].message, { role: "assistant", content: "Yes.", refusal: null });
  const plain: any = wholeBody({ ...envelope, endpoint: "completions" }, [await answer("completions", thought)], usage);
  assert.match(plain.choices[0].text, /analysis.*hm é/s);
});

test("a call comes after the thoughts, with an id of its own, and is why the answer ends", async () => {
  const call = [1, ...bytes("assistant"), 2, ...bytes("commentary to=functions.get_weather json"), 3, ...bytes('{"city": "Tromsø"}')];
  const pieces = await answer("chat", [...thought, ...call], true);
  const { choices }: any = wholeBody(envelope, [pieces], usage);
  const [{ message, finish_reason }] = choices;
  assert.deepEqual([message.content, message.reasoning_content, finish_reason], [null, "hm é", "tool_calls"]);
  assert.match(message.tool_calls[0].id, /^call_[0-9a-f]{32}$/);
  assert.deepEqual(message.tool_calls[0].function, { name: "get_weather", arguments: '{"city": "Tromsø"}' });
  const chunks = new ChunkWriter(envelope, "none");
  const deltas: any[] = pieces.flatMap((piece) => (chunks.piece(piece, 0) as any).choices[0].delta.tool_calls ?? []);
  assert.deepEqual(
    deltas.map(({ index, id, type }) => [index, id, type]).slice(0, 2),
    [
      [0, message.tool_calls[0].id, "function"],
      [0, undefined, undefined],
    ],
    "the id comes once",
  );
  assert.equal(deltas.map(({ function: { arguments: more } }) => more).join(""), '{"city": "Tromsø"}');
});

/** Marks of thoughts, for which the test's tokenizer has no text. */
const thoughts = { open: 5, close: 6 };
const thinks = [5, ...bytes("\nhm é\n"), 6, ...bytes("\n\nYes.")];
const said = (pieces: readonly Piece[]) => {
  const { choices }: any = wholeBody(envelope, [pieces], usage);
  const { content, reasoning_content } = choices[0].message;
  return [content, reasoning_content];
};

test("thoughts between marks are apart too, in chats and responses; completions show all that is said", async () => {
  assert.deepEqual(said(await answerOf({ endpoint: "chat" }, thinks, { thoughts })), ["Yes.", "hm é"]);
  const asked = { model: "tiny", input: "hi", reasoning: { effort: "low", summary: "auto" }, include: ["reasoning.encrypted_content"] };
  const parsed = parseResponses(asked, "tiny");
  assert.ok("job" in parsed);
  const pieces = await answerOf(parsed.job, thinks, { thoughts });
  const whole: any = parsed.writer({ id: "r", created: 0, model: "tiny" } as any).whole([pieces], usage);
  assert.deepEqual(
    whole.output.map(({ type, content }: any) => [type, content[0].text]),
    [
      ["reasoning", "hm é"],
      ["message", "Yes."],
    ],
  );
  assert.deepEqual([whole.reasoning, whole.output[0].summary], [{ effort: "low", summary: null }, []]);
  const plain: any = wholeBody(
    { ...envelope, endpoint: "completions" },
    [await answerOf({ endpoint: "completions" }, thinks, { thoughts })],
    usage,
  );
  assert.match(plain.choices[0].text, /hm é.*Yes/s);
});

test("thoughts that the prompt has begun are thoughts, but of an answer that is held to a format, which has room for none", async () => {
  const open = [...thinks.slice(1)];
  assert.deepEqual(said(await answerOf({ endpoint: "chat" }, open, { thoughts }, [1, 5])), ["Yes.", "hm é"]);
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, constraint: { name: "json_object", spec: "" } };
  assert.deepEqual(said(await answerOf({ endpoint: "chat", sampling }, bytes("{}"), { thoughts }, [1, 5])), ["{}", undefined]);
});

test("an effort reaches the template, and one that it has no word for is refused with those that it has", async () => {
  const asked: (object | undefined)[] = [];
  const textModel: TextModel = {
    ...byteText,
    thinking: thinkingOf("{{ reasoning_effort }}")!,
    tools: hermes,
    encodeChat: async (_messages, _signal, _tools, variables) => {
      asked.push(variables);
      return Uint32Array.of(1);
    },
  };
  const messages = [{ role: "user", content: "hi" }];
  const chat = async (fields: object, of: TextModel = textModel) => {
    const parsed = parseChat({ model: "tiny", messages, max_tokens: 1, ...fields }, "tiny");
    assert.ok("job" in parsed, JSON.stringify(parsed));
    return prepare(parsed.job, { textModel: of, maxContext: 99 });
  };
  for (const fields of [{ reasoning_effort: "high" }, { reasoning_effort: null }, {}]) assert.ok("prompts" in (await chat(fields)));
  assert.deepEqual(asked, [{ reasoning_effort: "high" }, {}, {}]);
  asked.length = 0;
  const onOff: TextModel = { ...textModel, thinking: thinkingOf("{{ enable_thinking }}")! };
  const held = { response_format: { type: "json_object" } };
  const tools = [{ type: "function", function: { name: "f" } }];
  const rest = [{}, held, { ...held, reasoning_effort: "high" }, { tools }, { tools, tool_choice: "required" }];
  for (const fields of rest) assert.ok("prompts" in (await chat(fields, onOff)));
  assert.deepEqual(
    asked,
    [{}, { enable_thinking: false }, { enable_thinking: true }, {}, { enable_thinking: false }],
    "a held answer has no room for thoughts",
  );
  asked.length = 0;
  await chat({ reasoning_effort: "high", chat_template_kwargs: { enable_thinking: false, budget: 3, style: "plain 1" } }, onOff);
  assert.deepEqual(asked, [{ enable_thinking: false, budget: 3, style: "plain 1" }], "vLLM's field goes before the effort");
  const refused = await chat({ reasoning_effort: "none" });
  assert.ok("problem" in refused);
  assert.equal(refused.problem.param, "reasoning_effort");
  assert.match(refused.problem.message, /no word for none; it has for minimal, low, medium, high, xhigh/);
  assert.ok("prompts" in (await chat({ reasoning_effort: "none" }, byteText)), "a model without a switch thinks as it does");
});
