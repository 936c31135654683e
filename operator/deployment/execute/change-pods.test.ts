// The order of a pass's writes of pods.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import { pod } from "../../../test/kit/deployment/deployment.ts";
import { observed } from "../../../test/kit/deployment/observed.ts";
import type { Action } from "../features/pod-actions.ts";
import { changePods, type ExecuteDeps } from "./change-pods.ts";

/** The writes of a pass that replaces rank 2's lost pod and marks another, and what failed. */
async function writesOf(deleting: () => Promise<boolean>) {
  const { rendered } = observed();
  const writes: string[] = [];
  const kube = {
    delete: async () => {
      await sleep(20);
      writes.push("delete");
      return deleting();
    },
    create: async (_: unknown, object: object) => {
      writes.push("create");
      return object;
    },
    patch: async () => {
      await sleep(40);
      writes.push("mark");
    },
  };
  const nothing = () => {};
  const overlay = { removed: nothing, wrote: nothing };
  const deps = { kube, overlay, identities: { ensurePod: async () => {} }, event: nothing, now: () => new Date(0) };
  const actions: Action[] = [
    { type: "create", rank: 2, reason: "Created", stable: false },
    { type: "delete", pod: pod(2), force: true, reason: "NodeLost", why: "neither answers" },
    { type: "mark", pod: pod(1), reason: "Shrink", why: "fewer ranks" },
  ];
  const done = await changePods(deps as unknown as ExecuteDeps, rendered.context, { template: rendered.wanted }, actions);
  return [writes, done.failure?.message];
}

test("a lost pod is gone before its successor is made, which the scheduler would place beside another rank", async () => {
  assert.deepEqual(await writesOf(async () => true), [["delete", "create", "mark"], undefined]);
});

test("no successor is made beside a pod that could not be deleted", async () => {
  const refused = async () => {
    throw new AppError("a webhook refuses", { code: "Forbidden" });
  };
  assert.deepEqual(await writesOf(refused), [["delete", "mark"], "a webhook refuses"]);
});
