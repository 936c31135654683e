// Planned bytes of an expert against what its graph takes: matrices in the form of the codec, vectors as they are.
import assert from "node:assert/strict";
import { test } from "node:test";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import { quantizeInt4 } from "../../weights/codecs/int4.ts";
import { expertBytes, residentBytes } from "./memory.ts";
import { planProgram } from "./plan-program.ts";

const f32 = (name: string, width: number) => [{ name, dtype: "f32" as const, width }];
const [rows, width] = [64, 96];
const normed: Segment = {
  ...{ name: "expert", inputs: f32("x", width), outputs: f32("y", rows) },
  weights: [
    { name: "n1", shape: [width] },
    { name: "n2", shape: [width] },
    { name: "w", shape: [rows, width] },
  ],
  ops: [
    { op: "rmsNorm", x: "x", weight: "n1", eps: 1e-5, out: "a" },
    { op: "rmsNorm", x: "a", weight: "n2", eps: 1e-5, out: "b" },
    { op: "matMul", x: "b", weight: "w", out: "y" },
  ],
};

for (const form of ["f32", "int4"] as const)
  test(`${form}: an expert with vectors takes no more than was planned for it, and little less`, () => {
    const weights = Object.fromEntries(
      normed.weights.map(({ name, shape }) => {
        const { data } = randomTensor(4, shape);
        return [name, form === "int4" && shape.length === 2 ? quantizeInt4(data, rows, width) : { form: "f32" as const, shape, data }];
      }),
    );
    const plan = planProgram(normed, weights, { denseBits: 32 });
    assert.ok(plan.kind === "staged");
    const graphs = plan.stages.flatMap((stage) => (stage.kind === "js" ? [] : [stage.build()]));
    assert.equal(graphs.length, 1);
    const [{ f32Bytes, quantizedBytes }] = graphs as [(typeof graphs)[number]];
    const [takes, planned] = [residentBytes(f32Bytes, quantizedBytes, 1), expertBytes(normed, form, 1)];
    const padding = form === "int4" ? 2 * rows : 0;
    assert.ok(takes <= planned && planned <= takes + padding, `${takes} taken, ${planned} planned`);
  });
