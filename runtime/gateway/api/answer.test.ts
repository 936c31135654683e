// One request without HTTP: what is asked of the tokenizer before it is known to fit, and the logprobs of what comes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { newMetrics, piecesOf, type Told } from "../../../test/kit/gateway/answers.ts";
import { byteText } from "../../../test/kit/gateway/byte-text.ts";
import type { TextModel } from "../../text/text-model.ts";
import { type AnswerDeps, type Piece, prepare } from "./answer.ts";
import type { GenerationRequest } from "./generation-request.ts";
import { ChunkWriter, completionWriter, wholeBody } from "./openai-body.ts";

const off = { minP: 0, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1, bias: [], topLogprobs: 0 };
const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n, ...off };
const job = { endpoint: "completions", maxTokens: 1, n: 1, echo: false, logprobs: false, sampling } as unknown as GenerationRequest;

test("text that no tokens could bring into the context is refused before it is tokenised", async () => {
  let encoded = 0;
  const textModel: TextModel = {
    ...byteText,
    charsPerTokenMax: 4,
    encode: async (text) => {
      encoded++;
      return (await byteText.encode(text)).filter((_, i) => i % 4 === 0);
    },
    encodeChat: () => assert.fail("rendered"),
  };
  const deps = { textModel, maxContext: 11 };
  assert.ok("prompts" in (await prepare({ ...job, prompts: [{ text: "x".repeat(40) }] }, deps)));
  assert.equal(encoded, 1);
  const messages = ["a", "b"].map((letter) => ({ role: "user", content: letter.repeat(30) }) as const);
  for (const [prompt, param] of [
    [{ text: "x".repeat(45) }, "prompt"],
    [{ messages, tools: [] }, "messages"],
  ] as const) {
    const prepared = await prepare({ ...job, endpoint: "text" in prompt ? "completions" : "chat", prompts: [prompt] }, deps);
    assert.ok("problem" in prepared);
    assert.equal(prepared.problem.code, "context_length_exceeded");
    assert.equal(prepared.problem.param, param);
    assert.match(prepared.problem.message, /context holds 11 tokens.*(45|60) characters of/);
  }
  assert.equal(encoded, 1);
});

const envelope = { endpoint: "completions", id: "c", created: 0, model: "m", logprobs: true } as const;

/** The answer when one worker sends these bytes, a token each. */
const answer = (
  ids: readonly number[],
  told: Partial<Told> & { stops?: readonly string[] } = {},
  deps: Partial<AnswerDeps> = {},
): Promise<Piece[]> =>
  piecesOf({ ...job, stops: told.stops ?? [], logprobs: true, ignoreEos: false }, { ids, finish: "length", ...told }, deps);

test("a token that is part of a character has its own bytes, and offsets are places in the text", async () => {
  const bytes = [...new TextEncoder().encode("aé🙂b")];
  const pieces = await answer(bytes);
  const offsets = [0, 1, 1, 2, 2, 2, 2, 4];
  const usage = { promptTokens: 1, cachedTokens: 0, outputTokens: 8, reasoningTokens: 0 };
  const plain: any = wholeBody(envelope, [pieces], usage);
  assert.deepEqual(plain.choices[0].logprobs.text_offset, offsets);
  const chat: any = wholeBody({ ...envelope, endpoint: "chat" }, [pieces], usage);
  const { content } = chat.choices[0].logprobs;
  assert.deepEqual(
    content.flatMap((one: any) => one.bytes),
    bytes,
  );
  assert.deepEqual(content[1], { token: "\uFFFD", logprob: -1, bytes: [0xc3], top_logprobs: [] });
  const writer = new ChunkWriter(envelope, "none");
  assert.deepEqual(
    pieces.flatMap((piece) => (writer.piece(piece, 0) as any).choices[0].logprobs.text_offset),
    offsets,
  );
});

test("the likeliest tokens are listed with each, by their text in completions, where the chosen one never lacks", async () => {
  const top = [
    { id: 98, logprob: -0.25 },
    { id: 0xc3, logprob: -3 },
  ];
  const pieces = await answer([97, 98], { top });
  const usage = { promptTokens: 1, cachedTokens: 0, outputTokens: 2, reasoningTokens: 0 };
  const chat: any = wholeBody({ ...envelope, endpoint: "chat" }, [pieces], usage);
  assert.deepEqual(chat.choices[0].logprobs.content[0], {
    ...{ token: "a", logprob: -1, bytes: [97] },
    top_logprobs: [
      { token: "b", logprob: -0.25, bytes: [98] },
      { token: "\uFFFD", logprob: -3, bytes: [0xc3] },
    ],
  });
  const plain: any = wholeBody(envelope, [pieces], usage);
  assert.deepEqual(plain.choices[0].logprobs.top_logprobs, [
    { a: -1, b: -0.25, "\uFFFD": -3 },
    { b: -0.25, "\uFFFD": -3 },
  ]);
});

test("a bias on a token that the model has not is refused", async () => {
  const biased = { ...job, prompts: [{ text: "x" }], sampling: { ...sampling, bias: [{ id: byteText.vocab, value: 1 }] } };
  const prepared = await prepare(biased, { textModel: byteText, maxContext: 9 });
  assert.ok("problem" in prepared);
  assert.equal(prepared.problem.param, "logit_bias");
});

test("a stop string counts no earlier than the least number of tokens, nor may that be above the most", async () => {
  const said = async (minTokens: number) => {
    const asked = { ...job, stops: ["b"], ignoreEos: false, sampling: { ...sampling, minTokens } };
    const pieces = await piecesOf(asked, { ids: [...Buffer.from("abcbd")], finish: "length" });
    return [pieces.map(({ text }) => text).join(""), pieces.at(-1)?.finish];
  };
  assert.deepEqual(await Promise.all([0, 1, 2, 4].map(said)), [
    ["a", "stop"],
    ["a", "stop"],
    ["abc", "stop"],
    ["abcbd", "length"],
  ]);
  const prepared = await prepare(
    { ...job, prompts: [{ text: "x" }], sampling: { ...sampling, minTokens: 2 } },
    { textModel: byteText, maxContext: 9 },
  );
  assert.ok("problem" in prepared && prepared.problem.param === "min_tokens", JSON.stringify(prepared));
});

test("offsets do not lag behind while text is held back for a stop string", async () => {
  const pieces = await answer([...new TextEncoder().encode("abEENcd")], { stops: ["END"] });
  const writer = new ChunkWriter(envelope, "none");
  assert.deepEqual(
    pieces.flatMap((piece) => (writer.piece(piece, 0) as any).choices[0].logprobs.text_offset),
    [0, 1, 2, 3, 4, 5, 6],
  );
});

test("a client that reads slowly does not show as slow tokens", async () => {
  const clock = { now: 0 };
  const metrics = newMetrics();
  const onPiece = () => {
    clock.now += 5_000;
  };
  await answer([97, 98, 99], { onPiece }, { now: () => clock.now, metrics });
  const text = await metrics.text();
  assert.match(text, /^enodia_gateway_inter_token_seconds_sum(\{\})? 0$/m);
  assert.match(text, /^enodia_gateway_inter_token_seconds_count(\{\})? 2$/m);
});

test("each chunk has the usage so far where that is asked for", () => {
  const writer = completionWriter({ endpoint: "chat", logprobs: false, usageIn: "every" })({ model: "tiny", created: 7, token: "t" });
  const counted = { promptTokens: 5, cachedTokens: 4, outputTokens: 1, reasoningTokens: 0 };
  const [event = ""] = writer.events({ index: 0, piece: { text: "a", logprobs: [] } }, counted);
  const { usage } = JSON.parse(event.replace(/^data: /, ""));
  assert.deepEqual(usage, {
    prompt_tokens: 5,
    completion_tokens: 1,
    total_tokens: 6,
    prompt_tokens_details: { cached_tokens: 4 },
    completion_tokens_details: { reasoning_tokens: 0 },
  });
});
