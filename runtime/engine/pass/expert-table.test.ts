// Loads of experts in slices: others have the backend between them, the sooner the shorter the steps are.
import assert from "node:assert/strict";
import { beforeEach, type TestContext, test } from "node:test";
import { setImmediate as macrotask } from "node:timers/promises";
import type { Backend, Compiled, Pause } from "../../compute/backend.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { ExpertTable } from "./expert-table.ts";
import type { LoadCounter } from "./load-counter.ts";

const pieceMs = 1.5;
/** Of the clock that loads see. */
let now = 0;
beforeEach((t) => {
  (t as TestContext).mock.method(performance, "now", () => now);
});

/** A table whose experts take a while to write, and how many pieces of one were written. */
function tableOf(pieces: number, dispose: Compiled["dispose"] = async () => {}) {
  const written = { pieces: 0 };
  const put = async (_expert: number, _weights: unknown, pause: Pause): Promise<Compiled> => {
    for (; written.pieces < pieces; written.pieces++) {
      now += pieceMs;
      await pause();
    }
    return { residentBytes: 1, run: async () => ({}), dispose };
  };
  const backend = { createExpertSlab: () => ({ put }) } as unknown as Backend;
  const program = { layers: [{ kind: "moe", expert: {}, experts: 1 }], hidden: 1 } as unknown as ModelProgram;
  const store = { decodeUnit: () => ({}) };
  return { written, table: new ExpertTable({ backend, store, program, codec: "f32", counter: {} as LoadCounter }) };
}

/** Pieces that were written when somebody who waited for the backend had it, and when the event loop had a turn. */
async function metBy(stepMs: number, pieces = 6) {
  const { written, table } = tableOf(pieces);
  table.stepTook(stepMs);
  const load = table.load(0, 0, new Uint8Array(1));
  const turn = new Promise<number>((resolve) => setImmediate(() => resolve(written.pieces)));
  const locked = table.lock.run(async () => written.pieces);
  await load;
  assert.equal(table.has(0, 0), true);
  return { turn: await turn, locked: await locked };
}

test("a load lets others in after each slice, which is a part of a step's time", async () => {
  const short = await metBy(1);
  assert.deepEqual(short, { turn: 0, locked: 0 }); // in the pause behind the first
  const long = await metBy(1e7);
  assert.deepEqual(long, { turn: 6, locked: 6 });
  const most = await metBy(1e7, 60);
  const pieces = Math.floor(20 / pieceMs);
  assert.deepEqual(most, { turn: pieces, locked: pieces });
});

test("of two loads of one expert at once one stays, and the other goes while nobody else has the backend", async () => {
  const { table } = tableOf(2, async () => {
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
