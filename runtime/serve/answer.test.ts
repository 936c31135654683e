// What is asked of the tokenizer before a request is known to fit.
import assert from "node:assert/strict";
import { test } from "node:test";
import { byteText } from "../../test/support/byte-text.ts";
import { prepare, type TextModel } from "./answer.ts";
import type { GenerationJob } from "./openai.ts";

const job = { endpoint: "completions", maxTokens: 1 } as GenerationJob;

test("text that no tokens could bring into the context is refused before it is tokenised", () => {
  let encoded = 0;
  const textModel: TextModel = {
    ...byteText,
    charsPerTokenMax: 4,
    encode: (text) => {
      encoded++;
      return byteText.encode(text).filter((_, i) => i % 4 === 0);
    },
    encodeChat: () => assert.fail("rendered"),
  };
  const deps = { textModel, maxContext: 11 };
  assert.ok("prompt" in prepare({ ...job, prompt: { text: "x".repeat(40) } }, deps));
  assert.equal(encoded, 1);
  const messages = ["a", "b"].map((letter) => ({ role: "user", content: letter.repeat(30) }) as const);
  for (const [prompt, param] of [
    [{ text: "x".repeat(45) }, "prompt"],
    [{ messages }, "messages"],
  ] as const) {
    const prepared = prepare({ ...job, endpoint: "text" in prompt ? "completions" : "chat", prompt }, deps);
    assert.ok("problem" in prepared);
    assert.equal(prepared.problem.code, "context_length_exceeded");
    assert.equal(prepared.problem.param, param);
    assert.match(prepared.problem.message, /context holds 11 tokens.*(45|60) characters of/);
  }
  assert.equal(encoded, 1);
});
