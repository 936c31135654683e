// Deployments share a connection to NATS, and a loop says when it has none.
import assert from "node:assert/strict";
import { test } from "node:test";
import { SimCluster } from "../../../test/sim/cluster.ts";
import type { LoadBus, LoadBusOptions } from "../ports.ts";
import { Telemetry } from "./telemetry.ts";

function played() {
  const opened: LoadBusOptions[] = [];
  const status = { connected: true, reason: "Connected" };
  let closed = 0;
  const open = (options: LoadBusOptions): LoadBus => {
    opened.push(options);
    return {
      status,
      subscribe: () => () => {},
      close: async () => {
        closed += 1;
      },
    };
  };
  return { telemetry: new Telemetry(open, () => {}), opened, status, closed: () => closed };
}

test("deployments share a bus of one server and one Secret, and it goes with the last of them", () => {
  const { telemetry, opened, status, closed } = played();
  const url = "nats://n:4222";
  assert.equal(telemetry.connected, false, "nothing is wanted");
  const subscribe = (name: string, secret: LoadBusOptions["secret"]) =>
    telemetry.subscribe({ namespace: "ns", name }, "enodia", { url, secret }, () => {});
  const users = [subscribe("a", { namespace: "ns", name: "creds" }), subscribe("b", { namespace: "ns", name: "creds" })];
  subscribe("c", { namespace: "other", name: "creds" });
  subscribe("d", undefined);
  assert.equal(opened.length, 3);
  assert.equal(telemetry.connected, true);
  status.connected = false;
  assert.equal(telemetry.connected, false);
  for (const user of users) user.close();
  assert.equal(closed(), 1);
});

test("credentials that are missing hold up no plan, and are the reason of TelemetryFresh", async () => {
  const sim = new SimCluster({ spec: { telemetry: { nats: { url: "nats://sim:4222", credentialsSecretRef: { name: "creds" } } } } });
  const message = "Secret creds is missing";
  Object.assign(sim.nats.status, { connected: false, reason: "CredentialsNotFound", message });
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()), "the first plan needs no telemetry");
  await sim.clock.run(1_000);
  const said = sim.loop?.view()?.telemetryFresh;
  assert.deepEqual(said, { status: "False", reason: "CredentialsNotFound", message: `NATS: ${message}` });
});
