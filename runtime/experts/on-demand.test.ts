// Frames on demand against the production resident set and materializer: what is used stays in use, and a full memory says so at once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLog } from "../observe/log.ts";
import { missingExperts, notHosted } from "../placement/frames/not-hosted.ts";
import type { Pairs } from "../placement/frames/pairs.ts";
import { Materializer } from "./memory/materializer.ts";
import { type ResidentExpert, ResidentSet } from "./memory/resident-set.ts";
import { TransferPace } from "./memory/transfer-pace.ts";
import { OnDemand } from "./on-demand.ts";

const hidden = 2;

function runner(slots: number, wanted: readonly number[] = []) {
  let ms = 0;
  const held = new Set<number>();
  const counted: string[] = [];
  const residents = new ResidentSet({ budgetBytes: slots, bytesOf: () => 1, now: () => ms });
  const engine = {
    runExperts: async ({ pairExperts }: Pairs) => {
      const missing = [...pairExperts].filter((expert) => !held.has(expert));
      if (missing.length > 0) throw notHosted(missing, "not here");
      return new Float32Array(pairExperts.length * hidden);
    },
  };
  const device = {
    load: async ({ expert }: ResidentExpert) => void held.add(expert),
    unload: async ({ expert }: ResidentExpert) => void held.delete(expert),
  };
  const tiers = { read: async () => ({ unit: new Uint8Array(1), source: "store" as const, seconds: 0 }) };
  const materializer = new Materializer({
    device,
    residents,
    tiers,
    storedBytes: () => 1,
    pace: new TransferPace({ onChange: () => {} }),
    log: silentLog,
  });
  const frames = new OnDemand({
    ...{ engine, materializer, hidden, sourcesOf: () => [], giveWay: () => undefined },
    wanted: (_layer, expert) => wanted.includes(expert),
    onDemandLoad: (result) => void counted.push(result),
  });
  const ask = (...experts: number[]) => {
    const pairs = experts.map((_, i) => i);
    const work = {
      rows: new Float32Array(experts.length * hidden),
      pairRows: Uint32Array.from(pairs),
      pairExperts: Uint32Array.from(experts),
    };
    return frames.run({ layer: 0, epoch: 1, rank: 0, phase: "decode", origin: "remote", ...work });
  };
  const pass = (more: number): void => {
    ms += more;
  };
  return { residents, ask, counted, pass };
}

test("an expert loaded on demand is in use as long as frames hit it, and idle afterwards", async () => {
  const { residents, ask, counted, pass } = runner(2);
  for (let i = 0; i < 10; i++) {
    await ask(3);
    pass(4_000);
    assert.ok(residents.pressed());
  }
  assert.deepEqual(counted, ["ok"], "loaded once");
  pass(10_000);
  assert.ok(!residents.pressed());
});

test("an expert that the plan wants here stays, although a frame has brought it", async () => {
  const { residents, ask } = runner(2, [3]);
  await ask(3);
  for (const other of [4, 5, 6]) await ask(other);
  assert.ok(residents.isResident({ layer: 0, expert: 3 }));
  assert.equal([4, 5, 6].filter((expert) => residents.isResident({ layer: 0, expert })).length, 1);
});

test("memory full of what the plan wants is told at once, with every expert that is not here", async () => {
  const { residents, ask, counted } = runner(2);
  for (const expert of [0, 1]) {
    residents.admit({ layer: 0, expert }, "planned");
    residents.loaded({ layer: 0, expert });
  }
  await assert.rejects(ask(4, 5, 6), (error) => {
    assert.deepEqual(missingExperts(error), [4, 5, 6]);
    return true;
  });
  assert.deepEqual(counted, [], "no load failed: another rank is asked");
});
