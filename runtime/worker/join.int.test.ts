// Peers behind a headless name: the newest answer wins, strangers and the dead are passed over.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { createTestCa, type TestCa } from "../../test/kit/network/certs.ts";
import { Control } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { createServer, type GrpcServer, grpcNetwork } from "../net/grpc.ts";
import { toMembership, toPlan } from "../net/mapping.ts";
import { askPeers, resolvePeers } from "../net/peer-snapshot.ts";
import { silentLog } from "../observe/log.ts";

const servers: GrpcServer[] = [];
let ca: TestCa;

before(async () => {
  ca = await createTestCa();
});
after(() => Promise.all(servers.map((server) => server.close(0))));

async function peer(ip: string, port: number, version: number, epoch: number, member = "rank-3", name = "mix"): Promise<number> {
  const server = createServer(await ca.issue(member, "ns", name));
  const no = () => Promise.reject(new AppError("not in this test", { code: "NotFound" }));
  const plan = { deploymentUid: "uid", epoch, parentEpoch: epoch - 1, planHash: "h", modelDigest: "d", layers: [] };
  server.add(Control, {
    ...{ describe: no, commit: no, abort: no, release: no, drain: no, prepare: (call) => call.end(), watch: (call) => call.end() },
    snapshot: async () => ({ membership: toMembership({ version, members: [] }), plan: toPlan(plan) }),
  });
  servers.push(server);
  return server.listen(ip, port);
}

test("the newest membership and plan win; a stranger and a closed port are passed over", async () => {
  const self = { deploymentUid: "uid", rank: -1, podUid: "p", bootId: "b" };
  const tls = await ca.issue("gateway", "ns", "mix");
  const port = await peer("127.0.0.1", 0, 4, 9);
  await peer("127.0.0.2", port, 6, 8);
  await peer("127.0.0.3", port, 99, 99, "rank-0", "other");
  await peer("127.0.0.4", port, 99, 99, "gateway");
  const addresses = [1, 2, 3, 4, 5].map((host) => `127.0.0.${host}:${port}`);
  const found = await askPeers(addresses, { self, namespace: "ns", name: "mix", tls, network: grpcNetwork, log: silentLog });
  assert.equal(found.membership?.version, 6);
  assert.equal(found.plan?.epoch, 9);
});

test("names of peers are those that the system's resolver knows, as it knows a cluster's domain", async () => {
  assert.deepEqual(await resolvePeers("localhost", 9440, undefined, silentLog), ["127.0.0.1:9440"]);
  assert.deepEqual(await resolvePeers("localhost", 9440, "127.0.0.1", silentLog), []);
});

test("a name that does not resolve has no peers", async () => {
  assert.deepEqual(await resolvePeers("nobody.invalid", 9440, undefined, silentLog), []);
});
