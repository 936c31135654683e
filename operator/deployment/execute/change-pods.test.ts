// The order of a pass's writes of pods.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { pod } from "../../../test/kit/deployment/deployment.ts";
import { observed } from "../../../test/kit/deployment/observed.ts";
import type { Action } from "../features/pod-actions.ts";
import { changePods, type ExecuteDeps } from "./change-pods.ts";

test("a lost pod is gone before its successor is made, which the scheduler would place beside another rank", async () => {
  const { rendered } = observed();
  const writes: string[] = [];
  const kube = {
    delete: async () => {
      await sleep(20);
      writes.push("delete");
      return true;
    },
    create: async (_: unknown, object: object) => {
      writes.push("create");
      return object;
    },
  };
  const nothing = () => {};
  const overlay = { removed: nothing, wrote: nothing };
  const deps = { kube, overlay, identities: { ensurePod: async () => {} }, event: nothing, now: () => new Date(0) };
  const actions: Action[] = [
    { type: "create", rank: 2, reason: "Created", stable: false },
    { type: "delete", pod: pod(2), force: true, reason: "NodeLost", why: "neither answers" },
  ];
  const done = await changePods(deps as unknown as ExecuteDeps, rendered.context, { template: rendered.wanted }, actions);
  assert.deepEqual([writes, done.failure], [["delete", "create"], undefined]);
});
