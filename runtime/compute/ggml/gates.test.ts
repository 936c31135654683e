// Gates on the processor where rows are odd: numbers that are none, equal logits of more experts than a short sort keeps in order, rows
// alone and among others. That the numbers are right is shown by test/contract/cpu.test.ts.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { randomTensor } from "../../kernels/random.ts";
import type { Op, Segment } from "../../kernels/segment.ts";
import { createGgmlBackend } from "./index.ts";

const [experts, topK, rows] = [200, 6, 9];
const gates: Readonly<Record<string, Op>> = {
  "softmax of the chosen": { op: "route", logits: "logits", topK, normalize: true, ids: "ids", gates: "gates" },
  "softmax of all": { op: "route", logits: "logits", topK, normalize: false, ids: "ids", gates: "gates" },
  "sigmoid in groups": {
    op: "groupRoute",
    ...{ logits: "logits", sigmoid: true, topK, groups: 20, groupsKept: 4, groupTop: 2, normalize: true, scale: 2.5 },
    ids: "ids",
    gates: "gates",
  },
};
const backend = await createGgmlBackend({ threads: 1 });
after(() => backend.close());

const compiled = (op: Op) => {
  const segment: Segment = {
    name: "gate",
    inputs: [{ name: "logits", dtype: "f32", width: experts }],
    outputs: [
      { name: "ids", dtype: "i32", width: topK },
      { name: "gates", dtype: "f32", width: topK },
    ],
    weights: [],
    ops: [op],
  };
  return backend.compile(segment, {});
};

for (const [name, op] of Object.entries(gates)) {
  test(`${name}: a logit that is no number makes gates that are none, and ids that there are`, async () => {
    const gate = await compiled(op);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const { data } = randomTensor(1, [rows, experts], 2) as { data: Float32Array };
      for (let i = 0; i < experts; i++) data[i] = bad; // a row of them, and a row with one
      data[3 * experts + 7] = Number.NaN;
      const out = await gate.run({ logits: { shape: [rows, experts], data } });
      assert.ok(out.ids!.data.every((id) => id >= 0 && id < experts));
      const gatesOf = (row: number) => [...out.gates!.data.subarray(row * topK, (row + 1) * topK)];
      if (Number.isNaN(bad)) assert.ok(gatesOf(0).some(Number.isNaN), `${gatesOf(0)}`);
      assert.ok(gatesOf(3).some(Number.isNaN), `${gatesOf(3)}`);
      assert.ok(gatesOf(1).every(Number.isFinite));
    }
    await gate.dispose();
  });

  test(`${name}: equal logits are chosen alike in a row alone and among others`, async () => {
    const gate = await compiled(op);
    const { data } = randomTensor(2, [rows, experts], 2) as { data: Float32Array };
    for (let i = 0; i < 4 * experts; i++) data[i] = i < experts ? 0.5 : Math.floor(i % 3);
    const whole = await gate.run({ logits: { shape: [rows, experts], data } });
    const kept = { ids: whole.ids!.data.slice(), gates: whole.gates!.data.slice() };
    for (let row = 0; row < rows; row++) {
      const alone = await gate.run({ logits: { shape: [1, experts], data: data.slice(row * experts, (row + 1) * experts) } });
      assert.equal(new Set(alone.ids!.data).size, topK, "each is another");
      assert.deepEqual(alone.ids!.data, kept.ids.slice(row * topK, (row + 1) * topK));
      assert.deepEqual(alone.gates!.data, kept.gates.slice(row * topK, (row + 1) * topK));
    }
    await gate.dispose();
  });
}
