// Experts of later layers, as the engine tells them: those of this rank that a router ahead names, and no more once all are here.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as settled } from "node:timers/promises";
import type { Compiled } from "../../compute/backend.ts";
import { predictors } from "../../experts/prefetch/index.ts";
import { gridOf } from "../../placement/grid.ts";
import type { ExpectedExperts } from "../api.ts";
import { Mutex } from "./mutex.ts";
import { Prefetch, whyNotAsked } from "./prefetch.ts";

const hidden = 2;

/** Layer 1 is dense; the routers of layers 2 and 3 name the experts that its rows say. */
function asking(name: keyof typeof predictors, run: (data: Float32Array) => Int32Array = (data) => Int32Array.from(data)) {
  const told: ExpectedExperts[] = [];
  const here = new Set<number>();
  const compiled = { run: async ({ h }: any) => ({ ids: { data: run(h.data), shape: [1] } }) } as unknown as Compiled;
  const prefetch = new Prefetch({
    ...{ kind: predictors[name], grid: gridOf([4, 0, 4, 4]), hidden },
    routers: [undefined, undefined, { input: "h", compiled }, { input: "h", compiled }],
    experts: { has: (_layer, expert) => here.has(expert), lock: new Mutex() },
    serves: (_layer, expert) => expert !== 3,
    tell: (expected) => void told.push(expected),
  });
  const chose = async (layer: number, ids: readonly number[], rows?: readonly number[], of = { first: 0, decodes: 1 }) => {
    prefetch.chose({ layer, ids: Int32Array.from(ids), topK: 2, ...of }, rows && Float32Array.from(rows));
    await settled();
  };
  return { told, here, chose };
}

test("next-gate names the experts of this rank that the next layer's router says, with its row's order as chances", async () => {
  const { told, here, chose } = asking("next-gate");
  await chose(0, [0, 1], [2, 1]);
  assert.deepEqual([...(told[0]?.cells ?? [])], [2 * 4 + 2, 2 * 4 + 1, 3 * 4 + 2, 3 * 4 + 1]);
  assert.ok(told[0]?.chances[0] === 1 && (told[0]?.chances[1] as number) < 1);
  await chose(0, [0, 1], [3, 3]);
  assert.equal(told[1]?.cells.length, 0, "what was named before is not to be loaded any more");
  here.add(2).add(1);
  await chose(0, [0, 1], [2, 1]);
  await chose(3, [0, 1], [2, 1]);
  assert.equal(told.length, 2, "nothing is absent, and nothing is behind the last layer");
});

test("a router that fails, rows on a device and a router that reads more than its rows name nothing", async () => {
  const { told, chose } = asking("next-gate", () => {
    throw new Error("no such operation");
  });
  await chose(0, [0, 1], [2, 1]);
  await chose(0, [0, 1]);
  await chose(0, [0, 1], [2, 1, 0]);
  assert.deepEqual(told, []);
});

test("where routers are not asked, the reason is said", () => {
  const router = { input: "h", compiled: {} as Compiled };
  assert.equal(whyNotAsked([undefined, router], undefined), undefined);
  assert.match(whyNotAsked([undefined, router], "cuda: a device") ?? "", /stay in the memory of cuda: a device/);
  assert.match(whyNotAsked([undefined, undefined], undefined) ?? "", /more than their rows/);
});

test("residual asks with rows moved on by what the last layer changed", async () => {
  const asked: number[][] = [];
  const { chose } = asking("residual", (data) => {
    asked.push([...data]);
    return new Int32Array(2);
  });
  await chose(0, [0, 1], [2, 1]);
  asked.length = 0;
  await chose(0, [0, 1], [9, 9], { first: 1, decodes: 1 });
  await chose(0, [0, 1], [8, 8], { first: 0, decodes: 0 });
  assert.deepEqual(asked.splice(0).join(), "9,9,9,9,8,8,8,8", "the other half, and a prompt");
  await chose(2, [0, 1], [3, 3]);
  await chose(0, [0, 1], [1, 1]);
  assert.deepEqual(
    asked.map((rows) => rows.join()),
    ["4,5", "1,1", "1,1"],
    "for the last layer, and anew for two",
  );
});

test("transitions need no rows", async () => {
  const { told, chose } = asking("transitions");
  for (let step = 0; step < 500; step++) for (const layer of [0, 2, 3]) await chose(layer, layer === 0 ? [0, 1] : [2, 1]);
  const last = told.findLast(({ cells }) => cells.length > 0);
  assert.deepEqual([...(last?.cells ?? [])].sort(), [3 * 4 + 1, 3 * 4 + 2]);
});
