// The engine's door: whose the bytes are that pass it (units and the rows of other ranks change hands, a frame's rows do not), and
// calls that come in an order of their own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { type BackendChoice, backendNames } from "../../../crds/names.ts";
import { engineWorld, nobodyElse, textOf } from "../../../test/kit/ranks/loaded-engine.ts";
import type { Engine, OnDemandExperts } from "../engine.ts";
import { endThread, ownThreads, processorsIn } from "./client.ts";

const world = await engineWorld({ kvPoolBytes: 1 << 20, maxContext: 32 });
const { store } = world;
const start = (layers: readonly number[], onDemand: OnDemandExperts, backend: BackendChoice = "reference"): Promise<Engine> =>
  world.start({ onDemand, backend }, (layer) => layers.includes(layer));

/** Generates two tokens; how many came. */
const tokensOf = async (engine: Engine): Promise<number> => (await textOf(engine, { prompt: [1, 2, 3], maxTokens: 2 })).length;

test("a unit and the rows of another rank are handed over, a frame's rows stay the caller's", async () => {
  const host = await start([1], nobodyElse);
  const given: Float32Array[] = [];
  const engine = await start([0], {
    run: async (frame) => {
      const rows = await host.runExperts(frame);
      assert.ok(frame.rows.length > 0);
      given.push(rows);
      return rows;
    },
  });
  assert.equal(await tokensOf(engine), 2);
  assert.ok(given.length > 0 && given.every(({ length }) => length === 0));
});

test("a unit that weights its buffer with something else is copied", async () => {
  const engine = await start([], nobodyElse);
  const unit = await store.readUnit(1, 0, "f32");
  const part = new Uint8Array(unit.length + 8).subarray(8);
  part.set(unit);
  for (const bytes of [unit, part]) {
    await engine.loadExpert(1, 0, bytes);
    await engine.unloadExpert(1, 0);
  }
  assert.equal(unit.length, 0);
  assert.ok(part.length > 0);
});

test("ranks that were down before the first tables came get nothing", async () => {
  const asked = new Set<number>();
  const host = await start([1], nobodyElse);
  const engine = await start([0], {
    run: (frame) => {
      asked.add(frame.rank);
      return host.runExperts(frame);
    },
  });
  await engine.setDown([1]);
  const rows = (ranks: readonly number[]) => Array.from({ length: store.index.experts }, () => ranks);
  await engine.setRouting({ rank: 0, layers: [{ layer: 1, epoch: 1, hosts: rows([1, 2]), weights: rows([500, 500]) }] });
  assert.equal(await tokensOf(engine), 2);
  assert.deepEqual([...asked], [2]);
});

test("an engine that is asked for Auto says which backend it took, by which the memory for experts is judged", async () => {
  const engine = await start([], nobodyElse, "Auto");
  const { backend, device } = engine.describe();
  assert.ok(backendNames.some((name) => name === backend));
  assert.ok(device.startsWith(`${backend}:`));
});

test("a thread that something keeps alive is ended where it stands, and one that cannot be ended is left", async () => {
  const limits = { byItselfMs: 50, terminatedMs: 10_000 };
  const thread = new Worker("setInterval(() => {}, 1_000)", { eval: true });
  let asked = 0;
  await endThread(thread, new Promise((resolve) => void thread.once("exit", () => resolve())), () => asked++, limits);
  assert.equal(asked, 1);
  const stuck = { terminate: async () => 0 };
  const left = endThread(stuck, new Promise(() => {}), () => {}, { ...limits, terminatedMs: 50 });
  await assert.rejects(left, { code: "EngineStopped", message: /does not end/ });
});

test("lists of processors are counted", () => {
  assert.deepEqual(["0", "0-3", "0-1,4,6-7", ""].map(processorsIn), [1, 4, 5, 0]);
});

test("only processors that were given, whole, are its own", () => {
  assert.equal(ownThreads({ online: 64, allowed: 8, available: 8 }), 8);
  assert.equal(ownThreads({ online: 64, allowed: 64, available: 64 }), 1, "the whole machine is everybody's");
  assert.equal(ownThreads({ online: 64, allowed: 64, available: 4 }), 1, "a quota gives time, no processors");
  assert.equal(ownThreads({ online: 64, allowed: 56, available: 4 }), 1, "a shared pool with a quota");
  assert.equal(ownThreads({ online: 64, allowed: 56, available: 56, whole: 0 }), 1, "a shared pool without one");
  assert.equal(ownThreads({ online: 64, allowed: 56, available: 56, whole: 8 }), 1, "a node without a static CPU manager for this pod");
  assert.equal(ownThreads({ online: 64, allowed: 8, available: 8, whole: 8 }), 8);
});
