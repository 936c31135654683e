// A thread that computes has to look at the sockets of its connections now and then: no connection comes to stand without it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createTestCa } from "../../../test/kit/network/certs.ts";
import { engineHost } from "../../../test/kit/network/engine-host.ts";
import { until } from "../../../test/kit/wait.ts";

import { serverNames } from "../../net/tls.ts";
import type { PeerCounts } from "../api.ts";
import { PeerConnections } from "./peer-connections.ts";

const [namespace, name] = ["default", "mix"];
const hidden = 4;
const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
const other = { rank: 1, podUid: "u1", podName: "rank-1", serverName: serverNames.rank(1, namespace, name), usable: true };

function connectionsOf(report: (counts: PeerCounts) => void): PeerConnections {
  return new PeerConnections({
    model: { info: { layers: 1, experts: 1, hidden }, backend: { numericClass: "exact" } },
    serve: () => assert.fail("nobody asks"),
    onDemand: () => assert.fail("nobody asks"),
    onFrames: () => {},
    report,
  });
}

test("sockets are looked at as soon as there is a rank to ask, and no more once the connections are closed", async (t) => {
  const ca = createTestCa();
  const { port, server } = await engineHost(t, { ca, namespace, name, hidden, serve: async (_frame, rows) => rows });
  const address = `127.0.0.1:${port}`;
  const counted: PeerCounts[] = [];
  const connections = connectionsOf((counts) => counted.push(counts));
  t.after(() => connections.close());
  const view = { self, tls: ca.issue("rank-0", namespace, name).current(), serves: [1], epochs: [1] };
  const peer = { ...other, address };
  assert.equal(connections.poll(), undefined);
  await connections.open({ namespace, name, host: "127.0.0.1", port: 0, view: { ...view, peers: [] } });
  assert.equal(connections.poll(), undefined, "nobody is there");
  connections.set({ ...view, peers: [peer] });
  const looked = connections.poll();
  assert.ok(looked, "a connection is being made");
  assert.equal(connections.poll(), undefined, "not again at once");
  await looked;
  await until("the connection is ready", () => counted.some((counts) => counts.connections === 1));
  assert.deepEqual(connections.following(1), [1]);
  connections.set({ ...view, peers: [{ ...peer, isForDecode: true }] });
  assert.deepEqual(connections.following(1), [], "a rank for decode computes no part of others' prompts");
  connections.close();
  connections.set({ ...view, peers: [peer] });
  assert.equal(connections.poll(), undefined);
  await until("the server has no connection", () => server.connections === 0);
});

test("an engine that cannot be reached costs a frame no wait once that is known", async (t) => {
  const ca = createTestCa();
  const problems: string[] = [];
  const connections = connectionsOf((counts) => problems.push(...counts.problems));
  t.after(() => connections.close());
  const tls = ca.issue("rank-0", namespace, name).current();
  const peers = [{ ...other, address: "127.0.0.1:1" }];
  await connections.open({ namespace, name, host: "127.0.0.1", port: 0, view: { self, tls, serves: [1], epochs: [1], peers } });
  await until("the connection has failed", () => problems.length > 0);
  const startedAt = performance.now();
  assert.equal(await connections.reach(1, 60_000), false);
  assert.ok(performance.now() - startedAt < 1_000, "no patience for it");
});
