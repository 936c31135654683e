// A thread that computes has to look at the sockets of its lanes now and then: no lane comes to stand without it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createTestCa } from "../../test/kit/network/certs.ts";
import { until } from "../../test/kit/ranks/ranks.ts";
import { LaneServer } from "../net/lane-accept.ts";
import { serverNames } from "../net/tls.ts";
import type { LaneNews } from "./api.ts";
import { Lanes } from "./lanes.ts";

const [namespace, name] = ["default", "mix"];
const hidden = 4;

test("sockets are looked at as soon as there is a rank to ask, and no more once the lanes are closed", async (t) => {
  const ca = createTestCa();
  const host = new LaneServer({
    ...{ namespace, name, hidden, sums: false, tls: ca.issue("rank-1", namespace, name), refuses: () => undefined, onProblem: () => {} },
    serve: async (_frame, rows) => rows,
  });
  t.after(() => host.close());
  const address = `127.0.0.1:${await host.listen("127.0.0.1", 0)}`;
  const told: LaneNews[] = [];
  const lanes = new Lanes({
    model: { info: { layers: 1, experts: 1, hidden }, backend: { numericClass: "exact" } },
    serve: () => assert.fail("nobody asks"),
    onFrames: () => {},
    tell: (news) => told.push(news),
  });
  t.after(() => lanes.close());
  const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  const view = { self, tls: ca.issue("rank-0", namespace, name).current(), serves: [1] };
  const peer = { rank: 1, podUid: "u1", podName: "rank-1", serverName: serverNames.rank(1, namespace, name), address };
  assert.equal(lanes.poll(), undefined);
  await lanes.open({ namespace, name, host: "127.0.0.1", port: 0, view: { ...view, peers: [] } });
  assert.equal(lanes.poll(), undefined, "nobody is there");
  lanes.set({ ...view, peers: [peer] });
  const looked = lanes.poll();
  assert.ok(looked, "a lane is being made");
  assert.equal(lanes.poll(), undefined, "not again at once");
  await looked;
  await until("the lane is ready", () => told.some((news) => news.lanes === 1));
  lanes.close();
  lanes.set({ ...view, peers: [peer] });
  assert.equal(lanes.poll(), undefined);
  await until("the host has no lane", () => host.lanes === 0);
});
