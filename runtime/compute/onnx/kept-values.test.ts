// Values that forward keeps change no bits: blocks and experts of every family, on one thread and on two. Ops alone are in onnx.test.ts.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { keptValues } from "../../kernels/index.ts";
import type { Values } from "../../kernels/kernel.ts";
import { gaussian } from "../../kernels/random.ts";
import type { Layer, Segment } from "../../kernels/segment.ts";
import { widthsOf } from "../../kernels/widths.ts";
import { programOf } from "../../models/index.ts";
import { createTraining } from "../open-training.ts";
import type { KeptValue, TrainingBackend, WeightViews } from "../training.ts";

const golden = join(import.meta.dirname, "../../../test/golden");
const [tokens, rows] = [7, 21];

const weightsOf = ({ weights }: Segment, deviation: number): WeightViews =>
  Object.fromEntries(
    weights.map(
      ({ name, shape }, i) =>
        [
          name,
          gaussian(
            i,
            shape.reduce((a, b) => a * b),
            deviation,
          ),
        ] as const,
    ),
  );

async function block(backend: TrainingBackend, segment: Segment, keeping: boolean) {
  const compiled = await backend.compile(segment, tokens);
  const [weights, widths] = [weightsOf(segment, 0.2), widthsOf(segment)];
  const values: Values = { x: { shape: [rows, widths.get("x")!], data: gaussian(91, rows * widths.get("x")!) } };
  const kept: KeptValue[] | undefined = keeping ? [] : undefined;
  const written = await compiled.forward(values, weights, kept);
  const derived = [...segment.outputs.filter(({ dtype }) => dtype === "f32").map(({ name }) => name), ...keptValues(segment.ops)];
  const outputs = Object.fromEntries(derived.map((name, i) => [name, gaussian(i, rows * widths.get(name)!)]));
  const sums = weightsOf(segment, 0);
  const found = await compiled.backward({ values: { ...values, ...written }, weights, outputs, sums, kept: kept?.flat() });
  return { keeps: compiled.keeps, kept: kept?.flat().length ?? 0, bits: { written, found, sums } };
}

async function expert(backend: TrainingBackend, segment: Segment, keeping: boolean) {
  const compiled = await backend.compileExpert(segment);
  const [weights, width] = [weightsOf(segment, 0.2), segment.inputs[0]!.width];
  const [x, gates, dOut] = [gaussian(91, rows * width), gaussian(92, rows), gaussian(93, rows * width)];
  const kept: KeptValue[] | undefined = keeping ? [] : undefined;
  const y = await compiled.forward(x, weights, kept);
  const { addTo, ...found } = await compiled.backward({ x, gates, dOut, weights, kept: kept?.flat() });
  const sums = weightsOf(segment, 0);
  await addTo(sums, 0, rows);
  return { keeps: compiled.keeps, kept: kept?.flat().length ?? 0, bits: { y, found, sums } };
}

for (const path of globSync("{tiny-f32,families/*}/config.json", { cwd: golden }))
  test(`${dirname(path)}: with and without what forward keeps`, async () => {
    const { layers } = programOf(JSON.parse(readFileSync(join(golden, path), "utf8")));
    for (const threads of [1, 2]) {
      const backend = await createTraining({ threads });
      const both = async (run: (keeping: boolean) => ReturnType<typeof block> | ReturnType<typeof expert>, name: string) => {
        const [without, having] = [await run(false), await run(true)];
        assert.ok(having.keeps > 0 && having.kept > 0, `${name} keeps something`);
        assert.deepEqual(having.bits, without.bits, `${name}, ${threads} threads`);
      };
      for (const layer of layers satisfies readonly Layer[]) {
        await both((keeping) => block(backend, layer.block, keeping), layer.block.name);
        if (layer.kind === "moe") await both((keeping) => expert(backend, layer.expert, keeping), layer.expert.name);
      }
      await backend.close();
    }
  });
