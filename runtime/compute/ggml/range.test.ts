// Graphs of ranges are built once for as long as steps have the same shapes, in however many ranges they pass their layers.
import assert from "node:assert/strict";
import { after, mock, test } from "node:test";
import { kvOf, loadModel } from "../../../test/kit/models/small-engine.ts";
import { syntheticModel } from "../../../test/kit/models/synthetic.ts";
import { createGgmlBackend } from "./index.ts";
import { DenseProgram } from "./program.ts";

const backend = await createGgmlBackend({ threads: 1 });
after(() => backend.close());

test("a step in as many ranges as layers builds each graph once, and graphs of eight whole passes are kept at most", async () => {
  const layers = 12;
  const model = syntheticModel({ num_hidden_layers: layers, num_local_experts: 8 });
  const loaded = await loadModel(backend, model, { context: 16 });
  const slots = 10;
  const cache = await backend.createKv({ ...kvOf(model.program), slots, context: 16 });
  const pass = async (batch: number, atOnce: number): Promise<number> => {
    const lowered = mock.method(DenseProgram.prototype, "lower");
    const kv = { cache, groups: [{ firstSlot: 0, batch, tokens: 1, past: new Int32Array(batch) }] };
    let x: Float32Array = Float32Array.from({ length: batch * model.program.hidden }, (_, i) => Math.sin(i));
    for (let from = 0; from < layers; from += atOnce) ({ x } = await loaded.range.run({ x, kv, from, to: from + atOnce }));
    lowered.mock.restore();
    return lowered.mock.callCount();
  };
  await pass(slots, layers); // the largest scratch memory first: graphs are built again when it moves
  for (const atOnce of [1, 3]) {
    assert.equal(await pass(2, atOnce), layers);
    assert.equal(await pass(2, atOnce), 0, `ranges of ${atOnce}`);
  }
  for (let batch = 3; batch < 11; batch++) await pass(batch, layers);
  assert.equal(await pass(2, 1), layers, "what came longest ago is gone");
  await cache.dispose();
  await loaded.dispose();
});

test("layers whose experts have unlike forms pass as a range too, with the bits of one expert after another", async () => {
  const forms = ["q8_0", "q4_0", "bf16", "f32"] as const;
  const model = syntheticModel({ num_hidden_layers: 3, num_local_experts: 8 });
  const unlike = { ...model, expert: (layer: number, expert: number) => model.expert(layer, expert, forms[(layer + expert) % 4]) };
  const loaded = await loadModel(backend, unlike, { context: 64 });
  assert.ok([0, 1, 2].every((layer) => loaded.range.covers(layer)));
  const groups = (tokens: number, past: number) => [{ firstSlot: 0, batch: 1, tokens, past: Int32Array.of(past) }];
  let past = 0;
  for (const rows of [40, 1, 3, 1]) {
    const ids = Array.from({ length: rows }, (_, i) => (11 * (past + i)) % 97);
    const apart = await loaded.step(ids, groups(rows, past), "layers");
    const routes = loaded.routes.map((each) => each.slice());
    assert.deepEqual(await loaded.step(ids, groups(rows, past), "range"), apart, `${rows} rows`);
    assert.deepEqual(loaded.routes, routes);
    past += rows;
  }
  await loaded.dispose();
});
