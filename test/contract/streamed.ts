// Dense weights that take turns in a device's memory give the bits of those that stay, and the device has two slots for them.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Backend } from "../../runtime/compute/backend.ts";
import type { Segment } from "../../runtime/kernels/segment.ts";
import { streamedBackend } from "../kit/devices/streamed.ts";
import { loadModel } from "../kit/models/small-engine.ts";
import { syntheticModel } from "../kit/models/synthetic.ts";

const formsOf = ({ weights }: Segment) => Object.fromEntries(weights.map(({ name }) => [name, "f32" as const]));

export function runStreamed({ name, make }: { readonly name: string; readonly make: () => Promise<Backend> }): void {
  for (const layers of [1, 2, 5])
    test(`${name}: ${layers} layers that are streamed give the bits of layers that stay, in two slots`, async () => {
      const model = syntheticModel({ num_hidden_layers: layers });
      const blocks = model.program.layers.map(({ block }) => block);
      const [stays, device] = [await make(), await make()];
      const sizes = blocks.map((block) => device.denseResidentBytes?.(block, formsOf(block)) ?? 0);
      const slotBytes = Math.max(...sizes);
      const streamed = streamedBackend(device, slotBytes);
      const loaded = await Promise.all([stays, streamed].map((backend) => loadModel(backend, model, { context: 64, slots: 2 })));
      const [one, other] = loaded as [(typeof loaded)[0], (typeof loaded)[0]];
      assert.deepEqual(
        blocks.map((_, layer) => other.range.covers(layer)),
        blocks.map(() => false),
      );
      const resident = (of: typeof one): number[] => of.layers.map(({ block }) => block.residentBytes);
      assert.deepEqual(resident(one), sizes);
      assert.deepEqual(
        resident(other),
        blocks.map((_, layer) => (layer < 2 ? slotBytes : 0)),
      );
      let past = 0;
      for (const ids of [[1, 2, 3, 4, 5], [6], [7], [8, 9]]) {
        const groups = [{ firstSlot: 0, batch: 1, tokens: ids.length, past: Int32Array.of(past) }];
        assert.deepEqual(await other.step(ids, groups, "layers"), await one.step(ids, groups, "layers"));
        past += ids.length;
      }
      for (const each of loaded) await each.dispose();
      for (const backend of [stays, streamed]) await backend.close();
    });
}
