// A model whose layers lie on several devices: bit for bit what one device computes, with the same memory in all, and each device has only
// its layers. Two devices of the processor stand for those of a pod, since nothing here knows which kind they are.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { kvOf, loadModel } from "../../test/kit/models/small-engine.ts";
import { syntheticModel } from "../../test/kit/models/synthetic.ts";
import type { Backend, KvCache } from "./backend.ts";
import { firstLayerOf, overDevices } from "./device-split.ts";
import { openDevices } from "./index.ts";

const layers = 5;
const model = syntheticModel({ num_hidden_layers: layers });
const context = 64;
const opened = async (devices: number, name: "cpu" | "reference" = "cpu"): Promise<Backend> =>
  overDevices(await openDevices(name, { threads: 1 }, devices), layers);

test("devices share all layers, none more than one layer above another's", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 0, max: 100 }), (devices, more) => {
      const of = devices + more;
      const first = Array.from({ length: devices + 1 }, (_, i) => firstLayerOf(i, of, devices));
      const shares = first.slice(1).map((next, i) => next - (first[i] as number));
      assert.deepEqual([first[0], first[devices]], [0, of]);
      assert.ok(Math.min(...shares) >= 1 && Math.max(...shares) - Math.min(...shares) <= 1, `${shares}`);
    }),
  );
});

for (const name of ["cpu", "reference"] as const) {
  test(`${name}: a prefill, decodes, a range of all layers and a copied slot have the bits of one device`, async () => {
    const logits: Float32Array[][] = [];
    const bytes: number[] = [];
    const stored: Uint8Array[] = [];
    for (const devices of [1, 2, 3]) {
      const backend = await opened(devices, name);
      const loaded = await loadModel(backend, model, { context, slots: 2 });
      const rows = [await loaded.forward([1, 2, 3, 4, 5], 0), await loaded.forward([6], 5)];
      await loaded.kv.copySlot(0, 1, 6);
      rows.push(await loaded.forward([7], 6, 1));
      await loaded.kv.moveSlot(1, 0, 7);
      stored.push(loaded.kv.readRows(0, 0, 7));
      loaded.kv.writeRows(1, 0, loaded.kv.readRows(0, 0, 7));
      rows.push(await loaded.forward([8], 7, 1));
      loaded.kv.trimSlot(1, 0);
      rows.push(await loaded.forward([8], 7, 0));
      const groups = [{ firstSlot: 0, batch: 1, tokens: 1, past: Int32Array.of(8) }];
      assert.ok(Array.from({ length: layers }, (_, layer) => loaded.range.covers(layer)).every(Boolean));
      assert.equal(loaded.range.covers(layers), false);
      const atOnce = await loaded.step([9], groups, "range");
      rows.push(atOnce);
      assert.deepEqual(atOnce, await loaded.step([9], groups, "layers"), "a range that begins on one device and ends on another");
      assert.equal(loaded.routes.filter((ids) => ids.length === 2).length, layers);
      logits.push(rows);
      bytes.push(loaded.kv.bytes);
      await loaded.dispose();
      await backend.close();
    }
    assert.deepEqual(logits[1], logits[0]);
    assert.deepEqual(logits[2], logits[0]);
    assert.deepEqual(stored.slice(1), [stored[0], stored[0]]);
    assert.equal(new Set(bytes).size, 1, `KV memory of ${bytes}`);
  });
}

test("each device is asked for its own layers alone, whole in one call or expert by expert", async () => {
  const asked: string[] = [];
  const spied = (id: number, inner: Backend): Backend =>
    new Proxy(inner, {
      get: (of, key) => {
        if (key === "compile")
          return async (...args: Parameters<Backend["compile"]>) => {
            const attention = args[0].ops.find((op) => op.op === "attention");
            if (attention) asked.push(`device ${id} layer ${args[2]} as ${attention.layer}`);
            return of.compile(...args);
          };
        if (key === "createKv")
          return (spec: Parameters<Backend["createKv"]>[0]): Promise<KvCache> => {
            asked.push(`device ${id} KV of ${spec.layers}`);
            return of.createKv(spec);
          };
        const value = of[key as keyof Backend];
        return typeof value === "function" ? value.bind(of) : value;
      },
    });
  const backend = overDevices([spied(0, await opened(1)), spied(1, await opened(1))], layers);
  assert.match(backend.device, /^2 devices: cpu/);
  assert.equal(backend.numericClass, "exact");
  const loaded = await loadModel(backend, model, { context });
  const compiled = ["device 0 layer 0 as 0", "device 0 layer 1 as 1", "device 0 layer 2 as 2", "device 1 layer 3 as 0"];
  assert.deepEqual(asked, [...compiled, "device 1 layer 4 as 1", "device 0 KV of 3", "device 1 KV of 2"]);
  const input = { x: { shape: [1, model.program.hidden], data: new Float32Array(model.program.hidden).fill(0.1) } };
  const experts = await Promise.all([4, 0, 3].map((layer) => backend.compile(model.expertSegment, model.expert(layer, 1), layer)));
  const together = await backend.runMany(experts.map((program) => ({ program, inputs: input })));
  const rows = together.map(({ y }) => y?.data.slice());
  for (const [i, expert] of experts.entries()) assert.deepEqual((await expert.run(input)).y?.data, rows[i], "in the order of the calls");
  assert.notDeepEqual(rows[0], rows[1]);
  for (const expert of experts) await expert.dispose();
  await loaded.dispose();
  await backend.close();
});

test("more devices than layers are refused, and what was opened is closed", async () => {
  await assert.rejects(opened(layers + 1), /devices: 6 for a model of 5 layers; set spec.runtime.devices to at most 5/);
});

test("KV memory that one device refuses leaves none on the others", async () => {
  const freed: string[] = [];
  const kv = { dispose: async () => void freed.push("first") } as unknown as KvCache;
  const device = (createKv: () => Promise<KvCache>) => ({ kvTypes: [], device: "d", createKv }) as unknown as Backend;
  const backend = overDevices([device(async () => kv), device(() => Promise.reject(new Error("full")))], layers);
  await assert.rejects(backend.createKv({ ...kvOf(model.program), slots: 1, context }), /full/);
  assert.deepEqual(freed, ["first"]);
});
