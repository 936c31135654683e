// The session with one pod, on a client that is played here: every ping tells the log level, so that a pod that starts has it at once.
import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { test } from "node:test";
import type { WatchPush } from "../../../runtime/wire/gen/enodia/runtime/v1/runtime_pb.js";
import type { Network } from "../../../runtime/wire/grpc.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import type { LinkTarget } from "../ports.ts";
import { Session } from "./session.ts";

test("a pod is told the operator's log level when its stream opens, and with every ping", async () => {
  const pushed: WatchPush[] = [];
  const watch = () =>
    Object.assign(new Duplex({ objectMode: true, read: () => {}, write: (push, _, done) => done(void pushed.push(push)) }), {
      cancel: () => {},
    });
  const network = { connect: () => ({ watch, close: () => {} }) } as unknown as Pick<Network, "connect">;
  const target: LinkTarget = {
    ...{ address: "10.0.0.1:9440", serverName: "gateway", deploymentUid: "d", kind: "gateway", podUid: "g" },
    ...{ identity: { cert: "", key: "", ca: "" }, onChange: () => {} },
  };
  const clock = new ManualClock();
  const session = new Session(target, clock, network, "debug");
  await clock.advance(1_000);
  assert.deepEqual(
    pushed.map(({ push, logLevel }) => [push.case, logLevel]),
    [
      ["ping", "debug"],
      ["ping", "debug"],
    ],
  );
  session.close();
});

test("calls have deadlines by the clock that gRPC reckons with, whatever the operator's own says", async () => {
  const deadlines: number[] = [];
  const describe = async (_: unknown, { deadline }: { deadline: number }) => {
    deadlines.push(deadline);
    throw new Error("away");
  };
  const network = { connect: () => ({ describe, close: () => {} }) } as unknown as Pick<Network, "connect">;
  const target: LinkTarget = {
    ...{ address: "10.0.0.1:9440", serverName: "rank-0", deploymentUid: "d", kind: "worker", podUid: "w" },
    ...{ identity: { cert: "", key: "", ca: "" }, onChange: () => {} },
  };
  const clock = new ManualClock();
  const behind = { now: () => clock.now(), after: clock.after.bind(clock), deadlineIn: (ms: number) => 1_000_000_000 + ms };
  const session = new Session(target, behind, network);
  await clock.advance(100);
  assert.deepEqual(deadlines[0], 1_000_005_000);
  session.close();
});
