// Peers behind a headless name: the newest answer wins, strangers and the dead are passed over.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { createTestCa, type TestCa } from "../../test/support/certs.ts";
import { Control } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { createServer, type GrpcServer } from "./grpc.ts";
import { toMembership, toPlan } from "./mapping.ts";
import { askPeers } from "./snapshot.ts";

const base = { namespace: "ns", deployment: "mix", peersDns: "mix-workers.ns.svc" };
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
  const ips = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];
  const found = await askPeers({ ...base, self, tls, port, resolve: async () => ips });
  assert.equal(found.membership?.version, 6);
  assert.equal(found.plan?.epoch, 9);
  assert.deepEqual([found.asked, found.answered], [5, 2]);
  const alone = await askPeers({ ...base, self, tls, port, ownIp: "127.0.0.1", resolve: async () => ["127.0.0.1"] });
  assert.equal(alone.asked, 0);
  const nowhere = await askPeers({ ...base, self, tls, port, resolve: () => Promise.reject(new Error("NXDOMAIN")) });
  assert.deepEqual([nowhere.membership, nowhere.asked], [undefined, 0]);
});
