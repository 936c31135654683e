// A graph that is kept for a number of rows computes with the matrices of this call, whichever of them it had before.
import assert from "node:assert/strict";
import { test } from "node:test";
import { syntheticModel } from "../../../test/kit/models/synthetic.ts";
import type { MoeLayer } from "../../kernels/segment.ts";
import { CpuDevice } from "./device.ts";
import { ExpertGraphs, endsOf, type RowEnds } from "./expert-graphs.ts";
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
    graphs.run(shape, [{ addresses, rows: 1 }], ends, (name) => (name === "x" ? x : undefined)).read("y", y);
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
