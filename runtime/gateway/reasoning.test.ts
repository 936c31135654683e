// A chat with a model that answers in channels: what it says to itself comes in a field of its own, whole and in chunks.
import assert from "node:assert/strict";
import { test } from "node:test";
import { byteText } from "../../test/support/byte-text.ts";
import { silentLog } from "../observe/log.ts";
import { createMetrics } from "../observe/metrics.ts";
import { createTracing } from "../observe/trace.ts";
import { Answer, isMarker, type Piece } from "./answer.ts";
import type { WorkerEvent } from "./failover.ts";
import type { GenerationJob } from "./generation-job.ts";
import { ChunkWriter, wholeBody } from "./openai-body.ts";
import { failoverLimits } from "./patience.ts";

/** Ids that the test's tokenizer has no text for. */
const channels = { start: 1, channel: 2, message: 3, end: 4 };
const bytes = (text: string) => [...new TextEncoder().encode(text)];
const thought = [2, ...bytes("analysis"), 3, ...bytes("hm é"), 4];
const final = [1, ...bytes("assistant"), 2, ...bytes("final"), 3, ...bytes("Yes.")];

async function answer(endpoint: GenerationJob["endpoint"], ids: readonly number[], tools = false): Promise<Piece[]> {
  const events = async function* (): AsyncGenerator<WorkerEvent> {
    for (const [position, id] of ids.entries()) yield { type: "token", id, position, logprob: -1 };
    yield { type: "finish", reason: "stop" };
  };
  const tracing = await createTracing({ service: "gateway" });
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
  const use = tools ? { tools: {} } : {};
  const job = { endpoint, sampling, stops: [], logprobs: false, ignoreEos: false, ...use } as unknown as GenerationJob;
  const request = { id: "a", job, prompt: [1], maxTokens: ids.length, seed: 1n, signal: new AbortController().signal };
  const one = new Answer(
    { ...request, span: tracing.start("a", { role: "server", attributes: {} }) },
    {
      ...{
        textModel: { ...byteText, channels },
        metrics: createMetrics({ process: "gateway", version: "0", constants: {} }),
        log: silentLog,
      },
      ...{ maxContext: 99, requestTimeoutMs: 60_000, limits: failoverLimits, drawSeed: () => 1n, now: Date.now },
      workers: { start: () => ({ rank: 0, events: events(), close: () => {} }), changed: async () => {} },
    },
  );
  const pieces: Piece[] = [];
  for await (const piece of one.pieces()) pieces.push(piece);
  return pieces;
}

const usage = { promptTokens: 1, outputTokens: 1 };
const envelope = { endpoint: "chat", id: "c", created: 0, model: "m", logprobs: false } as const;

test("content and reasoning_content are apart, whole and in chunks", async () => {
  const pieces = await answer("chat", [...thought, ...final]);
  const { choices }: any = wholeBody(envelope, [pieces], usage);
  assert.deepEqual(choices[0].message, { role: "assistant", content: "Yes.", reasoning_content: "hm é", refusal: null });
  const chunks = new ChunkWriter(envelope, false);
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
  const chunks = new ChunkWriter(envelope, false);
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
