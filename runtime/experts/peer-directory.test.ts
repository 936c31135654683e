// A rank keeps its connections to itself while it does not know the others yet, whose callers it would refuse.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { PeerView } from "../engine/engine.ts";
import { grpcNetwork } from "../net/grpc.ts";
import { fixedTls } from "../net/tls.ts";
import { silentLog } from "../observe/log.ts";
import { PeerDirectory } from "./peer-directory.ts";
import { Peers } from "./peers.ts";

test("nobody is told of the connections before the first membership, by which their callers are known", async () => {
  const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  const tls = fixedTls({ cert: Buffer.of(1), key: Buffer.of(2), ca: Buffer.of(3) });
  const peers = new Peers({ self, namespace: "n", name: "m", tls, network: grpcNetwork, log: silentLog });
  const views: PeerView[] = [];
  const connections = {
    open: async () => 9_441,
    set: async (view: PeerView) => {
      views.push(view);
    },
  };
  const keeper = new PeerDirectory({
    connections,
    peers,
    tls,
    plan: { lowestEpochs: () => [1], currentEpochs: () => [1] },
    onCounts: () => {},
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
  keeper.close();
  peers.close();
});
