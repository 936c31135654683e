// Weights that take turns in two slots: the next ones come while a layer computes, and whatever the order of layers, each has its own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { runStreamed } from "../../../test/contract/streamed.ts";
import { looseBackend } from "../../../test/kit/devices/loose.ts";
import { WeightStream } from "./weight-stream.ts";

runStreamed({ name: "loose", make: async () => looseBackend().backend });

function planted() {
  const events: string[] = [];
  const failing = new Set<number>();
  const freed: number[] = [];
  const stream = new WeightStream(
    {
      allocate: (bytes) => ({ handle: 1n, base: 0n, bytes, free: () => void freed.push(bytes) }),
      assertOpen: () => {},
      setApart: async ([write]) => {
        const layer = Number(write?.tensor);
        events.push(`load ${layer}`);
        await new Promise((settle) => setTimeout(settle, 5));
        if (failing.delete(layer)) throw new Error("no memory to copy");
        events.push(`has ${layer}`);
      },
    },
    64,
  );
  const layers = [0, 1, 2].map((layer) => {
    const weights = stream.add(64);
    weights.writes.push({ tensor: BigInt(layer), data: new Uint8Array(64) });
    return weights;
  });
  const use = (layer: number) =>
    stream.use(layers[layer]!, async () => {
      events.push(`work ${layer}`);
      return layer;
    });
  return { stream, events, failing, layers, use, freed };
}

test("the next layer's weights come while one computes, and of an odd number the first one's after the last", async () => {
  const { events, use } = planted();
  for (const layer of [0, 1, 2, 0]) await use(layer);
  const want = ["load 0", "has 0", "load 1", "work 0", "has 1", "load 2", "work 1", "has 2", "work 2", "load 0", "has 0", "work 0"];
  assert.deepEqual(events, want);
});

test("layers in any order at once work with their own weights, and a copy that failed is made again", async () => {
  const { events, failing, use } = planted();
  assert.deepEqual(await Promise.all([2, 0, 1, 1, 0, 2].map(use)), [2, 0, 1, 1, 0, 2]);
  const slots = new Map<number, number>();
  for (const event of events) {
    const [what, layer] = [event.split(" ")[0], Number(event.split(" ")[1])];
    if (what === "load") slots.set(layer % 2, -1);
    if (what === "has") slots.set(layer % 2, layer);
    if (what === "work") assert.equal(slots.get(layer % 2), layer, events.join());
  }
  await use(0);
  failing.add(2);
  await assert.rejects(use(2), /no memory to copy/);
  assert.equal(await use(2), 2);
});

test("slots go with the last of their layers", async () => {
  const { stream, layers, use, freed } = planted();
  await use(0);
  await stream.remove(layers[0]!);
  await stream.remove(layers[0]!);
  assert.equal(freed.length, 0);
  for (const layer of [1, 2]) await stream.remove(layers[layer]!);
  assert.equal(freed.length, 2);
  assert.throws(() => stream.add(65), /65 bytes of weights in a slot of 64/);
});
