// The engine's door: whose the bytes are that pass it (units and the rows of other ranks change hands, a frame's rows do not), and
// calls that come in an order of their own.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, test } from "node:test";
import { type BackendChoice, backendNames } from "../../../crds/names.ts";
import { importMoe } from "../../modelstore/import-moe.ts";
import { openStore } from "../../weights/store-reader.ts";
import { createEngine, type Engine, type RemoteExperts } from "../engine.ts";
import { ownThreads, processorsIn } from "./client.ts";

const root = mkdtempSync(join(tmpdir(), "enodia-client-"));
const storeDir = join(root, "tiny");
await importMoe(
  { from: resolve(import.meta.dirname, "../../../test/golden/tiny-f32"), out: storeDir, codecs: ["f32"], overwrite: false },
  () => {},
);
const store = await openStore(storeDir);
const engines: Engine[] = [];
after(async () => {
  for (const engine of engines) await engine.close();
  await store.close();
  rmSync(root, { recursive: true });
});

async function start(layers: readonly number[], remote: RemoteExperts, backend: BackendChoice = "reference"): Promise<Engine> {
  const options = { backend, codec: "f32", kvPoolBytes: 1 << 20, maxContext: 32 } as const;
  const engine = await createEngine({ storeDir, ...options, remote });
  engines.push(engine);
  for (const layer of layers)
    for (let expert = 0; expert < store.index.experts; expert++)
      await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, "f32"));
  return engine;
}

/** Generates two tokens; how many came. */
async function tokensOf(engine: Engine): Promise<number> {
  const sampling = { temperature: 0, topP: 1, topK: 0, seed: 1n };
  let tokens = 0;
  for await (const { type } of engine.generate({ prompt: [1, 2, 3], maxTokens: 2, sampling, eos: [] })) if (type === "token") tokens += 1;
  return tokens;
}

test("a unit and the rows of another rank are handed over, a frame's rows stay the caller's", async () => {
  const host = await start([1], { dispatch: () => Promise.reject(new Error("it hosts all that it is asked for")) });
  const given: Float32Array[] = [];
  const engine = await start([0], {
    dispatch: async (frame) => {
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
  const engine = await start([], { dispatch: () => Promise.reject(new Error("nobody")) });
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
  const host = await start([1], { dispatch: () => Promise.reject(new Error("it hosts all that it is asked for")) });
  const engine = await start([0], {
    dispatch: (frame) => {
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
  const engine = await start([], { dispatch: () => Promise.reject(new Error("nobody else is there")) }, "Auto");
  const { backend, device } = engine.describe();
  assert.ok(backendNames.some((name) => name === backend));
  assert.ok(device.startsWith(`${backend}:`));
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
