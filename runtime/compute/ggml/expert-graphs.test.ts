// Graphs of experts: one that is kept for a number of rows computes with the matrices of this call, whichever of them it had before, and
// experts of unlike shapes have answers of their own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { syntheticModel } from "../../../test/kit/models/synthetic.ts";
import type { MoeLayer } from "../../kernels/segment.ts";
import { CpuDevice } from "./device.ts";
import { ExpertGraphs, endsOf, type RowEnds } from "./expert-graphs.ts";
import { createGgmlBackend } from "./index.ts";
import { zerosFor } from "./matrix-storage.ts";
import { Slab } from "./slab.ts";

const ends: RowEnds = {
  key: "host",
  begin: (build, width, total) => build.input("x", "f32", [width, total]),
  end: (_build, y) => ({ y }),
};

test("memory that only one matrix shares with the expert before is another expert's", () => {
  const device = new CpuDevice({ threads: 1 });
  const model = syntheticModel({});
  const { expert } = model.program.layers[0] as MoeLayer;
  const [first, second] = [model.expert(0, 0), model.expert(0, 1)];
  const shape = new ExpertGraphs(device).shapeOf(expert, first);
  const slab = new Slab(device, shape.parts, 2);
  for (const [slot, weights] of [first, second].entries()) slab.put(slot, weights);
  const [a, b] = [slab.addresses(0), slab.addresses(1)];
  const [{ width }] = endsOf(expert);
  const x = Float32Array.from({ length: width }, (_, i) => Math.sin(i));
  const rowOf = (graphs: ExpertGraphs, addresses: readonly bigint[]): Float32Array => {
    const y = new Float32Array(width);
    const graph = graphs.of(shape, [{ addresses, rows: 1 }], ends);
    graph.run((name) => (name === "x" ? x : zerosFor(name)));
    graph.read("y", y);
    return y;
  };
  const mixed = [a[0] as bigint, ...b.slice(1)];
  const graphs = new ExpertGraphs(device);
  const wanted = rowOf(graphs, mixed);
  assert.notDeepEqual(rowOf(graphs, a), wanted);
  assert.deepEqual(rowOf(graphs, mixed), wanted);
  assert.notDeepEqual(rowOf(graphs, b), wanted);
  slab.free();
  device.close();
});

test("experts of unlike shapes that run together answer as each alone", async () => {
  const backend = await createGgmlBackend({ threads: 1 });
  const models = [syntheticModel({}), syntheticModel({ intermediate_size: 96 })];
  const calls = await Promise.all(
    models.map(async (model, i) => {
      const { expert } = model.program.layers[0] as MoeLayer;
      const [{ name, width }] = endsOf(expert);
      const data = Float32Array.from({ length: (i + 1) * width }, (_, at) => Math.sin(at));
      return { program: await backend.compile(expert, model.expert(0, i)), inputs: { [name]: { shape: [i + 1, width], data } } };
    }),
  );
  const alone = [];
  for (const { program, inputs } of calls) alone.push((await program.run(inputs)).y?.data.slice());
  const together = await backend.runMany([...calls, ...calls]);
  assert.deepEqual(
    together.map(({ y }) => y?.data.slice()),
    [...alone, ...alone],
  );
  await backend.close();
});
