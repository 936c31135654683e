// Wishes of clients about tokens, through the gateway to two real workers that share the experts: penalties, bias, the likeliest tokens,
// JSON alone, a priority, and the vectors of texts.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gatewayOfRanks } from "../../../test/kit/gateway/local-gateway.ts";
import { Ranks, tinyStore } from "../../../test/kit/ranks/ranks.ts";
import { loadTokenizer, type ModelTokenizer } from "../../text/tokenizer.ts";
import type { Gateway } from "../gateway.ts";

let store: Awaited<ReturnType<typeof tinyStore>>;
let tokenizer: ModelTokenizer;
let ranks: Ranks;
let gateway: Gateway;

before(async () => {
  store = await tinyStore();
  tokenizer = await loadTokenizer(store.dir);
  ranks = new Ranks(store);
  for (const rank of [0, 1]) await ranks.launch(rank);
  await ranks.firstPlan();
  gateway = await gatewayOfRanks(ranks, { textDir: join(store.dir, "../../text") });
});
after(async () => {
  await gateway.close(0);
  await ranks.close();
  store.remove();
});

async function ask(path: string, body: object): Promise<{ readonly status: number; readonly body: any }> {
  const init = { method: "POST", body: JSON.stringify({ model: "tiny", ...body }) };
  const response = await fetch(`http://127.0.0.1:${gateway.httpPort}/v1/${path}`, init);
  return { status: response.status, body: await response.json() };
}
const complete = async (body: object): Promise<any> => {
  const answer = await ask("completions", { prompt: "hello", max_tokens: 12, temperature: 0, logprobs: 3, ...body });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  return answer.body.choices[0];
};

test("penalties and bias change a text, and the likeliest tokens are told with it", async () => {
  const plain = await complete({});
  const first = plain.logprobs.tokens[0];
  assert.equal(Object.keys(plain.logprobs.top_logprobs[0]).length, 3);
  assert.equal(plain.logprobs.top_logprobs[0][first], plain.logprobs.token_logprobs[0]);
  const top = Math.max(...(Object.values(plain.logprobs.top_logprobs[0]) as number[]));
  assert.equal(top, plain.logprobs.token_logprobs[0], "greedy text is the likeliest");
  assert.equal((await complete({ repetition_penalty: 1, min_p: 0.2, priority: -1 })).text, plain.text);
  const favoured = tokenizer.encode("hello").at(-1) as number;
  const forced = await complete({ logit_bias: { [favoured]: 100 } });
  assert.equal(forced.logprobs.tokens[0], tokenizer.decode([favoured]));
  assert.ok(forced.logprobs.token_logprobs[0] < -1, "its log-probability is the model's own");
  const times = async (body: object) => {
    const { tokens } = (await complete({ logit_bias: { [favoured]: 10 }, ...body })).logprobs;
    return tokens.filter((token: string) => token === tokenizer.decode([favoured])).length;
  };
  assert.equal(await times({}), 12);
  const penalized = await times({ frequency_penalty: 2 });
  assert.ok(penalized >= 3 && penalized <= 7, `${penalized} of 12`);
  assert.ok((await times({ presence_penalty: 2, repetition_penalty: 10 })) <= 3);
});

test("an answer in JSON is an object", async () => {
  const bias = Object.fromEntries([...'}]"'].flatMap((mark) => tokenizer.encode(mark)).map((id) => [id, 30]));
  const format = { response_format: { type: "json_object" }, logit_bias: bias, frequency_penalty: 2 };
  for (const temperature of [0, 1]) {
    const messages = [{ role: "user", content: "an object please" }];
    const { status, body } = await ask("chat/completions", { messages, max_tokens: 120, temperature, seed: 5, ...format });
    assert.equal(status, 200, JSON.stringify(body));
    assert.equal(body.choices[0].finish_reason, "stop");
    const value: unknown = JSON.parse(body.choices[0].message.content);
    assert.ok(typeof value === "object" && value !== null && !Array.isArray(value));
  }
});

test("texts have vectors of length 1, the same as text, as tokens, alone and among others, and as base64", async () => {
  const texts = ["hello", "something else", "a third text that is longer"];
  const { status, body } = await ask("embeddings", { input: texts });
  assert.equal(status, 200, JSON.stringify(body));
  const vectors: number[][] = body.data.map(({ embedding }: { embedding: number[] }) => embedding);
  assert.deepEqual(
    body.data.map(({ index }: { index: number }) => index),
    [0, 1, 2],
  );
  for (const vector of vectors) assert.ok(Math.abs(Math.hypot(...vector) - 1) < 1e-5);
  const tokens = texts.map((text) => tokenizer.encode(text));
  const sum = tokens.reduce((all, { length }) => all + length, 0);
  assert.deepEqual(body.usage, { prompt_tokens: sum, total_tokens: sum });
  assert.deepEqual((await ask("embeddings", { input: tokens })).body.data, body.data);
  assert.deepEqual((await ask("embeddings", { input: texts[1] })).body.data[0].embedding, vectors[1]);
  const packed = (await ask("embeddings", { input: tokens[2], encoding_format: "base64" })).body.data[0].embedding;
  const bytes = Buffer.from(packed, "base64");
  assert.deepEqual(
    Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i)),
    vectors[2],
  );
  const long = await ask("embeddings", { input: ["x", "word ".repeat(300)] });
  assert.deepEqual([long.status, long.body.error.code, long.body.error.param], [400, "context_length_exceeded", "input[1]"]);
});
