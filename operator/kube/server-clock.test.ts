// The time of the API server by its answers, whatever clock the replica has.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { KubeConfig } from "@kubernetes/client-node";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { createKube } from "./client.ts";
import { EventRecorder } from "./events.ts";
import { resources } from "./kube.ts";
import { LeaderElection } from "./leader.ts";
import { ServerClock } from "./server-clock.ts";
import { createTransport } from "./transport.ts";

const begun = Date.UTC(2026, 2, 1, 10);
const wrongMs = 25 * 60_000;

/** A replica whose clock is ahead, and API servers with theirs; how far its idea of the time is off after each answer. */
function replica(aheadMs: number) {
  let ticks = 5_000;
  const clock = new ServerClock({ now: () => ticks }, () => begun + aheadMs);
  const real = () => begun + ticks - 5_000;
  const offMs = () => clock.now().getTime() - real();
  const answers = (serverAheadMs = 0, heldMs = 0): number => {
    ticks += 370;
    const answered = clock.asks();
    const date = new Date(real() + serverAheadMs).toUTCString();
    ticks += heldMs;
    answered(date);
    return offMs();
  };
  return { clock, offMs, answers };
}
const near = (ms: number) => Math.abs(ms) <= 1_000;

for (const aheadMs of [wrongMs, -wrongMs, 400])
  test(`a replica's clock is ${aheadMs} ms ahead: it goes by the API server's from the first answer on`, () => {
    const { offMs, answers } = replica(aheadMs);
    assert.equal(offMs(), aheadMs);
    const off = Array.from({ length: 40 }, (_, i) => answers(0, (i * 7) % 900));
    assert.ok(off.every(near), `${off}`);
  });

test("stamps of events and leases are by the API server's time, and ages steady whatever is answered later", async () => {
  const { clock, answers } = replica(wrongMs);
  answers();
  const steady = clock.steady();
  const kube = new FakeKube();
  const recorder = new EventRecorder({ kube, reportingInstance: "test", clock: steady });
  const regarding = { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", namespace: "ns", name: "moe", uid: "u" };
  recorder.record({ regarding, type: "Normal", reason: "R", note: "n" });
  await recorder.flush();
  const ref = { namespace: "ns", name: "lease" };
  const election = new LeaderElection({ kube, lease: ref, identity: "a", date: clock.now, onElected: () => {}, onLost: () => {} });
  election.start();
  await election.stop();
  const [event, lease] = [kube.all(resources.events)[0] as any, kube.all(resources.leases)[0] as any];
  for (const stamp of [event.eventTime, lease.spec.renewTime]) assert.ok(near(Date.parse(stamp) - begun), stamp);
  const before = steady.now();
  for (let i = 0; i < 40; i++) answers(-wrongMs);
  assert.equal(steady.now() - before, 40 * 370);
});

test("a clock that no answer contradicts stays as it is, and held answers move none", () => {
  const { answers } = replica(0);
  const off = Array.from({ length: 40 }, (_, i) => answers(0, i % 2 === 0 ? 0 : 28_000));
  assert.deepEqual(new Set(off), new Set([0]));
});

test("one API server of three may be wrong, and all of them may be set", () => {
  const { answers } = replica(-wrongMs);
  const off = Array.from({ length: 60 }, (_, i) => answers(i % 3 === 2 ? wrongMs : 0));
  assert.ok(off.every(near), `${off}`);
  const set = Array.from({ length: 10 }, () => answers(wrongMs) - wrongMs);
  assert.ok(near(set.at(-1) ?? Number.NaN));
});

test("answers of the API server tell its time, refusals too", async (t) => {
  const server = createServer((_request, response) => void response.writeHead(404, { date: new Date(begun).toUTCString() }).end("{}"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const config = new KubeConfig();
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  config.loadFromClusterAndUser({ name: "c", server: url, skipTLSVerify: true }, { name: "u" });
  const clock = new ServerClock();
  await createKube(createTransport(config, { clock })).get(resources.leases, { namespace: "ns", name: "x" });
  assert.ok(Math.abs(clock.now().getTime() - begun) < 5_000);
});
