// Loads of experts: others have the backend while their weights are written.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as macrotask } from "node:timers/promises";
import type { Backend, Compiled, Pause } from "../../compute/backend.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { ExpertTable } from "./expert-table.ts";
import type { LoadCounter } from "./load-counter.ts";

/** A table whose experts are written elsewhere until `written` has settled. */
function tableOf(written: Promise<void>, dispose: Compiled["dispose"] = async () => {}, copies = true) {
  const put = async (_expert: number, _weights: unknown, pause: Pause): Promise<Compiled> => {
    await pause(written);
    return { residentBytes: 1, run: async () => ({}), dispose };
  };
  const backend = { createExpertSlab: () => ({ put, copies }) } as unknown as Backend;
  const program = { layers: [{ kind: "moe", expert: {}, experts: 1 }], hidden: 1 } as unknown as ModelProgram;
  const store = { decodeUnit: () => ({}) };
  return new ExpertTable({ backend, store, program, codec: "f32", counter: {} as LoadCounter });
}

for (const ends of ["resolve", "reject"] as const)
  test(`others have the backend while an expert is written elsewhere, also where that ends with ${ends}`, async () => {
    const { promise, ...settle } = Promise.withResolvers<void>();
    const table = tableOf(promise);
    const load = table.load(0, 0, new Uint8Array(1)).then(
      () => "resolve",
      () => "reject",
    );
    assert.equal(await table.lock.run(async () => table.has(0, 0)), false);
    const held = table.lock.run(async () => {
      settle[ends](undefined as never);
      await macrotask();
      return table.has(0, 0);
    });
    assert.equal(await held, false, "it comes when nobody has the backend");
    assert.equal(await load, ends);
    assert.equal(await table.lock.run(async () => table.has(0, 0)), ends === "resolve");
  });

test("of two loads of one expert at once one stays, and the other goes while nobody else has the backend", async () => {
  const table = tableOf(macrotask(), async () => {
    let others = 0;
    void table.lock.run(async () => {
      others += 1;
    });
    await macrotask();
    assert.equal(others, 0);
    gone += 1;
  });
  let gone = 0;
  await Promise.all([0, 1].map(() => table.load(0, 0, new Uint8Array(1))));
  assert.deepEqual([gone, table.count], [1, 1]);
});

test("an expert comes while the prefill queue computes", async () => {
  const table = tableOf(Promise.resolve());
  const { promise, resolve } = Promise.withResolvers<void>();
  const prompts = table.prefillLock.run(() => promise);
  await table.load(0, 0, new Uint8Array(1));
  assert.ok(table.has(0, 0));
  resolve();
  await prompts;
});

test("an expert goes while neither the backend nor the prefill queue computes", async () => {
  const gone: string[] = [];
  const table = tableOf(Promise.resolve(), async () => void gone.push("gone"));
  await table.load(0, 0, new Uint8Array(1));
  const prompts = table.prefillLock.run(async () => {
    await macrotask();
    gone.push("prompt");
  });
  await Promise.all([table.unload(0, 0), prompts, table.lock.run(async () => void gone.push("decode"))]);
  assert.deepEqual(gone, ["decode", "prompt", "gone"]);
});

test("the memory of a unit goes with its load, unless the backend keeps it", async () => {
  for (const copies of [true, false]) {
    const unit = new Uint8Array(8);
    await tableOf(Promise.resolve(), undefined, copies).load(0, 0, unit);
    assert.equal(unit.byteLength, copies ? 0 : 8);
  }
});
