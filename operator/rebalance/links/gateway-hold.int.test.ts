// The operator's session with a real gateway, over real gRPC with mutual TLS: it hears that the gateway holds requests, that one waits for
// ranks, and that none does any more.

import assert from "node:assert/strict";
import { test } from "node:test";
import { grpcNetwork } from "../../../runtime/net/grpc.ts";
import { serverNames } from "../../../runtime/net/tls.ts";
import { chat, chatPrompt, expected, post, useGateways } from "../../../test/kit/gateway/gateway-host.ts";
import { name, ns } from "../../../test/kit/gateway/scripted-worker.ts";
import { until } from "../../../test/kit/wait.ts";
import { systemClock } from "../../kube/workqueue.ts";
import { Semaphore } from "./links.ts";
import { Quota } from "./quota.ts";
import { Session } from "./session.ts";

const { startAll, issue, onEnd } = useGateways();

test("the first request at zero reaches the operator's session, and the ranks that come end it", async () => {
  const { gateway, workers, url } = await startAll([{}]);
  const { cert, key, ca } = (await issue("operator")).current();
  const identity = { cert: cert.toString(), key: key.toString(), ca: ca.toString() };
  let changes = 0;
  const session = new Session(
    {
      ...{ address: `127.0.0.1:${gateway.grpcPort}`, serverName: serverNames.gateway(ns, name), deploymentUid: "uid" },
      ...{ kind: "gateway", podUid: "gw-uid", identity, onChange: () => void changes++, onLoad: () => {} },
      quota: new Quota({ now: systemClock.now, onOver: () => assert.fail("a gateway sends little") }),
    },
    { clock: systemClock, network: grpcNetwork, connecting: new Semaphore(1) },
  );
  onEnd(() => session.close());
  session.push({ version: 5, members: [], holdMs: 60_000 });
  await until("it has heard", () => session.status?.membershipVersion === 5);
  await until("nobody asks", () => session.status?.front?.wantsRanks === false && session.status.front.idleSince !== undefined);
  const before = changes;
  const answer = post(`${url}/v1/chat/completions`, chat());
  await until("somebody asks", () => session.status?.front?.wantsRanks === true);
  assert.ok(changes > before, "the loop is told to look");
  assert.equal(session.status?.front?.idleSince, undefined);
  session.push({ version: 6, members: [workers[0]!.member()] });
  const body: any = await (await answer).json();
  assert.equal(body.choices?.[0]?.message.content, expected(chatPrompt, 20), JSON.stringify(body));
  await until("nobody asks any more", () => session.status?.front?.wantsRanks === false && session.status.front.idleSince !== undefined);
});
