// Two real workers without any NATS, over real gRPC with mutual TLS: the load of their tokens comes on Control, and makes a full window to
// plan by.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { encodeTelemetryKeys } from "../../../crds/telemetry-keys.ts";
import { grpcNetwork } from "../../../runtime/net/grpc.ts";
import { serverNames } from "../../../runtime/net/tls.ts";
import { deployment as deploymentOf } from "../../../test/kit/deployment/deployment.ts";
import { doubleEngine } from "../../../test/kit/ranks/double-engine.ts";
import { deployment, deploymentUid, namespace, Ranks, tinyStore } from "../../../test/kit/ranks/ranks.ts";
import { telemetryKey } from "../../../test/kit/ranks/telemetry-keys.ts";
import { until } from "../../../test/kit/wait.ts";
import type { World } from "../../deployment/ports.ts";
import { systemClock } from "../../kube/workqueue.ts";
import { LoadState } from "../load/load-state.ts";
import { Intake } from "./intake.ts";
import { Semaphore } from "./links.ts";
import { Telemetry } from "./load-messages.ts";
import { Quota } from "./quota.ts";
import { Session } from "./session.ts";

test("the load of ranks without NATS comes on Control and fills a window", async () => {
  const store = await tinyStore();
  const telemetryKeys = join(store.dir, "keys");
  writeFileSync(telemetryKeys, encodeTelemetryKeys([telemetryKey(1)]));
  const ranks = new Ranks(store, () => ({ telemetryKeys, telemetryWindowMs: 250, overrides: { createEngine: doubleEngine(store.index) } }));
  const quota = new Quota({ now: systemClock.now, onOver: () => assert.fail("two ranks send little") });
  const intake = new Intake({
    quota,
    clock: systemClock,
    metrics: { add: () => {} } as never,
    nats: () => undefined,
    telemetry: new Telemetry(() => assert.fail("no NATS")),
    telemetryKeys: () => ({ keys: [telemetryKey(1)] }),
  });
  const sessions: Session[] = [];
  try {
    for (const rank of [0, 1]) await ranks.launch(rank);
    await ranks.firstPlan();
    const { cert, key, ca } = ranks.tls("operator").current();
    const identity = { cert: cert.toString(), key: key.toString(), ca: ca.toString() };
    for (const [rank, { podUid }] of ranks.byRank) {
      const at = { address: ranks.address(rank), serverName: serverNames.rank(rank, namespace, deployment), deploymentUid };
      const target = {
        ...at,
        kind: "worker",
        podUid,
        identity,
        onChange: () => {},
        onLoad: (message: Uint8Array) => intake.take(message),
        quota,
      } as const;
      sessions.push(new Session(target, { clock: systemClock, network: grpcNetwork, connecting: new Semaphore(2) }));
    }
    await until("clocks are compared", () => sessions.every(({ clockAheadMs }) => clockAheadMs !== undefined));
    const { layers, experts } = store.index;
    const sizes = new Float64Array(layers * experts).fill(1);
    const load = new LoadState({ layers, experts, residentBytes: sizes, storedBytes: sizes }, deploymentUid, Date.now());
    const expected = sessions.map(({ description, clockAheadMs }, rank) => ({
      rank,
      bootId: description?.bootId ?? "",
      clockAheadMs,
      speed: 1,
    }));
    const world = { ref: { namespace, name: deployment }, uid: deploymentUid, spec: deploymentOf().spec } as unknown as World;
    intake.listen({ world, expected, load });
    await ranks.text([0], [1, 2, 3], 8);
    await until("selections of every layer", () => load.windows.openSelections() > 0);
    await until("both ranks", () => load.windows.reporting(expected, Date.now(), 5_000) === 2);
    assert.deepEqual(load.windows.close(expected, Date.now()).missing, []);
  } finally {
    for (const session of sessions) session.close();
    await ranks.close();
    await store.remove();
  }
});
