// A head that chooses by candidates gives the tokens of one that gives whole rows, on every backend that is here, and reads few rows.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { BackendFactory } from "../../compute/backend.ts";
import { createGgmlBackend } from "../../compute/ggml/index.ts";
import { createReferenceBackend } from "../../compute/reference.ts";
import { Languages } from "../../constraints/languages.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import type { Weights } from "../../kernels/weights.ts";
import type { Sampling } from "../schedule/request.ts";
import { OpenSampling } from "../schedule/sampling/open-sampling.ts";
import type { Sampled } from "../schedule/sampling/sampler.ts";
import { compileHead, Head } from "./head.ts";
import { Mutex } from "./mutex.ts";

const [hidden, vocab, rows] = [32, 3_000, 12] as const;
const program = {
  ...{ hidden, vocab, layers: [] },
  head: {
    name: "head",
    inputs: [{ name: "x", dtype: "f32", width: hidden }],
    outputs: [{ name: "logits", dtype: "f32", width: vocab }],
    weights: [{ name: "w", shape: [vocab, hidden] }],
    ops: [{ op: "matMul", x: "x", weight: "w", out: "logits" }],
  },
} as const satisfies Pick<ModelProgram, "hidden" | "vocab" | "head">;
const weights: Weights = { w: { form: "f32", ...randomTensor(1, [vocab, hidden]) } as Weights[string] };
const languages = new Languages(vocab, () => Promise.reject(new Error("no text is asked for")));
const base: Sampling = { temperature: 1, topP: 1, topK: 0, seed: 9n };
const asked: readonly Sampling[] = [
  { ...base, temperature: 0 },
  base,
  { ...base, topP: 0.5, temperature: 0.6 },
  { ...base, topK: 40, logprobs: true, topLogprobs: 5 },
  { ...base, minP: 0.1, presencePenalty: 1 },
  { ...base, temperature: 0, bias: [{ id: 7, value: 100 }] },
];
const requests = Array.from({ length: rows }, (_, i) => {
  const sampling = { ...(asked[i % asked.length] as Sampling), seed: BigInt(i) };
  return new OpenSampling({ sampling, prompt: Uint32Array.of(1, 2), replay: Uint32Array.of(), eos: [] }, languages);
});

/** Rows after the last layer: a few are flat, which candidates do not tell apart. */
const x = randomTensor(2, [rows, hidden]).data as Float32Array;
x.fill(0, 3 * hidden, 4 * hidden);

async function tokensOf(make: BackendFactory, selects: boolean): Promise<{ readonly tokens: Sampled[]; readonly whole: number }> {
  const backend = await make({ threads: 1, selects });
  const head = new Head(await compileHead(backend, program as unknown as ModelProgram, weights), program, new Mutex());
  const wanted = requests.map((sampling, row) => ({ row, sampling }));
  const tokens = await head.run(x, wanted, (choose) => requests.map((request, i) => choose(i, request, 4) as Sampled));
  await backend.close();
  return { tokens, whole: head.wholeRows };
}

for (const [name, make] of Object.entries({ cpu: createGgmlBackend, reference: createReferenceBackend })) {
  test(`${name}: tokens by candidates are those of whole rows`, async () => {
    const [some, all] = [await tokensOf(make, true), await tokensOf(make, false)];
    assert.deepEqual(
      some.tokens.map(({ token, top }) => ({ token, top: top && [...top.ids] })),
      all.tokens.map(({ token, top }) => ({ token, top: top && [...top.ids] })),
    );
    for (const [i, { logprob }] of some.tokens.entries()) assert.ok(Math.abs(logprob - all.tokens[i]!.logprob) < 1e-4);
    assert.equal(all.whole, rows);
    assert.ok(some.whole >= 1 && some.whole <= rows / 3, `${some.whole} rows were looked at whole`);
  });
}

test("a row that is no number ends its request by name, and only that one", async () => {
  const backend = await createGgmlBackend({ threads: 1, selects: true });
  const head = new Head(await compileHead(backend, program as unknown as ModelProgram, weights), program, new Mutex());
  const sick = x.slice(0, 2 * hidden).fill(Number.NaN, 0, hidden);
  const wanted = requests.slice(0, 2).map((sampling, row) => ({ row, sampling }));
  await head.run(sick, wanted, (choose) => {
    assert.throws(() => choose(0, requests[0]!, 4), { code: "UnusableLogits" });
    assert.ok(choose(1, requests[1]!, 4)!.token >= 0);
  });
  await backend.close();
});
