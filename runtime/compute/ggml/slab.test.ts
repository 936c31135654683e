// The memory of experts on the processor: a layer's slab takes what the experts in it take, wherever their slots are, and gives it back.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { buildWithoutTiles } from "../../../test/kit/models/cpu-build.ts";
import { stored } from "../../../test/kit/models/published-parts.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { Segment } from "../../kernels/segment.ts";
import type { WeightData } from "../../kernels/weights.ts";
import { storedWeight } from "../../weights/stored.ts";
import type { Compiled } from "../backend.ts";
import { CpuDevice } from "./device.ts";
import { type Part, partsOf, piecesOf } from "./expert-matrices.ts";
import { SingleExperts } from "./expert-programs.ts";
import { largePageBytes, settledMs } from "./large-pages.ts";
import { Slab } from "./slab.ts";
import { weightBytes } from "./types.ts";
import { keptMs } from "./warm-pages.ts";

const [hidden, ffn, experts] = [1024, 2048, 32];

/** An expert of so many columns in and out, and rows between. */
const segmentOf = (width: number, inner: number): Segment => ({
  name: "expert",
  inputs: [{ name: "x", dtype: "f32", width }],
  outputs: [{ name: "y", dtype: "f32", width }],
  weights: Object.entries({ gate: [inner, width], up: [inner, width], down: [width, inner] }).map(([name, shape]) => ({ name, shape })),
  ops: [
    { op: "matMul", x: "x", weight: "gate", out: "a" },
    { op: "matMul", x: "x", weight: "up", out: "b" },
    { op: "siluMul", a: "a", b: "b", out: "c" },
    { op: "matMul", x: "c", weight: "down", out: "y" },
  ],
});
const segment = segmentOf(hidden, ffn);
const blocks = (shape: readonly number[]): WeightData => ({
  form: "q4_0",
  shape,
  data: new Uint8Array(weightBytes("q4_0", shape)).fill(1),
});
const weights = Object.fromEntries(segment.weights.map(({ name, shape }) => [name, blocks(shape)]));
const storedBytes = segment.weights.reduce((sum, { shape }) => sum + weightBytes("q4_0", shape), 0);

/** Of gate and up, which are one matrix, and of down. */
const partBytes = [weightBytes("q4_0", [2 * ffn, hidden]), weightBytes("q4_0", [hidden, ffn])];

/** Bytes of the process's pages between two addresses; of its large ones alone with "AnonHugePages". */
function residentBetween(from: bigint, to: bigint, field = "Rss"): number {
  let [inside, bytes] = [false, 0];
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range) inside = BigInt(`0x${range[2]}`) > from && BigInt(`0x${range[1]}`) < to;
    else if (inside) bytes += line.startsWith(`${field}:`) ? 1024 * Number(/\d+/.exec(line)) : 0;
  }
  return bytes;
}

test("resident bytes of a layer are those of its experts within 3%, wherever they are, and go a moment after they go", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const expertSlab = new SingleExperts(device).expertSlab(segment, experts);
  const here = Array.from({ length: experts / 2 }, (_, i) => expertSlab.place((i * 7) % experts, weights));
  const spans = partBytes.map((bytes, part) => {
    const at = here.map(({ addresses }) => addresses[part] as bigint).sort((a, b) => (a < b ? -1 : 1));
    return [at[0]!, at.at(-1)! + BigInt(bytes)] as const;
  });
  const residentNow = (): number => spans.reduce((sum, [from, to]) => sum + residentBetween(from, to), 0);
  const resident = residentNow();
  const stored = here.length * storedBytes;
  assert.ok(resident > 0.97 * stored && resident < 1.03 * stored + 4 * 4096, `${resident} resident, ${stored} stored`);
  assert.ok(here.every(({ residentBytes }) => residentBytes === storedBytes));
  for (const expert of here.slice(1)) await expert.dispose();
  assert.ok(residentNow() < 1.03 * storedBytes + 33 * 2 ** 20, `${residentNow()} for one expert and what is kept`);
  t.mock.timers.tick(keptMs);
  assert.ok(residentNow() < 1.03 * storedBytes + 16 * 4096, `${residentNow()} for one expert`);
  await here[0]!.dispose();
  device.close();
});

test("where the machine does not give the address space of a whole layer, experts lie apart and are no range", async () => {
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const many = new SingleExperts(device).expertSlab(segment, 2 ** 26); // 2^47 bytes and more, beyond what addresses can say
  const expert = many.place(3, weights);
  assert.equal(many.whole, undefined);
  assert.equal((await expert.run({ x: { shape: [1, hidden], data: new Float32Array(hidden) } })).y!.data.length, hidden);
  await expert.dispose();
  device.close();
});

const small = segmentOf(256, 512);

/** Weights of the small expert, whose numbers differ by `seed`. */
const weightsOf = (form: "q4_0" | "iq4_nl" | "q8_0", seed: number) =>
  Object.fromEntries(small.weights.map(({ name, shape }, i) => [name, storedWeight(form, shape, stored(form, 256 * 512, 3 * seed + i))]));

const x = randomTensor(7, [3, 256]);
const answer = async (expert: Compiled): Promise<readonly number[]> => [...((await expert.run({ x })).y!.data as Float32Array)];

/** Pages that were not there, while something was done. */
function faults(work: () => void): number {
  const before = process.resourceUsage().minorPageFault;
  work();
  return process.resourceUsage().minorPageFault - before;
}

test("an expert that comes when another went takes its pages, and answers what it does in fresh ones", async () => {
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const expertSlab = new SingleExperts(device).expertSlab(small, experts);
  const came = weightsOf("q4_0", 3);
  const [stays, goes] = [expertSlab.place(0, weightsOf("q4_0", 1)), expertSlab.place(1, weightsOf("q4_0", 2))] as const;
  const stayed = await answer(stays);
  const pages = goes.residentBytes / 4096;
  const placed: Compiled[] = [];
  const fresh = faults(() => placed.push(expertSlab.place(20, came)));
  await goes.dispose();
  const warm = faults(() => placed.push(expertSlab.place(11, came)));
  assert.ok(fresh >= pages && warm < pages / 2, `${fresh} and ${warm} faults, ${pages} pages`);
  placed.push(expertSlab.place(1, came)); // where the pages were
  const [wanted, ...others] = await Promise.all(placed.map(answer));
  assert.ok(wanted?.some((value) => value !== 0 && value !== stayed[0]));
  assert.deepEqual(others, [wanted, wanted]);
  assert.deepEqual(await answer(stays), stayed);
  device.close();
});

test("where a matrix takes more memory than its bytes, all of that is its expert's when it is written", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const weights = weightsOf("q4_0", 1);
  const [part] = partsOf(device, small, { gate: "q4_0", up: "q4_0", down: "q4_0" }) as [Part];
  const beyond = 8 * 4096;
  const storage = { ...part.storage, bytes: part.storage.bytes + beyond, choosable: false };
  const slab = new Slab(device, [{ ...part, storage, weights: [{ name: "both", rows: part.rows }] }], 2);
  const both = Buffer.concat(["gate", "up"].map((name) => weights[name]!.data as Uint8Array));
  assert.ok(both.length < 512 * 2 ** 10);
  const put = (slot: number): void => slab.put(slot, { both: { form: "q4_0", shape: [part.rows, 256], data: both } });
  const end = (slot: number): bigint => slab.addresses(slot)[0]! + BigInt(both.length + beyond) - 4096n - 64n;
  put(0);
  device.ggml.writePointer(end(0), 42n); // as what packs would
  slab.drop(0);
  put(0);
  assert.equal(device.warmPages.keptBytes, 0);
  device.ggml.writePointer(end(0), 43n);
  put(1);
  t.mock.timers.tick(keptMs);
  assert.equal(device.ggml.pointerAt(end(0)), 43n);
  device.close();
});

test("experts that are left alone lie in large pages, and go from there and come back as from small ones", async (t) => {
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const expertSlab = new SingleExperts(device).expertSlab(small, 64);
  const here = Array.from({ length: 64 }, (_, expert) => expertSlab.place(expert, weightsOf("q4_0", expert)));
  const answers = (): Promise<unknown[]> => Promise.all(here.map(answer));
  const [first, stride] = [here[0]!.addresses[0]!, Number(here[1]!.addresses[0]! - here[0]!.addresses[0]!)];
  const bytes = (field?: string): number => residentBetween(first, first + BigInt(64 * stride), field);
  const [before, resident] = [await answers(), bytes()];
  for (let ms = 0; ms < 4 * settledMs && bytes("AnonHugePages") < 2 * largePageBytes; ms += 50) await setTimeout(50);
  if (bytes("AnonHugePages") === 0) return t.skip("the machine gives no large pages now");
  assert.deepEqual(await answers(), before);
  assert.ok(bytes() <= resident, `${bytes()} in large pages, ${resident} in small ones`);
  for (const expert of here.slice(8, 24)) await expert.dispose();
  device.warmPages.clear();
  assert.ok(bytes() <= resident - 16 * stride + 2 * 4096, `${bytes()} of ${resident} without 16 times ${stride}`);
  for (let expert = 8; expert < 24; expert++) here[expert] = expertSlab.place(expert, weightsOf("q4_0", expert));
  assert.deepEqual(await answers(), before);
  device.close();
});

test("what an expert was written from is not held while its pages wait", async () => {
  setFlagsFromString("--expose-gc");
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const expertSlab = new SingleExperts(device).expertSlab(small, 1);
  const place = (): WeakRef<object> => {
    const weights = weightsOf("q4_0", 1);
    expertSlab.place(0, weights);
    return new WeakRef(weights);
  };
  const written = place();
  await setTimeout(1); // a WeakRef holds until the turn ends
  runInNewContext("gc")();
  assert.ok(written.deref() === undefined);
  device.close();
});

/** Areas in which the kernel describes this process's memory. */
const areas = (): number => readFileSync("/proc/self/maps", "utf8").split("\n").length;

test("however often experts come and go, the kernel's areas stay few, and are gone with the layer", async () => {
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const expertSlab = new SingleExperts(device).expertSlab(segment, experts);
  const x = randomTensor(7, [1, hidden]);
  const before = areas();
  const stays = expertSlab.place(0, weights);
  const wanted = (await stays.run({ x })).y!.data.slice();
  let expert = expertSlab.place(1, weights);
  let fresh = 0;
  for (let i = 1; i < 300; i++) {
    await expert.dispose();
    fresh += faults(() => (expert = expertSlab.place(1 + ((7 * i) % (experts - 1)), weights)));
  }
  const pages = storedBytes / 4096;
  assert.ok(fresh < 300 * 0.2 * pages, `${fresh / 300} of ${pages} pages are fresh`);
  const most = areas() - before;
  assert.ok(most < 2_000, `${most} areas`);
  assert.deepEqual((await expert.run({ x })).y!.data, wanted);
  for (const each of [expert, stays]) await each.dispose();
  assert.ok(areas() - before < most / 10, `${areas() - before} areas are left of ${most}`);
  device.close();
});

for (const [form, build] of [
  ["q4_0"],
  ["q8_0"],
  ["q4_0", buildWithoutTiles],
  ["iq4_nl", buildWithoutTiles],
  ["q8_0", buildWithoutTiles],
] as const)
  test(`${form}, ${build ?? "own build"}: gate and up, each written for itself, are the bytes of both written at once`, () => {
    const device = new CpuDevice({ threads: 1, build });
    const weights = weightsOf(form, 1);
    const [part] = partsOf(device, small, { gate: form, up: form, down: form }) as [Part];
    const [apart, joined] = [new Slab(device, [part], 1), new Slab(device, [{ ...part, weights: [{ name: "both", rows: part.rows }] }], 1)];
    assert.deepEqual(
      piecesOf(part, weights).map(({ rows }) => rows),
      [512, 512],
    );
    apart.put(0, weights);
    const both = Buffer.concat(["gate", "up"].map((name) => weights[name]!.data as Uint8Array));
    joined.put(0, { both: { form, shape: [part.rows, 256], data: both } });
    const written = (slab: Slab): Buffer => {
      const words = BigUint64Array.from({ length: part.storage.bytes / 8 }, (_, i) =>
        device.ggml.pointerAt(slab.addresses(0)[0]! + BigInt(8 * i)),
      );
      return Buffer.from(words.buffer);
    };
    assert.equal(written(joined).equals(both), part.storage.memory.name === "plain"); // else they are packed
    assert.ok(written(apart).equals(written(joined)));
    device.close();
  });

test("an expert is packed on other threads, has its slot from the first on, and is there after the last", async () => {
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const expertSlab = new SingleExperts(device).expertSlab(segment, 2);
  const other = expertSlab.place(0, weights);
  const x = randomTensor(7, [2, hidden]);
  const answer = async (expert: Compiled): Promise<readonly number[]> => [...((await expert.run({ x })).y!.data as Float32Array)];
  const wanted = await answer(other);
  const coming = await expertSlab.put(1, weights, async (until) => {
    assert.equal(expertSlab.whole, undefined);
    assert.deepEqual(await answer(other), wanted);
    await other.dispose(); // the slab stays, though nothing is in it
    await until;
  });
  assert.deepEqual(await answer(coming), wanted);
  const again = expertSlab.place(0, weights);
  assert.deepEqual([expertSlab.whole !== undefined, await answer(again)], [true, wanted]);
  await device.close();
});

test("a slot in which no expert was finished is empty again, and a close waits for those who write", async () => {
  const device = new CpuDevice({ threads: 1, build: buildWithoutTiles });
  const slab = new Slab(device, partsOf(device, segment, { gate: "q4_0", up: "q4_0", down: "q4_0" }), 2);
  const gaveUp = slab.putApart(1, weights, async (until) => {
    assert.deepEqual([slab.isTaken(1), slab.idle, slab.used], [true, false, 0]);
    await until;
    throw new Error("gave up");
  });
  await assert.rejects(gaveUp, /gave up/);
  assert.deepEqual([slab.isTaken(1), slab.idle, slab.used], [false, true, 0]);
  let written = false;
  const late = slab.putApart(1, weights, async (until) => {
    await until;
    written = true;
  });
  await device.close();
  assert.equal(written, true);
  await assert.rejects(late, { code: "EngineStopped" });
  assert.equal(slab.idle, true);
});
