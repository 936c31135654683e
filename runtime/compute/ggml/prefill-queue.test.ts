// Prompts in a queue of their own: the bits of both queues are those of calls alone, and a close waits for what the other thread computes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { syntheticModel } from "../../../test/kit/models/synthetic.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { ComputeQueue, Outputs } from "../backend.ts";
import { createGgmlBackend } from "./index.ts";

const hidden = 256;
const model = syntheticModel({ hidden_size: hidden, intermediate_size: 512, num_attention_heads: 8, num_key_value_heads: 4 });

async function world(threads: number) {
  const backend = await createGgmlBackend({ threads });
  const [segment] = model.blocks as [Segment];
  const block = await backend.compile(segment, model.weights(segment));
  const slab = backend.createExpertSlab(model.expertSegment, 3);
  const experts = [await slab.put(0, model.expert(0, 0)), await slab.put(1, model.expert(0, 1))];
  const cache = await backend.createKv({ layers: 1, slots: 2, kvHeads: 4, headDim: hidden / 8, valueDim: hidden / 8, context: 512 });
  const copied = (outputs: Outputs) => Object.values(outputs).map(({ data }) => data.slice());
  /** A text of its own in each slot, the attention of its rows and what both experts make of them. */
  const pass = async (slot: number, rows: number, queue: ComputeQueue) => {
    const x = randomTensor(slot + 1, [rows, hidden]);
    const kv = { cache, groups: [{ firstSlot: slot, batch: 1, tokens: rows, past: Int32Array.of(0) }] };
    const attended = copied(await block.run({ x }, kv, (_name, length) => new Float32Array(length), queue));
    const calls = experts.map((program) => ({ program, inputs: { x } }));
    return [...attended, ...(await backend.runMany(calls, queue)).flatMap(copied)];
  };
  const comeAndGo = async () => (await slab.put(2, model.expert(0, 0))).dispose();
  return { backend, pass, comeAndGo };
}

for (const threads of [1, 2])
  test(`rows have the bits that they have alone while the other queue computes and an expert comes and goes, ${threads} threads`, async () => {
    const { backend, pass, comeAndGo } = await world(threads);
    const [decode, prompt] = [await pass(0, 3, "main"), await pass(1, 400, "main")];
    let beside = 0;
    for (let round = 0; round < 5; round++) {
      let ended = false;
      const moved = comeAndGo();
      const other = pass(1, 400, "prefill").finally(() => (ended = true));
      do {
        assert.deepEqual(await pass(0, 3, "main"), decode);
        await new Promise(setImmediate);
        if (!ended) beside += 1;
      } while (!ended);
      assert.deepEqual(await other, prompt);
      await moved;
    }
    assert.ok(beside > 5, `${beside} calls ended beside a prompt`);
    await backend.close();
  });

test("a close waits for the other thread, whose call ends with an error", async () => {
  const { backend, pass } = await world(1);
  const stopped = assert.rejects(pass(1, 400, "prefill"), { code: "EngineStopped" });
  await backend.close();
  await stopped;
});
