// A rank keeps its connections to itself while it does not know the others yet, whose callers it would refuse.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { PeerCounts, PeerView } from "../engine/engine.ts";
import { PeerCounters } from "../engine/rows/peer-counters.ts";
import { grpcNetwork } from "../net/grpc.ts";
import { fixedTls } from "../net/tls.ts";
import { silentLog } from "../observe/log.ts";
import { PeerDirectory } from "./peer-directory.ts";
import { Peers } from "./peers.ts";

test("nobody learns of the connections before the first membership, by which their callers are known", async () => {
  const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  const tls = fixedTls({ cert: Buffer.of(1), key: Buffer.of(2), ca: Buffer.of(3) });
  const peers = new Peers({ self, namespace: "n", name: "m", tls, network: grpcNetwork, log: silentLog });
  const views: PeerView[] = [];
  let report = (_counts: PeerCounts): void => {};
  const reported: number[][] = [];
  const connections = {
    open: async (_opening: unknown, onCounts: typeof report) => {
      report = onCounts;
      return 9_441;
    },
    set: async (view: PeerView) => {
      views.push(view);
    },
  };
  const keeper = new PeerDirectory({
    connections,
    peers,
    tls,
    plan: { lowestEpochs: () => [1], currentEpochs: () => [1] },
    onCounts: ({ used, newer, sent }) => reported.push([...used, ...newer, sent.retries]),
    log: silentLog,
  });
  await keeper.open("127.0.0.1", 0);
  assert.equal(keeper.port, 0);
  const member = { rank: 1, podName: "p1", podUid: "u1", bootId: "b1", address: "10.0.0.1:9440", state: "active" } as const;
  peers.apply({ version: 1, members: [member] });
  assert.equal(keeper.port, 9_441);
  assert.deepEqual(
    views.at(-1)?.peers.map(({ podUid }) => podUid),
    ["u1"],
    "its engine has heard of them first",
  );
  const counters = new PeerCounters();
  const counts = () => {
    counters.used(1);
    counters.newer(2);
    counters.retried();
    return counters.take(0, 0) as PeerCounts;
  };
  report(counts());
  keeper.close();
  report(counts());
  assert.deepEqual(reported, [[1, 2, 1], [1]], "after the end the frames are counted, and nobody is asked for anything");
  peers.close();
});
