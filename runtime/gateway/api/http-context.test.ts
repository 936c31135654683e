// Who is refused by its own limits neither wakes ranks nor takes a place, and what others refuse costs it nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createMetrics } from "../../observe/runtime-metrics.ts";
import { ClientLimits } from "../auth/client-limits.ts";
import { Admission } from "../routing/admission.ts";
import { type AppDeps, type Ctx, enter } from "./http-context.ts";

test("a client's limits refuse before admission, and admission before they are charged", () => {
  const admission = new Admission(1, createMetrics({ process: "gateway", version: "0" }));
  let woken = 0;
  admission.onEnter(() => void woken++);
  const clients = new ClientLimits([{ name: "a", priority: 0, requestsPerMinute: 2, concurrentRequests: 1 }], () => 0);
  const deps = { admission, clients, unavailable: () => undefined, holds: () => true } as unknown as AppDeps;
  const headers = new Map<string, string>();
  const from = (name: string) => {
    const context = { get: () => name, header: (header: string, value: string) => void headers.set(header, value) } as unknown as Ctx;
    return enter(context, deps, { bytes: 1, promptTokens: 1, promptLogprobs: 0 });
  };
  const first = from("a");
  assert.ok("admitted" in first);
  const refused = from("a");
  assert.ok("problem" in refused && /1 requests at once/.test(refused.problem.message));
  assert.deepEqual([woken, admission.inside, headers.get("x-ratelimit-remaining-requests")], [1, 1, "1"]);
  first.client.leave(0);
  assert.ok("problem" in from("a"), "the gateway is full");
  first.admitted.leave();
  assert.ok("admitted" in from("a"), "which was no request of its client");
  assert.equal(woken, 2);
});
