// Rows of layers whose experts two ranks have, on a backend that keeps them: those of the same layers by the host. Called by one test file
// per backend.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import type { Backend } from "../../runtime/compute/backend.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import type { KvGroup } from "../../runtime/kernels/kv-groups.ts";
import { isPlain } from "../../runtime/kernels/widths.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import { modelOf } from "../kit/models/golden-files.ts";
import { stepsOverRanks } from "../kit/ranks/steps-over-ranks.ts";

const root = resolve(import.meta.dirname, "../golden/families");
const group = (firstSlot: number, tokens: number, ...past: number[]): KvGroup => {
  return { firstSlot, batch: past.length, tokens, past: Int32Array.from(past) };
};
/** Two prompts, then a token of each; `decodes` of a step are its first rows. */
const steps = [
  { tokens: [5, 17, 101, 42, 9, 4, 30, 6, 2, 77], groups: [group(0, 7, 0), group(1, 3, 0)], decodes: 0 },
  { tokens: [11, 12], groups: [group(0, 1, 7, 3)], decodes: 2 },
];

export function runOverRanks({ name, make, tolerance }: { name: string; make: () => Promise<Backend>; tolerance: number }): void {
  describe(`${name}: rows over ranks stay on the device`, () => {
    let backend: Backend;
    before(async () => {
      backend = await make();
    });
    after(() => backend.close());

    for (const family of readdirSync(root))
      test(`${family}, whose other rank answers with sums or with rows`, async () => {
        const checkpoint = await openCheckpoint(join(root, family));
        after(() => checkpoint.close());
        const model = modelOf(join(root, family), checkpoint);
        const { layers } = model.program;
        const isHere = (layer: number, expert: number): boolean => (layer + expert) % 2 === 0;
        const ways = [{ holds: false }, { sums: true }, { sums: false }].map((way) => ({ backend, model, isHere, context: 64, ...way }));
        const [host, ...held] = await Promise.all(ways.map(stepsOverRanks));
        for (const { tokens, groups, decodes } of steps) {
          const want = await host?.step(tokens, groups, decodes);
          for (const { ranges, step, counter } of held) {
            const plain = layers.map((layer) => layer.kind === "moe" && isPlain(layer) && layer.expert.ops.length > 0);
            assert.deepEqual(
              layers.map((_, layer) => ranges.range.holds?.(layer, tokens.length)),
              plain,
            );
            const error = relativeError(await step(tokens, groups, decodes), want as Float32Array);
            assert.ok(error <= tolerance, `off by ${error}`);
            assert.ok(counter.take()[decodes > 0 ? "decode" : "prefill"].served.some((count) => count > 0) || !plain.includes(true));
          }
        }
      });
  });
}
