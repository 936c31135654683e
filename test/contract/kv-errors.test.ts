// Keys and values as f16 and q8_0 in every family, at 200 tokens: logits stay near those by f32, each type within its own bounds. At 3,000
// tokens, and with a trained model: `npm run bench -- kv`.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { after, test } from "node:test";
import { createGgmlBackend } from "../../runtime/compute/ggml/index.ts";
import { type KvErrors, kvErrors, wideModel } from "./kv-errors.ts";

const backend = await createGgmlBackend({ threads: 1 });
after(() => backend.close());

const types = ["f16", "q8_0"] as const;
/**
 * About twice what was seen; of f16 MoE++ chooses 0.045 of other tokens, since its gates go by those before. Of the largest error of all
 * rows nothing is promised: where two experts are near, another is chosen.
 */
const most: Readonly<Record<(typeof types)[number], Omit<KvErrors, "largest">>> = {
  f16: { median: 8e-3, largestOfAlike: 0.2, divergence: 1.5e-2, otherToken: 0.07, otherExpert: 0.05 },
  q8_0: { median: 5.5e-2, largestOfAlike: 0.35, divergence: 3e-2, otherToken: 0.15, otherExpert: 0.12 },
};
/** A type that is not stored as such has the error of another. */
const leastMedian = { f16: 6e-4, q8_0: 4e-3 } as const;

for (const folder of globSync(resolve(import.meta.dirname, "../golden/families/*")).sort())
  test(`${basename(folder)}: logits by keys and values of fewer bits are near those by f32`, async () => {
    const { ids } = JSON.parse(readFileSync(join(folder, "golden.json"), "utf8"));
    const found = await kvErrors(backend, wideModel(folder), { ids }, types);
    for (const [i, type] of types.entries()) {
      const errors = found[i] as KvErrors;
      assert.ok(errors.median >= leastMedian[type], `${type}: the median is ${errors.median}`);
      for (const [name, bound] of Object.entries(most[type]) as [keyof KvErrors, number][])
        assert.ok(errors[name] <= bound, `${type}: ${name} is ${errors[name]}, at most ${bound}`);
    }
  });
