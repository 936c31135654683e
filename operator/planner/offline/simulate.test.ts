import assert from "node:assert/strict";
import { test } from "node:test";
import { peers } from "../../../test/peers/index.ts";
import { policies } from "../index.ts";
import type { PlacementPolicy } from "../policy.ts";
import { type SimulateOptions, simulate, summarise, type WindowResult } from "./simulate.ts";
import { generateTrace, presets } from "./traces-generate.ts";

const trace = generateTrace("t", { ...presets.qwen3_48x128, layers: 4, windows: 5 }, 4);
const known = { ...policies, ...peers };
const now = (): number => 0;
const run = (options: Partial<SimulateOptions>): Promise<WindowResult[]> =>
  simulate({ trace, policy: policies.incremental, ranks: 16, slots: 9, now, ...options });

test("the first windows of a trace give what a trace cut after them gives: the last plan is not scored", async () => {
  const cut = { ...trace, windows: 3, counts: trace.counts.slice(0, 3 * trace.layers * trace.experts) };
  const first = await run({ windows: 3 });
  assert.deepEqual(first, await run({ trace: cut }));
  assert.deepEqual(
    first.map((result) => result.next !== undefined),
    [true, true, false],
  );
});

test("one window scores nothing: no balance and no bound are known", async () => {
  const all = summarise(await run({ windows: 1 }));
  for (const figure of [all.balance.optimal, all.balance.fixed, all.bound, all.worst, all.meanWorst]) assert.ok(Number.isNaN(figure));
  assert.equal(all.expertReplicas, 0);
});

for (const name of ["uniform", "incremental", "hecate", "eplb", "fastermoe", "smartmoe"] as const) {
  test(`${name}: slots over all layers hold, whatever is left over by an even division`, async () => {
    const on = new Set<number>();
    for (const slotsTotal of [32, 35, 47]) {
      await run({
        policy: known[name],
        slotsTotal,
        windows: 3,
        onWindow: (_, layers) => {
          for (let g = 0; g < 16; g++) on.add(layers.reduce((n, layer) => n + layer.hosts.filter((row) => row.includes(g)).length, 0));
          assert.ok(Math.max(...on) <= slotsTotal, `${Math.max(...on)} of ${slotsTotal}`);
        },
      });
    }
  });
}

test("memory that holds no equal number of experts per rank and layer leaves EPLB with what fits", async () => {
  // 5 ranks need 26 slots a layer to hold 128 experts evenly; in all they hold them.
  for (const name of ["eplb", "smartmoe"] as const) {
    const [first] = await run({ policy: known[name], ranks: 5, slotsTotal: 103, windows: 1 });
    assert.match(first?.reason ?? "", /does not fit the memory: primaries stay/, name);
  }
});

test("experts that a layer lacks are not placed, take no memory and count nothing", async () => {
  // A dense layer, and one with few experts.
  const layerExperts = [0, 128, 5, 128];
  const counts = trace.counts.map((count, i) => (i % 128 < (layerExperts[Math.floor(i / 128) % 4] ?? 0) ? count : 0));
  const lone = {
    ...trace,
    layers: 1,
    counts: Uint32Array.from({ length: 5 * 128 }, (_, i) => counts[(Math.floor(i / 128) * 4 + 1) * 128 + (i % 128)] ?? 0),
  };
  const first = { ...trace, layerExperts: [0, 128, 0, 0], counts: counts.map((count, i) => (Math.floor(i / 128) % 4 === 1 ? count : 0)) };
  for (const name of ["uniform", "incremental", "hecate", "eplb"] as const) {
    const policy = known[name];
    const placed = new Set<string>();
    const onWindow: SimulateOptions["onWindow"] = (_, layers) => void placed.add(layers.map(({ hosts }) => hosts.length).join());
    // 17 slots a rank hold the 261 experts that there are, and not the 512 cells.
    const results = await simulate({ trace: { ...trace, layerExperts, counts }, policy, ranks: 16, slotsTotal: 17, now, onWindow });
    assert.deepEqual([...placed], [layerExperts.join()], name);
    assert.ok(results[0]?.next && results[0].next.optimal.balance > 0 && results[0].next.optimal.balance <= 1, name);
  }
  const figures = async (of: typeof trace) => (await run({ policy: peers.uniform, trace: of })).map(({ next, bound }) => [next, bound]);
  assert.deepEqual(await figures(first), await figures(lone));
});

test("a policy may be given the last window as it was", async () => {
  const load: Float64Array[] = [];
  const policy: PlacementPolicy = {
    ...peers.uniform,
    plan: (input) => {
      load.push(input.load);
      return peers.uniform.plan(input);
    },
  };
  await run({ policy, forecast: "last" });
  assert.deepEqual(Array.from(load[2] ?? []), Array.from(trace.counts.subarray(2 * 512, 3 * 512)));
});
