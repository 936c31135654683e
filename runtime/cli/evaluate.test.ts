// `enodia model eval` on the tiny checkpoint: figures against sums made by hand, and files that cannot be used.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { collect, engineWorld, greedy } from "../../test/kit/ranks/loaded-engine.ts";
import { openTextModel } from "../text/text-thread.ts";
import { type EvalOptions, evaluate, perplexityOf, questionsOf, windowsOf } from "./evaluate.ts";

const { root, storeDir, start } = await engineWorld({ backend: "reference" });
const text = "the experts of a layer lie on several ranks, and each token chooses two of them. ".repeat(6);
const quiet = (): void => {};

const written = (name: string, content: string): string => {
  const file = join(root, name);
  writeFileSync(file, content);
  return file;
};

const evaluated = (options: Partial<EvalOptions>) => evaluate({ dir: storeDir, backend: "cpu", window: 32, threads: 1, ...options }, quiet);

test("windows begin as every text does, and one that is not full counts only alone", () => {
  assert.deepEqual(windowsOf([1], [5, 6, 7, 8, 9], 3), [
    [1, 5, 6],
    [1, 7, 8],
  ]);
  assert.deepEqual(windowsOf([], [5, 6], 4), [[5, 6]]);
});

test("the perplexity of tokens that are equally likely is their number, without an error", () => {
  const { perplexity, error } = perplexityOf(Array.from({ length: 9 }, () => Math.log(1 / 7)));
  assert.ok(Math.abs(perplexity - 7) < 1e-9 && error < 1e-6);
  assert.ok(perplexityOf([-1, -3]).error > 0);
});

test("a text's perplexity is that of the log-probabilities that the reference gives second halves of windows", async () => {
  const engine = await start();
  const tokenizer = await openTextModel(storeDir);
  const begin = [...(await tokenizer.encode(""))];
  const ids = [...(await tokenizer.encode(text))].slice(begin.length);
  await tokenizer.close();
  const logprobs: number[] = [];
  for (let from = 0; from + 32 - begin.length <= ids.length && from < 3 * (32 - begin.length); from += 32 - begin.length) {
    const prompt = [...begin, ...ids.slice(from, from + 32 - begin.length)];
    const sampling = { ...greedy, logprobs: true };
    const events = await collect(engine, { prompt, maxTokens: 1, sampling, promptLogprobs: true });
    const all = events.flatMap((event) => (event.type === "prompt" ? event.tokens.map(({ logprob }) => logprob) : []));
    logprobs.push(...all.slice(15));
  }
  const want = Math.exp(-logprobs.reduce((sum, each) => sum + each, 0) / logprobs.length);
  const [report] = await evaluated({ text: written("text.txt", text), limit: 3 });
  assert.equal(report?.text?.windows, 3);
  assert.equal(report.text.tokens, logprobs.length);
  assert.ok(Math.abs(report.text.perplexity - want) < 1e-3 * want, `${report.text.perplexity} is not ${want}`);
});

test("of three answers the likeliest is right, whatever they are, and the others are wrong", async () => {
  const ask = { prompt: "the experts of", choices: [" a layer", " zq", " many ranks"] };
  const lines = [0, 1, 2].map((answer) => JSON.stringify({ ...ask, answer })).join("\n");
  const [report] = await evaluated({ choices: written("questions.jsonl", lines) });
  assert.equal(report?.choices?.questions, 3);
  assert.equal(report.choices.accuracy, 1 / 3);
});

test("files that cannot be used are refused by name, line and reason", async () => {
  const lines = `{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n{"prompt": "a", "choices": ["b", "c"], "answer": 2}`;
  assert.throws(() => questionsOf("q.jsonl", lines), /q\.jsonl: line 2: .*is no index of choices/);
  assert.throws(() => questionsOf("q.jsonl", "\n"), /has no question/);
  await assert.rejects(evaluated({}), /--text or --choices is missing/);
  await assert.rejects(evaluated({ text: join(root, "none") }), /none: ENOENT/);
  await assert.rejects(evaluated({ text: written("text.txt", text), codecs: ["q8_0"] }), /--codec: .* has f32, and not q8_0/);
});
