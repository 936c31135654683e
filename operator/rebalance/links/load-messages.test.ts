// Deployments share a connection to NATS, a loop says when it has none, and what others publish in a rank's name counts nothing.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { test } from "node:test";
import { telemetryKey } from "../../../test/kit/ranks/telemetry-keys.ts";
import { SimCluster } from "../../../test/sim/cluster.ts";
import type { LoadBus, LoadBusOptions, PodStatus } from "../ports.ts";
import { sharedBytes, Telemetry } from "./load-messages.ts";
import { SignalWindows } from "./signals.ts";

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
  return { telemetry: new Telemetry(open), opened, status, closed: () => closed };
}

test("deployments share a bus of one server and one Secret, and it goes with the last of them", () => {
  const { telemetry, opened, status, closed } = played();
  const url = "nats://n:4222";
  assert.equal(telemetry.connected, false, "nothing is wanted");
  const subscribe = (name: string, credentials: LoadBusOptions["credentials"]) =>
    telemetry.subscribe(
      { namespace: "ns", name },
      "enodia",
      { url, credentials },
      { keys: () => undefined, unwanted: () => undefined, take: () => {}, refused: () => {} },
    );
  const users = [subscribe("a", { namespace: "ns", name: "creds" }), subscribe("b", { namespace: "ns", name: "creds" })];
  subscribe("c", { namespace: "other", name: "creds" });
  subscribe("d", undefined);
  subscribe("e", "operator");
  assert.equal(opened.length, 4);
  assert.equal(telemetry.connected, true);
  status.connected = false;
  assert.equal(telemetry.connected, false);
  for (const user of users) user.close();
  assert.equal(closed(), 1);
});

test("credentials that are missing hold up no plan, and are named while load comes on Control", async () => {
  const sim = new SimCluster({ spec: { telemetry: { nats: { url: "nats://sim:4222", credentialsSecretRef: { name: "creds" } } } } });
  const message = "Secret creds is missing";
  Object.assign(sim.nats.status, { connected: false, reason: "CredentialsNotFound", message });
  sim.startOperator();
  assert.ok(await sim.clock.run(30_000, () => sim.converged()), "the first plan needs no telemetry");
  sim.silent = true;
  await sim.clock.run(60_000);
  const silent = `no load message within 30000 ms; NATS: ${message}`;
  assert.deepEqual(fresh(sim), { status: "False", reason: "CredentialsNotFound", message: silent });
  sim.silent = false;
  await sim.clock.run(10_000);
  const heardOnControl = `all 3 ranks have reported load within 30 s, 3 of them on Control: NATS: ${message}`;
  assert.deepEqual(fresh(sim), { status: "True", reason: "FreshOnControl", message: heardOnControl });
});

/** A simulated cluster that serves and is heard, and the next message that one of its ranks publishes. */
async function heard(sim = new SimCluster()) {
  sim.startOperator();
  assert.ok(await sim.clock.run(60_000, () => sim.converged() && fresh(sim)?.reason === "Fresh"));
  const messages: { readonly subject: string; readonly text: string }[] = [];
  const spy = sim.nats.open(undefined);
  spy.subscribe("enodia.>", (bytes, subject) => void messages.push({ subject, text: Buffer.from(bytes).toString() }));
  assert.ok(await sim.clock.run(5_000, () => messages.length > 0));
  await spy.close();
  const [message] = messages;
  assert.ok(message);
  const at = message.text.indexOf("{");
  const changed = (fields: object): string =>
    message.text.slice(0, at) + JSON.stringify({ ...JSON.parse(message.text.slice(at)), ...fields });
  return { sim, ...message, changed, publish: (text: string) => sim.nats.publisher().publish(message.subject, text) };
}
const fresh = (sim: SimCluster) => sim.loop?.view()?.telemetryFresh;
const reasons = (sim: SimCluster) => sim.counted("enodia_telemetry_dropped_total").map(({ reason }) => reason);

test("a copy of a load message with the greatest seq there is mutes nobody", async () => {
  const { sim, changed, publish } = await heard();
  publish(changed({ seq: Number.MAX_SAFE_INTEGER }));
  await sim.clock.run(120_000);
  assert.equal(fresh(sim)?.reason, "Fresh");
  assert.deepEqual(reasons(sim), ["bad_signature"]);
});

test("a message without a signature, and a genuine one that comes again, are refused and counted with the reason", async () => {
  const { sim, text, changed, publish } = await heard();
  publish(changed({}).slice(text.indexOf("{")));
  publish(text);
  publish("x".repeat(2 ** 20 + 1));
  assert.deepEqual(reasons(sim), ["unsigned", "duplicate", "too_large"]);
});

test("the order of a message is looked at before its signature, and a flood costs no more signatures than a few seconds of messages do", async (t) => {
  const { sim, changed, publish } = await heard();
  const hmac = t.mock.method(crypto, "createHmac").mock;
  syncBuiltinESMExports();
  publish(changed({ seq: 1 }));
  publish(changed({ rank: 9 }));
  publish(changed({ bootId: "gone" }));
  assert.deepEqual([reasons(sim), hmac.callCount()], [["duplicate", "unknown_deployment", "stale_boot"], 0]);
  for (let i = 0; i < 10_000; i++) publish(changed({ seq: 1_000_000 + i }));
  assert.ok(hmac.callCount() > 0 && hmac.callCount() < 1_000, `${hmac.callCount()} signatures for 10,000 messages`);
  assert.deepEqual(new Set(reasons(sim).slice(3)), new Set(["bad_signature", "rate"]));
  hmac.restore();
  syncBuiltinESMExports();
  await sim.clock.run(120_000);
  assert.equal(fresh(sim)?.reason, "Fresh");
});

test("without a key nothing is believed, the condition says why, and serving and its plan stay; with a key all is well again", async () => {
  const { sim } = await heard();
  const plan = sim.plan();
  sim.telemetryKeys = [];
  await sim.clock.run(60_000);
  assert.deepEqual(fresh(sim), {
    ...{ status: "False", reason: "SigningKeyMissing" },
    message: "load messages are refused: Secret sim-telemetry is not there yet",
  });
  assert.deepEqual([sim.plan()?.epoch, sim.faults()], [plan?.epoch, []]);
  sim.telemetryKeys = [telemetryKey(2)];
  assert.ok(await sim.clock.run(60_000, () => fresh(sim)?.reason === "Fresh"));
});

test("a rotated key is taken beside the one before it", async () => {
  const { sim, text, publish } = await heard();
  const before = reasons(sim).length;
  sim.telemetryKeys = [telemetryKey(2), telemetryKey(1)];
  publish(text);
  await sim.clock.run(60_000);
  assert.equal(fresh(sim)?.reason, "Fresh");
  assert.deepEqual(reasons(sim).slice(before), ["duplicate"], "signed with the older key, and genuine");
});

test("ranks whose nodes disagree about the time by hours are heard, and a clock that is set is followed", async () => {
  const sim = new SimCluster();
  sim.clockAheadMs.set(0, 3 * 3_600_000).set(1, -3_600_000);
  await heard(sim);
  await sim.clock.run(60_000);
  assert.deepEqual([fresh(sim)?.reason, reasons(sim).filter((reason) => reason !== "clock_unknown")], ["Fresh", []]);
  sim.clockAheadMs.set(2, 90_000);
  await sim.clock.run(60_000);
  const before = reasons(sim).length;
  await sim.clock.run(60_000);
  assert.deepEqual([fresh(sim)?.reason, reasons(sim).length], ["Fresh", before]);
});

const values = (...of: readonly number[]): Float64Array => Float64Array.from(of);

test("equal values of one owner are one array; others are kept apart, and the oldest of many are forgotten", () => {
  const [owner, other] = [{}, {}];
  const first = sharedBytes(owner, values(1, 2));
  assert.equal(sharedBytes(owner, values(1, 2)), first);
  assert.notEqual(sharedBytes(owner, values(1, 3)), first);
  assert.notEqual(sharedBytes(owner, values(1, 2, 3)), first);
  assert.notEqual(sharedBytes(other, values(1, 2)), first);
  for (const value of [4, 5, 6]) sharedBytes(owner, values(value));
  const again = values(1, 2);
  assert.equal(sharedBytes(owner, again), again);
});

type Views = Parameters<SignalWindows["look"]>[0];

const rank = (status: Partial<PodStatus>, more: { readonly usable?: boolean; readonly bootId?: string } = {}): Views[number] =>
  ({
    pod: { uid: "pod" },
    usable: more.usable ?? true,
    report: { description: { bootId: more.bootId ?? "boot" }, status: { queuedTokens: 0, ...status } },
  }) as unknown as Views[number];
const use = (kvBlocksUsed: number, tokens: number) => ({ kvBlocks: 10, kvBlocksUsed, tokens });

test("signals are means over fifteen seconds, and a rate from totals", () => {
  const windows = new SignalWindows();
  let seen = windows.look([], 0);
  for (let second = 0; second <= 60; second++) {
    const busy = second > 50;
    seen = windows.look([rank({ queuedTokens: busy ? 300 : 0, use: use(busy ? 8 : 3, 100 * second) })], second * 1_000);
  }
  const { spanMs, queuedTokens, kvUse, tokensPerSecond } = seen.get("pod") ?? {};
  assert.deepEqual([spanMs, queuedTokens, tokensPerSecond], [15_000, (10 * 300) / 16, 100]);
  assert.ok(Math.abs((kvUse ?? 0) - (10 * 0.8 + 6 * 0.3) / 16) < 1e-9);
});

test("looks within a second are one sample", () => {
  const windows = new SignalWindows();
  windows.look([rank({ queuedTokens: 100 })], 0);
  assert.equal(windows.look([rank({ queuedTokens: 900 })], 999).get("pod")?.queuedTokens, 100);
  assert.equal(windows.look([rank({ queuedTokens: 900 })], 1_000).get("pod")?.queuedTokens, 500);
});

test("a rank whose stream does not work has no signals; one of an earlier release has those that it reports", () => {
  const windows = new SignalWindows();
  windows.look([rank({ queuedTokens: 5 })], 0);
  assert.deepEqual([...windows.look([rank({ queuedTokens: 5 }, { usable: false })], 1_000)], []);
  const old = windows.look([rank({ queuedTokens: 5 })], 2_000).get("pod");
  assert.deepEqual(old, { spanMs: 2_000, queuedTokens: 5, kvUse: undefined, tokensPerSecond: undefined });
});

test("a rank whose engine has not told yet is heard for too short a time, and does not count as one that cannot tell", () => {
  const windows = new SignalWindows();
  windows.look([rank({})], 0);
  windows.look([rank({})], 1_000);
  const first = windows.look([rank({ use: use(1, 100) })], 2_000).get("pod");
  assert.deepEqual([first?.spanMs, first?.kvUse], [0, 0.1]);
  const { spanMs, tokensPerSecond } = windows.look([rank({ use: use(1, 300) })], 4_000).get("pod") ?? {};
  assert.deepEqual([spanMs, tokensPerSecond], [2_000, 100]);
});

test("another process of the pod begins anew: its total is lower, and that is no negative rate", () => {
  const windows = new SignalWindows();
  windows.look([rank({ use: use(1, 9_000) })], 0);
  const other = { bootId: "second" };
  assert.equal(windows.look([rank({ use: use(1, 10) }, other)], 1_000).get("pod")?.tokensPerSecond, undefined);
  assert.equal(windows.look([rank({ use: use(1, 30) }, other)], 3_000).get("pod")?.tokensPerSecond, 10);
});

test("in a cluster every rank has signals, none while its process is stopped, and again after it", { timeout: 120_000 }, async () => {
  const sim = new SimCluster({ ranks: 3 });
  sim.startOperator();
  assert.ok(await sim.clock.run(60_000, () => sim.converged()));
  const heard = () => (sim.loop?.view()?.members ?? []).filter(({ signals }) => (signals?.spanMs ?? 0) >= 10_000).map((one) => one.rank);
  assert.ok(await sim.clock.run(60_000, () => heard().length === 3));
  assert.deepEqual(sim.loop?.view()?.members[0]?.signals?.queuedTokens, 0, "no traffic is known to be none");
  sim.worker(1).stalled = true;
  assert.ok(await sim.clock.run(10_000, () => heard().join() === "0,2"));
  sim.worker(1).stalled = false;
  assert.ok(await sim.clock.run(60_000, () => heard().length === 3));
});
