// The oracle sees what it claims to see: a cluster at rest is tampered with, and it says so; left alone it says nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LayerPlacement } from "../../crds/plan.ts";
import { SimCluster } from "./cluster.ts";

const [layer, expert] = [1, 2];

/** A cluster with a committed plan, the one host of an expert, and an expert replica of that expert for any rank that asks. */
async function atRest() {
  const sim = new SimCluster();
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()));
  await sim.clock.run(15_000);
  assert.deepEqual(sim.faults(), []);
  const placement = sim.plan()?.layers[layer] as LayerPlacement;
  const host = sim.worker(placement.hosts[expert]?.[0] as number);
  return { sim, host, key: host.key(layer, expert), placement };
}

/** The oracle's words within the next seconds, of the expert or of the rank. */
async function said(sim: SimCluster): Promise<string> {
  await sim.clock.run(2_000);
  return sim.faults().join("; ");
}

test("bytes that are not the declared ones are seen when they serve", async () => {
  const { sim, host, key } = await atRest();
  host.memory.set(key, 1);
  assert.match(await said(sim), /rank \d served a frame for 1\/2 of rank \d at epoch 1 from wrong bytes/);
});

test("a token that wrong bytes have served is seen at its source, though no other promise is looked at", async () => {
  const { sim, host, key } = await atRest();
  host.memory.set(key, 1);
  sim.oracle.onMessage = (message) => message;
  assert.match(await said(sim), /rank \d made a token from wrong bytes: a row of 1\/2 was not computed from the declared bytes/);
});

test("a step that does not end is seen", async () => {
  const { sim, host } = await atRest();
  sim.oracle.onStep(host, "begun", "");
  sim.oracle.onStep = () => {};
  await sim.clock.run(5 * 32_000);
  assert.match(sim.faults().join("; "), /a step of rank \d has not ended for 1\d+ ms/);
});

test("a layer that goes back to an older epoch is seen", async () => {
  const { sim, host } = await atRest();
  sim.oracle.onAdopt(host, [layer]);
  assert.match(sim.faults().join("; "), /rank \d went from epoch 1 of layer 1 to 1/);
});

test("bytes that are not the declared ones are seen when they are taken", async () => {
  const { sim, host, key } = await atRest();
  host.memory.set(key, 1);
  sim.oracle.onMemory(host, layer, expert);
  assert.match(sim.faults().join("; "), /took wrong bytes for 1\/2/);
});

test("an expert that has gone from its host, and with it its last expert replica, is seen at the next frame", async () => {
  const { sim, host, key } = await atRest();
  host.memory.delete(key);
  const text = await said(sim);
  assert.match(text, /lacks the expert of a frame for 1\/2/);
  assert.match(text, /expert 1\/2 has no expert replica left/);
});

test("a dead host is no broken promise: its experts come from the store", async () => {
  const { sim, host } = await atRest();
  host.crash(1_000);
  assert.equal(await said(sim), "");
});

test("memory beyond the budget is seen at the load that exceeds it", async () => {
  const { sim, host } = await atRest();
  for (let key = 0; host.hostedBytes <= sim.shape.budgetBytes; key++) host.memory.set(1_000 + key, 1);
  sim.oracle.onMemory(host, layer, expert);
  assert.match(sim.faults().join("; "), /holds 2500 bytes and counts \d+, its budget is 2400/);
});

test("an expert replica that goes while a source still routes to it is seen, and so is an epoch written twice", async () => {
  const { sim, host, placement } = await atRest();
  const hosts = placement.hosts.with(expert, [(host.rank + 1) % 3]);
  const plan = { ...host.state.snapshot()!, epoch: 2, planHash: "next", layers: [{ ...placement, hosts, epoch: 2 }] };
  host.state.prepare(plan);
  host.state.ready(layer, 2);
  host.state.commit(plan);
  sim.oracle.onFree(host, layer, expert);
  assert.match(sim.faults().join("; "), /rank \d freed 1\/2 while rank \d routes to it at epoch 1/);
  sim.oracle.onWrite(1);
  assert.match(sim.faults().at(-1) ?? "", /epoch 1 was written after 1/);
});
