// `enodia model trace` on the tiny checkpoint: what is recorded is what the engine counts, and what the next layer's router will say.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { collect, engineWorld, greedy } from "../../test/kit/ranks/loaded-engine.ts";
import { noExpert, tokensOf } from "../experts/replay/trace.ts";
import { openTextModel } from "../text/text-thread.ts";
import { recordTrace, type TraceOptions } from "./trace.ts";

const { root, storeDir, start } = await engineWorld();
const [prompt, tokens] = [12, 9];
const files = ["code", "law"].map((topic) => {
  const file = join(root, `${topic}.txt`);
  writeFileSync(file, `the experts of a ${topic} lie on several ranks, and each token of ${topic} chooses two of them. `.repeat(6));
  return file;
});
const record = (options: Partial<TraceOptions> = {}) =>
  recordTrace({ dir: storeDir, files, backend: "cpu", texts: 1, prompt, tokens, follow: false, threads: 1, ...options }, () => {});

test("experts of prompts and of greedy tokens are those that the engine counts for the same prompts", async () => {
  const trace = await record();
  const [engine, tokenizer] = [await start(), await openTextModel(storeDir)];
  for (const file of ["code", "law"].entries()) {
    const text = `the experts of a ${file[1]} lie on several ranks, and each token of ${file[1]} chooses two of them. `.repeat(6);
    const ids = [...(await tokenizer.encode(text))].slice(0, prompt);
    // The last token that is answered has chosen no expert.
    await collect(engine, { prompt: ids, maxTokens: tokens + 1, sampling: greedy, eos: [] });
  }
  await tokenizer.close();
  const { prefill, decode } = await engine.counters();
  const { grid, topK } = trace;
  const counted = new Array<number>(grid.layers * grid.experts).fill(0);
  for (const [at, id] of trace.ids.entries()) counted[(Math.floor(at / topK) % grid.layers) * grid.experts + id]! += 1;
  assert.deepEqual(
    counted,
    Array.from(prefill.routed, (rows, cell) => rows + decode.routed[cell]!),
  );
  assert.deepEqual(
    trace.texts.map(({ topic }) => topic),
    ["code", "law"],
  );
  assert.equal(trace.ids.length, tokensOf(trace.texts) * grid.layers * topK);
  assert.ok(trace.layerMs > 0 && trace.expertBytes.every((bytes) => bytes > 0));
});

test("routers ahead are asked one and two layers ahead where there are so many, and name the width", async () => {
  const { asked, grid, width } = await record();
  for (const { ids, distance } of asked)
    for (let layer = 0; layer < grid.layers; layer++) {
      const named = ids.subarray(layer * width, (layer + 1) * width);
      assert.ok(named.every((id) => (layer + distance < grid.layers ? id < grid.experts : id === noExpert)));
      if (layer + distance < grid.layers) assert.equal(new Set(named).size, width);
    }
  const [same, accelerated] = ["same", "accelerated"].map((input) => asked.find((each) => each.input === input && each.distance === 1));
  // The first layer has none before it, so that its rows are not moved.
  assert.deepEqual(same?.ids.subarray(0, width), accelerated?.ids.subarray(0, width));
});

test("a text can be followed instead of the model, and a file that is too short is refused by name", async () => {
  const [followed, greedily] = [await record({ follow: true }), await record()];
  assert.equal(followed.ids.length, greedily.ids.length);
  assert.notDeepEqual(followed.ids, greedily.ids);
  await assert.rejects(record({ prompt: 10_000 }), /code\.txt: has \d+ tokens, and a text takes 10000/);
  const many = record({ prompt: 1, texts: 200, tokens: 65_536 });
  await assert.rejects(many, /--texts, --tokens: \d+ texts of 65537 tokens are too many: a trace of this model holds \d+ tokens/);
  await assert.rejects(record({ codec: "q8_0" }), /--codec: .* has f32, and not q8_0/);
});
