// Room that an expert needs for itself: one that evicts others for it gets in under pressure, and what it kept is free when it fails.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { silentLog } from "../../observe/log.ts";
import { loadsAtOnce, Materializer } from "./materializer.ts";
import { type Kind, type ResidentExpert, ResidentSet } from "./resident-set.ts";
import { TransferPace } from "./transfer-pace.ts";

const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A budget of 100; expert n has 10 n bytes. Unloads end when the test says so. */
function memory() {
  const unloads: { readonly expert: number; readonly end: (failure?: Error) => void }[] = [];
  const residents = new ResidentSet({ budgetBytes: 100, bytesOf: ({ expert }) => expert * 10, now: () => 0 });
  const device = {
    load: async () => {},
    unload: ({ expert }: ResidentExpert) =>
      new Promise<void>((resolve, reject) => {
        unloads.push({ expert, end: (failure) => (failure ? reject(failure) : resolve()) });
      }),
  };
  const tiers = { read: async () => ({ unit: new Uint8Array(1), source: "store" as const, seconds: 0 }) };
  const pace = new TransferPace({ onChange: () => {} });
  const materializer = new Materializer({ device, residents, tiers, storedBytes: () => 1, pace, log: silentLog });
  const ensure = (expert: number, kind: Kind, signal = new AbortController().signal) =>
    materializer.ensure({ layer: expert > 5 ? 1 : 0, expert, kind, sources: [], bytesPerSecond: 0, signal });
  return { residents, unloads, materializer, ensure };
}

test("a large expert that evicted gets in, although small ones want what is free beside its victim", async () => {
  const { residents, unloads, ensure } = memory();
  await ensure(5, "staged");
  await ensure(4, "planned");
  const large = ensure(6, "planned");
  const small = new AbortController();
  const others = [1, 2, 3].map((expert) => ensure(expert, "staged", small.signal).catch(() => "waits"));
  await tick();
  assert.deepEqual([unloads.map(({ expert }) => expert), residents.isResident({ layer: 0, expert: 1 })], [[5], false]);
  unloads[0]?.end();
  await large;
  assert.ok(residents.isResident({ layer: 1, expert: 6 }));
  small.abort(new AppError("enough", { code: "Aborted" }));
  await Promise.all(others);
  assert.equal(residents.bytes, 100);
});

test("when an unload fails or the load is aborted meanwhile, no room stays taken for the one that evicted", async () => {
  for (const failure of [new Error("lost"), undefined]) {
    const { residents, unloads, ensure } = memory();
    await ensure(5, "staged");
    await ensure(4, "planned");
    const abort = new AbortController();
    const large = ensure(6, "planned", abort.signal);
    await tick();
    if (failure === undefined) abort.abort(new AppError("another plan", { code: "Aborted" }));
    unloads[0]?.end(failure);
    await assert.rejects(large, failure === undefined ? { code: "Aborted" } : /lost/);
    assert.deepEqual([residents.bytes, residents.count, residents.hasRoom({ layer: 1, expert: 6 })], [40, 1, true]);
  }
});

test("all that a layer no longer wants leaves, whatever one of them meets with", async () => {
  const { residents, unloads, materializer, ensure } = memory();
  for (const expert of [1, 2, 3]) await ensure(expert, "planned");
  const retained = assert.rejects(materializer.retain(0, new Set([3])), /lost/);
  for (let i = 0; i < 2; i++) {
    await tick();
    unloads[i]?.end(i === 0 ? new Error("lost") : undefined);
  }
  await retained;
  assert.deepEqual([residents.bytes, residents.count], [30, 1]);
});

test("a load that nobody waited for goes before others once rows wait for its expert", async () => {
  const residents = new ResidentSet({ budgetBytes: 100, bytesOf: () => 10, now: () => 0, worth: () => 0 });
  const reads: number[] = [];
  const ends: (() => void)[] = [];
  const tiers = {
    read: async ({ expert }: ResidentExpert) => {
      reads.push(expert);
      await new Promise<void>((resolve) => ends.push(resolve));
      return { unit: new Uint8Array(1), source: "store" as const, seconds: 0 };
    },
  };
  const device = { load: async () => {}, unload: async () => {} };
  const pace = new TransferPace({ onChange: () => {} });
  const materializer = new Materializer({ device, residents, tiers, storedBytes: () => 1, pace, log: silentLog, loadsAtOnce: 1 });
  const ask = { layer: 0, kind: "staged", sources: [], bytesPerSecond: 0, signal: AbortSignal.timeout(5_000) } as const;
  const ahead = (expert: number) => materializer.ensure({ ...ask, expert, below: 1 });
  const loads = [materializer.ensure({ ...ask, expert: 1 }), ahead(2), ahead(3), materializer.ensure({ ...ask, expert: 3 })];
  for (let i = 0; i < 3; i++) {
    await tick();
    ends[i]?.();
  }
  assert.deepEqual(
    [await Promise.all(loads), reads],
    [
      [1, 1, 1, 0],
      [1, 3, 2],
    ],
  );
});

test("processors and the pool's threads bound loads at once, large experts come two by two", () => {
  const mebibyte = 2 ** 20;
  const cases: [cpus: number, expertBytes: number, loads: number][] = [
    [1, mebibyte, 2],
    [2, mebibyte, 3],
    [64, mebibyte, 4],
    [64, 80 * mebibyte, 3],
    [64, 1024 * mebibyte, 2],
    [64, 0, 4],
  ];
  for (const [cpus, bytes, loads] of cases) assert.equal(loadsAtOnce(cpus, bytes), loads, `${cpus} cpus, ${bytes} bytes`);
});

test("a planned expert without room ends on the disk, and is fetched to it where it is not there", async () => {
  const residents = new ResidentSet({ budgetBytes: 10, bytesOf: () => 10, now: () => 0 });
  const disk = new Set([2]);
  const read: number[] = [];
  const tiers = {
    read: async ({ expert }: ResidentExpert) => {
      read.push(expert);
      disk.add(expert);
      return { unit: new Uint8Array(7), source: 1 as const, seconds: 0 };
    },
  };
  const device = { load: async () => {}, unload: async () => {} };
  const onDisk = ({ expert }: ResidentExpert): boolean => disk.has(expert);
  const pace = new TransferPace({ onChange: () => {} });
  const materializer = new Materializer({ device, residents, tiers, storedBytes: () => 7, onDisk, pace, log: silentLog });
  const ask = {
    layer: 0,
    kind: "planned",
    sources: [1],
    bytesPerSecond: 0,
    signal: AbortSignal.timeout(5_000),
    mayStayOnDisk: true,
  } as const;
  const got: number[] = [];
  for (const expert of [1, 2, 3, 3]) got.push(await materializer.ensure({ ...ask, expert }));
  assert.deepEqual([got, read, residents.count], [[7, 0, 7, 0], [1, 3], 1]);
});
