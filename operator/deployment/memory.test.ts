// What one pass remembers for the next: by its writes alone, whether or not its status could be written, and for its own install only.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { autoscaleOf, signals } from "../../test/kit/deployment/autoscale.ts";
import { deployment, member, pod, view } from "../../test/kit/deployment/deployment.ts";
import { ref, world } from "../../test/kit/deployment/moe-world.ts";
import { observed } from "../../test/kit/deployment/observed.ts";
import { until } from "../../test/kit/wait.ts";
import type { Claims } from "../kube/claims.ts";
import { resources } from "../kube/kube.ts";
import { noMemory, type Refused } from "./core/memory.ts";
import { type Decision, decide, plan } from "./features/decide.ts";
import type { Answers } from "./features/spec.ts";
import { outcomeOf } from "./features/status.ts";
import type { Observed } from "./observed.ts";

test("a Job that was refused is not tried again at once, though the status that says so could not be written", async (t) => {
  const moe = await world(t, { model: { uri: "hf://org/name@main", cache: { persistentVolumeClaim: { claimName: "models" } } } });
  let [tried, lost] = [0, 0];
  moe.refuse((kind) => {
    if (kind !== "Job") return;
    tried += 1;
    return "exceeded quota";
  });
  moe.kube.onWrite = (verb, resource) => {
    if (verb !== "apply" || resource !== resources.moeDeployments || tried === 0 || lost > 3) return;
    lost += 1;
    throw new AppError("unavailable", { code: "Unavailable", retry: "backoff" });
  };
  await moe.start();
  await moe.comes("ModelAvailable", /exceeded quota/);
  assert.deepEqual([tried, lost], [1, 4]);
});

const answers: Answers = {
  ...{ refusals: [], conflicts: [], accepted: false, successor: "Accepted", revisions: [], failure: undefined },
  ...{ deliveryFailure: undefined, againInMs: undefined, remember: { dryRuns: new Map(), jobRefused: undefined } },
};
const decided = (seen: Observed): Decision => decide(seen, plan(seen), answers);

test("the pass after a refused green deployment follows at once, and only that one", () => {
  const greenRefused: Refused = { name: "moe-green", message: "exceeded quota", untilMs: 30_000 };
  const next = (known?: Refused) => {
    const seen = observed({ memory: { ...noMemory, greenRefused: known } });
    const remember = { greenRefused, surgeRefused: undefined, createError: "" };
    const done = { scaling: undefined, createError: "", failure: undefined, remember };
    return outcomeOf(seen, decided(seen), done, { status: {}, heldMs: undefined });
  };
  assert.deepEqual([next(), next(greenRefused)], [{ requeueAfterMs: 1 }, {}]);
});

test("gateways are told of a zero by the pass that decides so", () => {
  const elasticity = { autoscale: autoscaleOf({ scaleToZero: { idleAfter: "10m", holdTimeout: "2m" } }) };
  const conditions = [{ type: "Available", status: "True", reason: "Serving", message: "", lastTransitionTime: "2020-01-01T00:00:00Z" }];
  const all = [0, 1, 2].map((rank) => member(rank, { signals: signals(0) }));
  const gateways = [{ name: "g", idleMs: 3_600_000, wantsRanks: false, holds: false }];
  const given = { deployment: deployment({ elasticity }, { conditions }), view: view({ members: all, gateways }) };
  const { hash: templateHash } = observed(given).rendered.wanted;
  const seen = observed({ ...given, pods: [0, 1, 2].map((rank) => pod(rank, { templateHash })), replicasOwner: { type: "free" } });
  const { scale, world: told } = decided(seen);
  assert.deepEqual([scale.remember.zero, told.holdMs], ["going", 120_000]);
  const without = decided({ ...seen, view: view({ members: all, gateways: [] }), memory: { ...noMemory, zero: "going" } });
  assert.deepEqual([without.scale.remember.zero, without.world.holdMs], [undefined, 0]);
});

test("whoever gets a namespace back finds it as it is, not as it was", async (t) => {
  const moe = await world(t);
  let isOurs = true;
  let listener = (_: string) => {};
  const claims = {
    ...{ holds: () => isOurs, holder: () => "b/enodia", leave: () => {}, close: () => {} },
    onChange: (added: typeof listener) => {
      listener = added;
    },
  };
  const hand = (ours: boolean) => {
    isOurs = ours;
    listener(ref.namespace);
  };
  await moe.start({ claims: claims as unknown as Claims });
  await moe.serves(3);
  hand(false);
  await until("its sessions are closed", () => moe.rebalance.forgotten.length > 0);
  const at = "2026-01-01T00:00:00Z";
  moe.mutate("moeDeployments", "moe", ({ status: own }) => {
    own.conditions = own.conditions.map((one: any) => (one.type === "Ready" ? { ...one, lastTransitionTime: at } : one));
  });
  await sleep(50); // the cache
  hand(true);
  await until("it works again", () => moe.rebalance.world !== undefined);
  await moe.change({ replicas: 2 });
  await moe.serves(2);
  await until("it is over", async () => (await moe.status()).operation === undefined);
  assert.equal((await moe.condition("Ready")).lastTransitionTime, at, "what the other install wrote is kept");
});
