// The contract of shelves: experts that come one after another, in rows of blocks that fill no 512 columns, are whole when all are here and
// when some have gone and come back. Called by one test file per backend.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Backend, Compiled } from "../../runtime/compute/backend.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import { createReferenceBackend } from "../../runtime/compute/reference.ts";
import { randomTensor } from "../../runtime/kernels/random.ts";
import type { Segment } from "../../runtime/kernels/segment.ts";
import { storedWeight } from "../../runtime/weights/stored.ts";
import { stored } from "../kit/models/published-parts.ts";

const [rows, columns, count] = [32, 96, 16];
/** An expert whose rows of blocks fill no 512 columns. */
export const narrowExpert: Segment = {
  name: "expert",
  inputs: [{ name: "x", dtype: "f32", width: columns }],
  outputs: [{ name: "y", dtype: "f32", width: rows }],
  weights: [{ name: "w", shape: [rows, columns] }],
  ops: [{ op: "matMul", x: "x", weight: "w", out: "y" }],
};
export const narrowWeights = (seed: number) => ({ w: storedWeight("q8_0", [rows, columns], stored("q8_0", rows * columns, seed)) });

async function answers(backend: Backend): Promise<readonly Float32Array[]> {
  const expertSlab = backend.createExpertSlab(narrowExpert, count, 0);
  const here = new Map<number, Compiled>();
  const put = async (expert: number) => here.set(expert, await expertSlab.put(expert, narrowWeights(expert)));
  for (let i = 0; i < count; i++) await put((5 * i) % count);
  for (const expert of [3, 4, 5, 11, 12, 13]) await here.get(expert)!.dispose();
  for (const expert of [12, 3, 13, 5, 4, 11]) await put(expert);
  const got: Float32Array[] = [];
  for (const tokens of [1, 33])
    for (let expert = 0; expert < count; expert++) {
      const { y } = await here.get(expert)!.run({ x: randomTensor(tokens, [tokens, columns]) });
      got.push((y!.data as Float32Array).slice());
    }
  for (const expert of here.values()) await expert.dispose();
  return got;
}

export function runShelves({ name, make, tolerance }: { name: string; make: () => Promise<Backend>; tolerance: number }): void {
  test(`expertSlabs: ${name}: experts that come and go leave each other whole`, async () => {
    const backend = await make();
    const [got, want] = [await answers(backend), await answers(await createReferenceBackend({ threads: 1 }))];
    for (const [i, each] of want.entries()) {
      const error = relativeError(got[i]!, each);
      assert.ok(error <= tolerance, `expert ${i % count}: ${error}`);
    }
    await backend.close();
  });
}
