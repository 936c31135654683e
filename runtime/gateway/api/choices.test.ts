// The answers of one request: as many as were asked for, the same as each alone, some at a time; the echo of a prompt before them; and
// what becomes of the others when one fails.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { AppError } from "../../../crds/common.ts";
import { answerDeps } from "../../../test/kit/gateway/answers.ts";
import { createTracing } from "../../observe/trace.ts";
import type { Generation, WorkerEvent, Workers } from "../routing/failover.ts";
import type { Piece } from "./answer.ts";
import { Choices } from "./choices.ts";
import type { GenerationRequest } from "./generation-request.ts";
import { wholeBody } from "./openai-body.ts";

const sampling = { temperature: 1, topP: 1, topK: 0, seed: 5n, topLogprobs: 1 };
const tracing = await createTracing({ service: "gateway" });

interface Setting {
  readonly job?: Partial<GenerationRequest>;
  readonly prompts?: readonly (readonly number[])[];
  readonly maxTokens?: number;
  /** What a worker answers. */
  readonly events?: (generation: Generation) => AsyncGenerator<WorkerEvent>;
}

/** Three letters by seed and prompt. */
async function* letters({ sampling: { seed }, prompt, maxTokens }: Generation): AsyncGenerator<WorkerEvent> {
  for (let position = 0; position < maxTokens; position++)
    yield { type: "token", id: 97 + ((Number(seed) + (prompt[0] as number) + position) % 26), position, logprob: -1 };
  yield { type: "finish", reason: "length" };
}

function choices({ job = {}, prompts = [[1]], maxTokens = 3, events = letters }: Setting) {
  const asked: Generation[] = [];
  const blamed: boolean[] = [];
  let now = 0;
  let most = 0;
  const workers: Workers = {
    start: (generation) => {
      asked.push(generation);
      most = Math.max(most, ++now);
      const close = (failed: boolean) => {
        now--;
        blamed.push(failed);
      };
      return { rank: 0, events: events(generation), close };
    },
    changed: async () => {},
  };
  const whole = {
    ...{ endpoint: "completions", n: 1, stops: [], logprobs: false, ignoreEos: false, sampling },
    ...job,
  } as unknown as GenerationRequest;
  const prepared = prompts.map((prompt) => ({ prompt, maxTokens, ...(whole.echo ? { echo: String.fromCharCode(...prompt) } : {}) }));
  const span = tracing.start("a", { role: "server", attributes: {} });
  const all = new Choices(
    { id: "r", token: "t", job: whole, prompts: prepared, span, signal: new AbortController().signal },
    answerDeps(events, { workers }),
  );
  return { all, asked, blamed, most: () => most };
}

async function read(all: Choices): Promise<Piece[][]> {
  const answers = Array.from({ length: all.count }, (): Piece[] => []);
  for await (const { index, piece } of all.pieces()) answers[index]?.push(piece);
  return answers;
}
const texts = (answers: readonly (readonly Piece[])[]): string[] => answers.map((pieces) => pieces.map(({ text }) => text).join(""));

test("the i-th answer to a prompt is the one of seed + i alone, prompts are in order, and a prompt counts once", async () => {
  const { all, asked, most } = choices({ job: { n: 6 }, prompts: [[1], [2, 2]] });
  const found = texts(await read(all));
  assert.equal(found.length, 12);
  for (const [index, text] of found.entries()) {
    const seed = 5n + BigInt(index % 6);
    const one = choices({ job: { sampling: { ...sampling, seed } as GenerationRequest["sampling"] }, prompts: [index < 6 ? [1] : [2, 2]] });
    assert.deepEqual(texts(await read(one.all)), [text]);
  }
  assert.ok(most() <= 8, `${most()} at once`);
  assert.equal(new Set(asked.map(({ requestId }) => requestId)).size, 12);
  assert.deepEqual(all.usage, { promptTokens: 3, cachedTokens: 0, outputTokens: 36, reasoningTokens: 0 });
});

test("when one fails all end, and its error is told", async () => {
  const ended: string[] = [];
  const events = async function* (generation: Generation): AsyncGenerator<WorkerEvent> {
    try {
      if (generation.sampling.seed === 6n) throw new AppError("no", { code: "InvalidRequest" });
      await new Promise((resolve) => generation.signal.addEventListener("abort", resolve, { once: true }));
    } finally {
      ended.push(generation.requestId);
    }
  };
  const { all } = choices({ job: { n: 3 }, events });
  await assert.rejects(read(all), { code: "InvalidRequest" });
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(ended.toSorted(), ["r.0", "r.1", "r.2"]);
});

test("an answer that waits keeps nothing of what the others said meanwhile", async () => {
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  const events = async function* (generation: Generation): AsyncGenerator<WorkerEvent> {
    if (generation.sampling.seed === 5n) yield* letters(generation);
    else await new Promise((resolve) => generation.signal.addEventListener("abort", resolve, { once: true }));
  };
  const { all } = choices({ job: { n: 2 }, maxTokens: 12_000, events });
  let [count, before] = [0, 0];
  for await (const { piece } of all.pieces()) {
    count += piece.text.length;
    if (count === 1_000 || count === 11_000) collect();
    if (count === 1_000) before = process.memoryUsage().heapUsed;
    if (count === 11_000) break;
  }
  const bytes = process.memoryUsage().heapUsed - before;
  assert.ok(bytes < 3_000_000, `${bytes} bytes`); // the ids of its tokens are kept for a failover
});

/** Tells what the prompt's tokens are worth, some of it twice, as after a failover. */
async function* rated(generation: Generation): AsyncGenerator<WorkerEvent> {
  const tokens = generation.prompt.slice(1).map((id) => ({ logprob: -id / 100, top: [{ id, logprob: -id / 100 }] }));
  if (generation.promptLogprobs) {
    yield { type: "prompt", position: 1, tokens: tokens.slice(0, 1) };
    yield { type: "prompt", position: 1, tokens };
  }
  yield* letters(generation);
}

test("an echo begins with the prompt, whose first token has no log-probability", async () => {
  const { all } = choices({ job: { echo: true, logprobs: true }, prompts: [[104, 105, 106]], maxTokens: 1, events: rated });
  const body: any = wholeBody({ endpoint: "completions", id: "c", created: 0, model: "m", logprobs: true }, await read(all), all.usage);
  const [choice] = body.choices;
  assert.equal(choice.text, `hij${String.fromCharCode(97 + ((5 + 104) % 26))}`);
  assert.deepEqual(choice.logprobs.token_logprobs, [null, -1.05, -1.06, -1]);
  assert.deepEqual(choice.logprobs.top_logprobs.slice(0, 2), [null, { i: -1.05 }]);
  assert.deepEqual(choice.logprobs.text_offset, [0, 1, 2, 3]);
  assert.deepEqual(body.usage, {
    prompt_tokens: 3,
    completion_tokens: 1,
    total_tokens: 4,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0 },
  });
});

test("max_tokens 0 shows the prompt alone, and without logprobs a worker is asked for none", async () => {
  const scored = choices({ job: { echo: true, logprobs: true }, prompts: [[104, 105]], maxTokens: 0, events: rated });
  const [pieces = []] = await read(scored.all);
  assert.equal(pieces.map(({ text }) => text).join(""), "hi");
  assert.deepEqual(
    pieces.flatMap(({ logprobs }) => logprobs.map(({ logprob }) => logprob)),
    [null, -1.05],
  );
  assert.deepEqual([pieces.at(-1)?.finish, scored.all.usage.outputTokens], ["length", 0]);
  const plain = choices({ job: { echo: true }, prompts: [[104, 105]], events: rated });
  assert.deepEqual(texts(await read(plain.all))[0]?.slice(0, 2), "hi");
  assert.equal(plain.asked[0]?.promptLogprobs, false);
});

test("a worker that begins its text before all log-probabilities of the prompt came is left for another", async () => {
  const scored = { job: { echo: true, logprobs: true }, prompts: [[104, 105]], maxTokens: 1 } as const;
  let attempts = 0;
  const mixed = choices({ ...scored, events: (generation) => (++attempts === 1 ? letters : rated)(generation) });
  const [pieces = []] = await read(mixed.all);
  assert.equal(pieces.map(({ text }) => text).join(""), `hi${String.fromCharCode(97 + ((5 + 104) % 26))}`);
  assert.deepEqual([mixed.asked.length, mixed.all.failovers, mixed.blamed], [2, 1, [true, false]]);
});
