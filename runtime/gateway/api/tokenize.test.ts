import assert from "node:assert/strict";
import { test } from "node:test";
import { byteText } from "../../../test/kit/gateway/byte-text.ts";
import { detokenize, tokenize } from "./tokenize.ts";

const deps = { textModel: byteText, maxContext: 32, servedName: "tiny" };
const ids = (text: string) => [...Buffer.from(text)];
const chat = { messages: [{ role: "user", content: "é" }] };

/** A request -> the answer's body, or the field and the reason of its refusal. */
const cases: readonly (readonly [answer: typeof tokenize, body: unknown, want: object | readonly [string | null, RegExp]])[] = [
  [tokenize, { model: "tiny", prompt: "aé" }, { count: 3, max_model_len: 32, tokens: ids("aé"), token_strs: null }],
  [tokenize, { prompt: "ab", return_token_strs: true }, { count: 2, max_model_len: 32, tokens: [97, 98], token_strs: ["a", "b"] }],
  [tokenize, { ...chat, add_generation_prompt: true }, { count: 8, max_model_len: 32, tokens: ids("<user>é"), token_strs: null }],
  [tokenize, { ...chat, chat_template_kwargs: { messages: 1 } }, ["chat_template_kwargs.messages", /may set/]],
  [tokenize, { model: "other", prompt: "a" }, ["model", /use `tiny`/]],
  [tokenize, { prompt: "a", add_special_tokens: false }, ["add_special_tokens", /of the tokenizer/]],
  [tokenize, { messages: [] }, ["messages", /at least one/]],
  [tokenize, {}, ["prompt", /./]],
  [tokenize, { prompt: "x".repeat(40) }, ["prompt", /context holds 32/]],
  [detokenize, { tokens: ids("aé") }, { prompt: "aé" }],
  [detokenize, { model: "tiny", tokens: [byteText.vocab] }, ["tokens", /is not below/]],
  [detokenize, { tokens: ids("x".repeat(33)) }, ["tokens", /context holds 32/]],
  [detokenize, { tokens: ["a"] }, ["tokens[0]", /./]],
  [detokenize, [], [null, /./]],
];

test("texts, chats and ids become each other as with vLLM, and what cannot is refused with its field", async () => {
  for (const [answer, body, want] of cases) {
    const found = await answer(body, deps);
    if (!Array.isArray(want)) assert.deepEqual(found, { body: want }, JSON.stringify(body));
    else {
      assert.ok("problem" in found, JSON.stringify(found));
      assert.equal(found.problem.param, want[0], found.problem.message);
      assert.match(found.problem.message, want[1]);
    }
  }
});

test("many tokens are decoded a slice at a time, to the same text, until their client leaves", async () => {
  const text = `a${"é".repeat(10_000)}`;
  const wide = { ...deps, maxContext: 30_000 };
  let turns = 0;
  setImmediate(() => turns++);
  assert.deepEqual(await detokenize({ tokens: ids(text) }, wide), { body: { prompt: text } });
  assert.equal(turns, 1, "others have their turn");
  await assert.rejects(detokenize({ tokens: ids(text) }, wide, AbortSignal.abort()), { name: "AbortError" });
});
