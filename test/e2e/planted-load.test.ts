// The premises of e2e files with a planted load: the planner follows load that turns against its placement, by moves of many
// experts, and is content then. Seen in the simulation, with the model's sizes.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MessageOrder } from "../../crds/telemetry-order.ts";
import { diffPlans } from "../../runtime/placement/diff.ts";
import { SimCluster } from "../sim/cluster.ts";
import { everyMs, loadAgainst, Voices } from "./planted-load.ts";

const layers = 30;
const experts = 8;
const residentBytes = Math.round((342 * 2 ** 20) / (layers * experts));

/** Experts that any plan of that time newly places; a window of both skews may give a plan of its own. */
async function movedWithin(sim: SimCluster, ms: number): Promise<ReadonlySet<string>> {
  const moved = new Set<string>();
  const ends = sim.clock.now() + ms;
  for (let before = sim.plan(); sim.clock.now() < ends; before = sim.plan()) {
    await sim.clock.run(200);
    const after = sim.plan();
    if (!before || !after || before.epoch === after.epoch) continue;
    for (const { layer, expert } of diffPlans(before.layers, after.layers, () => 0).moves) moved.add(`${layer}.${expert}`);
  }
  return moved;
}

for (const { layersTurned, least } of [
  { layersTurned: layers, least: 30 },
  { layersTurned: 10, least: 10 },
]) {
  test(`load that turns against the placement in ${layersTurned} layers is followed within seconds, and then nothing moves`, async () => {
    const sim = new SimCluster({
      ranks: 3,
      shape: { layers, experts, bytes: residentBytes, storedBytes: 256, budgetBytes: 160 * 2 ** 20 },
      spec: {
        rebalancing: {
          interval: "1s",
          trigger: { imbalancePercent: 150, window: "2s", minTokens: 1000 },
          budget: { maxMoves: 1000 },
        },
      },
    });
    let counts = loadAgainst([], 0, { layers, experts, layersTurned });
    sim.demand = (layer) => [...counts.slice(layer * experts, (layer + 1) * experts)];
    sim.startOperator();
    await sim.clock.run(60_000);
    for (const turn of [1, 2, 3]) {
      const before = sim.plan();
      assert.ok(before);
      counts = loadAgainst(before.layers, turn, { layers, experts, layersTurned });
      const moved = await movedWithin(sim, 30_000);
      const after = sim.plan();
      assert.notEqual(after?.epoch, before.epoch, "a plan follows");
      assert.ok(moved.size >= least, `${moved.size} experts moved`);
      await sim.clock.run(60_000);
      assert.equal(sim.plan()?.epoch, after?.epoch, "load that was followed moves nothing");
    }
    assert.deepEqual(sim.faults(), []);
  });
}

test("what is planted in the name of a worker is taken, and what the worker says meanwhile is not", () => {
  const voices = new Voices();
  let order = new MessageOrder();
  const ownEveryMs = 667;
  const taken = { own: 0, planted: 0 };
  let seq = 40;
  let spokeUntil = 0;
  // The planter hears each message after the operator.
  const send = (who: keyof typeof taken, message: ReturnType<Voices["next"]>[number], phase: "prefill" | "decode") => {
    if (order.take({ ...message, phase }) === undefined) taken[who]++;
    voices.hear(message, message.windowEnd);
  };
  for (let now = 1; now < 60_000; now++) {
    if (now === 20_001) order = new MessageOrder(); // an operator that begins, and hears the worker first
    if (now % ownEveryMs === 0) {
      for (const phase of ["prefill", "decode"] as const)
        send("own", { rank: 0, bootId: "b", seq: ++seq, windowStart: spokeUntil, windowEnd: now }, phase);
      spokeUntil = now;
    }
    // Silence, as before another skew, lets the worker's own be taken again.
    if (now % everyMs === 0 && !(now > 30_000 && now < 33_000)) for (const message of voices.next(now)) send("planted", message, "decode");
  }
  assert.ok(taken.planted >= 55, `${taken.planted} planted messages were taken`);
  assert.ok(taken.own <= 12, `${taken.own} of the worker's own were taken`);
  assert.deepEqual(voices.next(70_000), [], "a process that is gone is not spoken for");
});
