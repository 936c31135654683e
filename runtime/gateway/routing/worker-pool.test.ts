// The waiter that is woken when an attempt ends. The connections themselves are for the integration tests.
import assert from "node:assert/strict";
import { test } from "node:test";
import { grpcNetwork } from "../../net/grpc.ts";
import type { TlsSource } from "../../net/tls.ts";
import { createTracing } from "../../observe/trace.ts";
import type { Attempt, Generation } from "./failover.ts";
import { WorkerPool } from "./worker-pool.ts";

const { signal } = new AbortController();
const request = { prompt: [1, 2, 3], maxTokens: 4, sampling: {}, traceparent: "", signal } as unknown as Generation;

test("an attempt that no worker accepted wakes nobody: nothing became free", async () => {
  const identity = { deploymentUid: "uid", rank: -1, podUid: "gw", bootId: "b" };
  const tls = {} as TlsSource; // nobody connects here
  const tracing = await createTracing({ service: "gateway" });
  const pool = new WorkerPool({ identity, namespace: "ns", deployment: "mix", tls, network: grpcNetwork, tracing });
  const member = { rank: 0, podName: "mix-0", podUid: "p0", bootId: "b0", address: "127.0.0.1:1", state: "active" } as const;
  pool.apply({ version: 1, members: [member] });
  let woken = 0;
  for (let i = 0; i < 3; i++) void pool.changed(60_000, request.signal).then(() => woken++);
  const attempt = pool.start(request, [], { avoid: new Set(), busy: new Set() }) as Attempt;
  attempt.close(false);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(woken, 0);
  pool.apply({ version: 2, members: [member] });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(woken, 3, "a new membership wakes all");
});
