// A device with a processor beside it: the device's copies stay within its bytes, rows are what one engine makes of them, and a step over
// layers that the device has by half is that of a device which has them whole.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { looseBackend } from "../../../test/kit/devices/loose.ts";
import { syntheticModel } from "../../../test/kit/models/synthetic.ts";
import { stepsOverRanks } from "../../../test/kit/ranks/steps-over-ranks.ts";
import { randomTensor } from "../../kernels/random.ts";
import { formsAlike } from "../../weights/codecs/codec.ts";
import type { Backend } from "../backend.ts";
import { createGgmlBackend } from "../ggml/index.ts";
import { relativeError } from "../op-self-test.ts";
import { checkCopies } from "./check-copies.ts";
import type { Engines } from "./deal.ts";
import { type BesideOptions, withProcessor } from "./index.ts";
import type { EngineTimes } from "./times.ts";

const tolerance = 1e-4;
/** One row is sooner on the processor, more rows on the device. */
const times: Engines<EngineTimes> = { device: { start: 0, seconds: [4, 4, 4] }, processor: { start: 0, seconds: [1, 20, 40] } };

interface Opened {
  readonly backend: Backend;
  readonly device: Backend;
  readonly ran: Engines<number[]>;
}

async function engines(copiesBytes: number, options?: Partial<BesideOptions>): Promise<Opened> {
  const { backend: device } = looseBackend();
  const processor = await createGgmlBackend({ threads: 1 });
  const ran: Engines<number[]> = { device: [], processor: [] };
  for (const [name, engine] of Object.entries({ device, processor })) {
    const own = engine.runMany.bind(engine);
    engine.runMany = (calls, queue) => {
      ran[name as keyof typeof ran].push(...calls.map(({ inputs }) => inputs.x?.shape[0] ?? 0));
      return own(calls, queue);
    };
  }
  return { backend: withProcessor(device, processor, { deviceBytes: copiesBytes, layers: 1, ...options }), device, ran };
}

const model = syntheticModel({ num_local_experts: 8 });
const { program, experts, expertSegment } = model;
const layers = program.layers.length;
const f32Bytes = async (): Promise<number> => {
  const { backend } = looseBackend();
  const bytes = backend.expertResidentBytes(expertSegment, formsAlike("f32")(expertSegment.weights));
  await backend.close();
  return bytes;
};

test("copies on the device stay within its bytes, go with their experts, and rows are dealt by their number", async () => {
  const bytes = await f32Bytes();
  const { backend, ran } = await engines(2 * bytes, { times });
  const slab = backend.createExpertSlab(expertSegment, experts, 0);
  const put = (expert: number) => slab.put(expert, model.expert(0, expert));
  const here = await Promise.all([0, 1, 2, 3].map(put));
  const run = async (rows: readonly number[], of = here): Promise<void> => {
    for (const each of Object.values(ran)) each.length = 0;
    const calls = of.map((program_, i) => ({ program: program_, inputs: { x: randomTensor(i, [rows[i]!, program.hidden]) } }));
    const got = (await backend.runMany(calls)).map(({ y }) => y!.data.slice() as Float32Array);
    for (const [i, { program: alone, inputs }] of calls.entries()) {
      const want = await backend.compile(expertSegment, model.expert(0, of === here ? i : 4));
      assert.ok(relativeError(got[i]!, (await want.run(inputs)).y!.data) <= tolerance, `call ${i}`);
      await want.dispose();
      assert.equal(alone.residentBytes > 0, true);
    }
  };
  await run([4, 1, 1, 1]);
  assert.deepEqual([ran.device.slice(0, 1), ran.processor.slice(0, 3)], [[4], [1, 1, 1]], "few rows to the processor, many to the device");
  await run([1, 4, 4, 4]);
  assert.deepEqual(ran.processor.slice(0, 2).sort(), [4, 4], "what the device does not have stays where it is");
  await here[0]!.dispose();
  await here[0]!.dispose();
  const late = await put(4);
  await run([4], [late]);
  assert.deepEqual(ran.device.slice(0, 1), [4], "room that an expert left is another's");
  for (const each of [...here, late]) await each.dispose();
  await backend.close();
});

test("copies go to the experts whose rows are most", async () => {
  const read = async (layer: number, expert: number) => model.expert(layer, expert);
  const { backend, ran } = await engines(2 * (await f32Bytes()), { times, read });
  const slab = backend.createExpertSlab(expertSegment, experts, 1);
  const here = await Promise.all([0, 1, 2, 3].map((expert) => slab.put(expert, model.expert(1, expert))));
  const calls = here.map((each, i) => ({ program: each, inputs: { x: randomTensor(i, [i < 2 ? 1 : 8, program.hidden]) } }));
  const rowsOf = async (): Promise<Float32Array[]> => (await backend.runMany(calls)).map(({ y }) => y!.data.slice() as Float32Array);
  const want = await rowsOf();
  assert.ok(ran.device.every((rows) => rows === 1));
  for (let i = 0; i < 500 && ran.device.slice(-2).join() !== "8,8"; i++) await rowsOf();
  assert.deepEqual(ran.device.slice(-2), [8, 8]);
  for (const [i, got] of (await rowsOf()).entries()) assert.ok(relativeError(got, want[i]!) <= tolerance);
  for (const each of here) await each.dispose();
  await backend.close();
});

test("room that is left goes to experts with rows, though the device had no memory for a trial at first", async () => {
  const read = async (layer: number, expert: number) => model.expert(layer, expert);
  const { backend, device } = await engines(3 * (await f32Bytes()), { read });
  const own = device.createExpertSlab.bind(device);
  const [trials, copies]: [number[], number[]] = [[], []];
  let room = false;
  device.createExpertSlab = (segment, count, layer) => {
    const slab = own(segment, count, layer);
    const put = slab.put.bind(slab);
    slab.put = async (...of) => {
      (count === experts ? copies : trials).push(count === experts ? of[0] : count);
      if (!room) throw new AppError("none", { code: "OutOfDeviceMemory" });
      return put(...of);
    };
    return slab;
  };
  const slab = backend.createExpertSlab(expertSegment, experts, 1);
  const here = [await slab.put(0, model.expert(1, 0)), await slab.put(1, model.expert(1, 1))];
  assert.deepEqual(trials, [2, 1, 2, 1], "of less, and with the next expert again");
  room = true;
  const calls = here.map((program_) => ({ program: program_, inputs: { x: randomTensor(1, [4, program.hidden]) } }));
  for (let i = 0; i < 500 && copies.length < 2; i++) await backend.runMany(calls);
  assert.deepEqual(copies.sort(), [0, 1]);
  for (const each of here) await each.dispose();
  await backend.close();
});

test("device memory below a step of each layer is refused with what is enough", async () => {
  const bytes = await f32Bytes();
  const { backend } = looseBackend();
  const formsOf = () => formsAlike("f32")(expertSegment.weights);
  const check = (deviceBytes: number) => checkCopies(backend, program.layers, { deviceBytes, formsOf });
  check(layers * bytes);
  assert.throws(() => check(layers * bytes - 1), /deviceExpertMemory .* in any of \d+ layers: raise it to at least /);
  await backend.close();
});

test("measured with its first expert, two engines give the rows of one", async () => {
  const { backend } = await engines(3 * (await f32Bytes()));
  const slab = backend.createExpertSlab(expertSegment, experts, 0);
  for (const expert of [0, 1, 2, 3, 4]) {
    const program_ = await slab.put(expert, model.expert(1, expert));
    const want = await backend.compile(expertSegment, model.expert(1, expert));
    for (const rows of [1, 7, 64]) {
      const inputs = { x: randomTensor(rows, [rows, program.hidden]) };
      assert.ok(relativeError((await program_.run(inputs)).y!.data, (await want.run(inputs)).y!.data) <= tolerance);
    }
    await want.dispose();
  }
  await backend.close();
});

test("a rank whose device has half of the experts passes its layers as one whose device has all", async () => {
  const all = experts * layers * (await f32Bytes());
  const shares = [2, 0.5, 0];
  const opened = await Promise.all(shares.map((share) => engines(share * all, { layers, times })));
  after(() => Promise.all(opened.map(({ backend }) => backend.close())));
  const ranks = await Promise.all(opened.map(({ backend }) => stepsOverRanks({ backend, model, isHere: () => true, context: 64 })));
  for (const [i, rank] of ranks.entries()) {
    const whole = shares[i] === 2;
    assert.equal(rank.ranges.range.covers(0), whole);
    assert.equal(rank.ranges.range.holds?.(0, 4), whole, "rows stay on the device where it has all");
  }
  const steps = [
    { tokens: [5, 17, 91, 42, 9, 4, 30], groups: [{ firstSlot: 0, batch: 1, tokens: 7, past: Int32Array.of(0) }], decodes: 0 },
    { tokens: [11], groups: [{ firstSlot: 0, batch: 1, tokens: 1, past: Int32Array.of(7) }], decodes: 1 },
  ];
  for (const { tokens, groups, decodes } of steps) {
    const rows = [];
    for (const { step } of ranks) rows.push((await step(tokens, groups, decodes)).slice());
    for (const each of rows) assert.ok(relativeError(each, rows[0]!) <= 10 * tolerance, `${relativeError(each, rows[0]!)}`);
  }
  const [whole, half, none] = opened.map(({ ran }) => ran);
  assert.deepEqual(whole, { device: [], processor: [] }, "layers that the device has are graphs of their own");
  assert.ok(half!.device.length > 0 && half!.processor.length > 0);
  assert.equal(none!.device.length, 0);
});
