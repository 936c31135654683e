// A device that is full, or fails within a copy: experts lie apart, layers are computed one by one, and what was there stays as it was.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { syntheticModel } from "../../../test/kit/models/synthetic.ts";
import { randomTensor } from "../../kernels/random.ts";
import type { MoeLayer } from "../../kernels/segment.ts";
import { CpuDevice, type GgmlDevice } from "./device.ts";
import { Experts } from "./gpu-experts.ts";
import { createGgmlKv } from "./kv.ts";
import { forTrialCalls } from "./open-checks.ts";
import { DenseProgram } from "./program.ts";
import { GgmlRange } from "./range.ts";

const model = syntheticModel({ num_local_experts: 16 });
const layer = model.program.layers[0] as MoeLayer;
const { expert: segment, experts } = layer;
const x = { x: randomTensor(3, [2, model.program.hidden]) };

/** Bytes of the largest part of an expert: gate and up are one matrix on the processor. */
const partBytes = 2 * 96 * 64 * 4;

/** Refuses allocations of more bytes than `most`, and counts what was given and what was refused. */
function limit(device: GgmlDevice): { most: number; given: number; refused: number } {
  const state = { most: Number.POSITIVE_INFINITY, given: 0, refused: 0 };
  const allocate = device.allocate.bind(device);
  const limited: GgmlDevice["allocate"] = (bytes, memory) => {
    if (bytes > state.most) {
      state.refused += 1;
      throw new AppError("full", { code: "OutOfDeviceMemory" });
    }
    state.given += bytes;
    return allocate(bytes, memory);
  };
  Object.assign(device, { allocate: limited });
  return state;
}

const rowsOf = async (placed: Iterable<{ run: (inputs: typeof x) => Promise<any> }>): Promise<Float32Array[]> => {
  const rows: Float32Array[] = [];
  for (const each of placed) rows.push((await each.run(x)).y.data.slice());
  return rows;
};

test("an expert for which a slab cannot grow lies apart, and so does the first where two slots have no room", async () => {
  const device = new CpuDevice({ threads: 1 });
  const state = limit(device);
  const [growing, whole] = [new Experts(device).expertSlab(segment, experts), new Experts(device).expertSlab(segment, experts)];
  const want = await rowsOf(Array.from({ length: experts }, (_, e) => whole.place(e, model.expert(0, e))));
  state.most = 1.5 * partBytes;
  const placed = [growing.place(0, model.expert(0, 0))];
  assert.ok(state.refused > 0);
  state.most = 6.5 * partBytes;
  for (let e = 1; e < experts; e++) placed.push(growing.place(e, model.expert(0, e)));
  assert.equal(growing.slab.slots, 6);
  assert.equal(growing.whole, undefined);
  assert.deepEqual(await rowsOf(placed), want);
  state.most = 0.5 * partBytes;
  const one = new Experts(device).expertSlab(segment, 1);
  assert.throws(() => one.place(0, model.expert(0, 0)), { code: "OutOfDeviceMemory" });
  for (const each of placed) await each.dispose();
  device.close();
});

test("a copy to a larger slab that fails leaves the smaller one as it was", async () => {
  const device = new CpuDevice({ threads: 1 });
  const expertSlab = new Experts(device).expertSlab(segment, experts);
  const placed = [expertSlab.place(9, model.expert(0, 9)), expertSlab.place(4, model.expert(0, 4))];
  const [want, slab] = [await rowsOf(placed), expertSlab.slab];
  const { ggml } = device;
  let copies = 0;
  const failing = (...args: readonly [bigint, bigint]): undefined => {
    copies += 1;
    if (copies > 3) throw new Error("a copy that fails");
    return ggml.ggml_backend_tensor_copy(...args);
  };
  Object.assign(device, { ggml: { ...ggml, ggml_backend_tensor_copy: failing } });
  assert.throws(() => expertSlab.place(1, model.expert(0, 1)), /a copy that fails/);
  Object.assign(device, { ggml });
  assert.equal(expertSlab.slab, slab);
  assert.deepEqual(await rowsOf(placed), want);
  placed.push(expertSlab.place(1, model.expert(0, 1)));
  assert.deepEqual((await rowsOf(placed)).slice(0, 2), want);
  device.close();
});

test("a full device computes layer by layer and holds what it has memory for, and is asked again when the experts lie elsewhere", async () => {
  const device = Object.assign(new CpuDevice({ threads: 1, pages: false }), { exact: false });
  const state = limit(device);
  const expertSlab = new Experts(device).expertSlab(segment, experts);
  const placed = Array.from({ length: experts }, (_, e) => expertSlab.place(e, model.expert(0, e)));
  const block = new DenseProgram(device, layer.block, model.weights(layer.block), { bits: 32 });
  const range = new GgmlRange(device, [{ layer, block, expertSlab }]);
  const cache = createGgmlKv(device, { ...model.program, layers: 1, slots: 1, context: 64, type: "f32" });
  const hold = (rows: number) => range.hold(rows, model.program.hidden);
  for (const held of [hold(64), hold(4)]) held?.free();
  state.most = 0;
  const [few, many] = [hold(2), hold(64)];
  few?.free();
  assert.ok(many && hold(65) === undefined && hold(2), "memory that fits is found, and stays where no more is to be had");
  const call = { cache, groups: [{ firstSlot: 0, batch: 1, tokens: 64, past: Int32Array.of(0) }] };
  assert.equal(many.choose(0, call, { x: new Float32Array(64 * model.program.hidden) }), undefined);
  const holds = (): boolean[] => [64, 2].map((rows) => range.holds(0, rows));
  assert.deepEqual(holds(), [false, true]);
  assert.equal(range.covers(0), false);
  const { refused } = state;
  assert.ok(refused > 0);
  state.most = Number.POSITIVE_INFINITY;
  assert.equal(range.covers(0), false, "it is not asked at every step");
  assert.deepEqual(holds(), [false, false]);
  for (const each of placed) await each.dispose();
  for (let e = 0; e < experts; e++) expertSlab.place(e, model.expert(0, e));
  assert.equal(range.covers(0), true);
  assert.deepEqual(holds(), [true, true]);
  state.most = 0;
  assert.equal(range.covers(0), true, "what is known for good is not asked again");
  device.close();
});

test("trial calls take the memory of one layer's cache, whichever layer it is", () => {
  const device = new CpuDevice({ threads: 1, pages: false });
  const state = limit(device);
  const taken = [0, 60].map((at) => {
    const ops = layer.block.ops.map((op) => (op.op === "attention" ? Object.assign({}, op, { layer: at }) : op));
    state.given = 0;
    let calls = 0;
    forTrialCalls(device, { ...layer.block, ops }, (_rows, call) => {
      calls += 1;
      assert.ok((call!.cache as any).layers[at]);
    });
    assert.equal(calls, 2);
    return state.given;
  });
  assert.ok(taken[0]! > 0);
  assert.equal(taken[1], taken[0]);
  device.close();
});

test("a kept row is read of the last run alone, while its memory is where it was", async () => {
  const device = new CpuDevice({ threads: 1 });
  const { head } = model.program;
  const kept = { ...head, outputs: head.outputs.map((output) => ({ ...output, kept: true as const })) };
  const program = new DenseProgram(device, kept, model.weights(head), { bits: 32 });
  const { name } = head.outputs[0]!;
  await program.run(x);
  const rows = [0, 1].map((row) => program.keptRow(name, row));
  assert.notDeepEqual(rows[0], rows[1]);
  for (const row of [-1, 2, Number.NaN]) assert.throws(() => program.keptRow(name, row), /row .* is read, the run had 2/);
  program.tryOut(2, undefined);
  assert.deepEqual(program.keptRow(name, 1), rows[1], "a graph that moves nothing spoils nothing");
  device.scratch(2 * device.scratchBytes);
  assert.throws(() => program.keptRow(name, 0), /after another run/);
  await program.run(x);
  assert.deepEqual(program.keptRow(name, 1), rows[1]);
  await program.dispose();
  assert.throws(() => program.keptRow(name, 0), /after another run/);
  device.close();
});
