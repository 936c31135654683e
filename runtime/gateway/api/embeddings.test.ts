// The requests for embeddings that are taken, and what becomes of vectors that do not come.
import assert from "node:assert/strict";
import { test } from "node:test";
import { answerDeps } from "../../../test/kit/gateway/answers.ts";
import { byteText } from "../../../test/kit/gateway/byte-text.ts";
import { embed, embeddingsBody, encodeInputs, parseEmbeddings } from "./embeddings.ts";

const body = (extra: object) => ({ model: "tiny", input: "hi", ...extra });

test("one input or many, text or tokens, are taken in order", () => {
  const inputs = (input: unknown) => {
    const parsed = parseEmbeddings(body({ input, user: "me", encoding_format: "base64", priority: 3 }), "tiny");
    assert.ok("job" in parsed, JSON.stringify(parsed));
    assert.deepEqual([parsed.job.encoding, parsed.job.priority], ["base64", 3]);
    return parsed.job.inputs;
  };
  assert.deepEqual(inputs("a"), [{ text: "a" }]);
  assert.deepEqual(inputs(["a", "b"]), [{ text: "a" }, { text: "b" }]);
  assert.deepEqual(inputs([1, 2]), [{ tokens: [1, 2] }]);
  assert.deepEqual(inputs([[1, 2], [3]]), [{ tokens: [1, 2] }, { tokens: [3] }]);
});

const job = { inputs: [], encoding: "float", priority: 0, cacheSalt: "" } as const;
const request = { id: "r", job, traceparent: "", signal: new AbortController().signal, onStarted: () => {} };

test("many inputs go out a few at a time and come back in order", async () => {
  let [running, most] = [0, 0];
  const answers = answerDeps(async function* ({ prompt, embed: wanted }) {
    assert.equal(wanted, true);
    most = Math.max(most, ++running);
    await new Promise((done) => setImmediate(done));
    yield { type: "embedding", values: [prompt[0] as number, 0] };
    running -= 1;
    yield { type: "finish", reason: "stop" };
  });
  const prompts = Array.from({ length: 50 }, (_, i) => [i, 7]);
  const found = await embed({ ...request, prompts }, answers);
  assert.ok(most <= 8, `${most} at once`);
  assert.equal(found.promptTokens, 100);
  const { data }: any = embeddingsBody("tiny", found, "float");
  assert.deepEqual(
    data.map(({ embedding }: { embedding: number[] }) => embedding[0]),
    prompts.map(([first]) => first),
  );
});

test("a worker that gives no vector, and vectors that are too many in all, are errors", async () => {
  const none = answerDeps(async function* () {
    yield { type: "finish", reason: "stop" };
  });
  await assert.rejects(embed({ ...request, prompts: [[1]] }, none), { code: "Internal", message: /no vector/ });
  const large = answerDeps(async function* () {
    yield { type: "embedding", values: new Array(8192).fill(0) };
    yield { type: "finish", reason: "stop" };
  });
  const prompts = Array.from({ length: 513 }, () => [1]);
  await assert.rejects(embed({ ...request, prompts }, large), { code: "InvalidRequest", message: /for 512 inputs at a time/ });
});

test("the tokens of all inputs together are bounded", async () => {
  const inputs = Array.from({ length: 301 }, () => ({ tokens: new Array(999).fill(1) }));
  const encoded = await encodeInputs({ ...job, inputs }, { textModel: byteText, maxContext: 1_000 });
  assert.ok("problem" in encoded);
  assert.match(encoded.problem.message, /more than 300000 tokens/);
});
