// What one pass remembers for the next: by its writes alone, whether or not its status could be written, and for its own install only.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../crds/common.ts";
import { autoscaleOf, signals } from "../../test/kit/deployment/autoscale.ts";
import { deployment, member, pod, view } from "../../test/kit/deployment/deployment.ts";
import { conditionOf, kubelet, readyWith, ref, startOperator, status, user, world } from "../../test/kit/deployment/deployment-plane.ts";
import { observed } from "../../test/kit/deployment/observed.ts";
import type { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { until } from "../../test/kit/wait.ts";
import type { Claims } from "../kube/claims.ts";
import { type Resource, resources } from "../kube/kube.ts";
import { noMemory, type Refused } from "./core/memory.ts";
import { type Decision, decide, plan } from "./features/decide.ts";
import type { Answers } from "./features/spec.ts";
import { outcomeOf } from "./features/status.ts";
import type { Observed } from "./observed.ts";

const change = (kube: FakeKube, spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, user);
const forbidden = () => new AppError("exceeded quota", { code: "Forbidden", retry: "backoff" });

/** Forbids creates of a kind as the API server does, and counts them. */
function forbid(kube: FakeKube, refused: Resource): { count: number } {
  const tried = { count: 0 };
  kube.admit = (resource) => {
    if (resource !== refused) return;
    tried.count += 1;
    throw forbidden();
  };
  return tried;
}

test("a Job that was refused is not tried again at once, though the status that says so could not be written", async (t) => {
  const kube = await world();
  const tried = forbid(kube, resources.jobs);
  const lost = { count: 0 };
  kube.onWrite = (verb, resource) => {
    if (verb !== "apply" || resource !== resources.moeDeployments || tried.count === 0 || lost.count > 3) return;
    lost.count += 1;
    throw new AppError("unavailable", { code: "Unavailable", retry: "backoff" });
  };
  await change(kube, { model: { uri: "hf://org/name@main", cache: { persistentVolumeClaim: { claimName: "models" } } } });
  const operator = await startOperator(kube);
  t.after(operator.stop);
  await until("the status says why", async () => /exceeded quota/.test(conditionOf(await status(kube), "ModelAvailable")?.message ?? ""));
  assert.deepEqual([tried.count, lost.count], [1, 4]);
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

test("whoever gets a namespace back finds it as it is, not as it was", { timeout: 60_000 }, async (t) => {
  const kube = await world();
  const life = kubelet(kube);
  t.after(life.stop);
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
  const operator = await startOperator(kube, { claims: claims as unknown as Claims });
  t.after(operator.stop);
  await until("3 ranks serve", readyWith(kube, 3));
  hand(false);
  await until("its sessions are closed", () => operator.rebalance.forgotten.length > 0);
  const at = "2026-01-01T00:00:00Z";
  kube.mutate(resources.moeDeployments, ref, ({ status: own }: any) => {
    own.conditions = own.conditions.map((one: any) => (one.type === "Ready" ? { ...one, lastTransitionTime: at } : one));
  });
  await sleep(50); // the cache
  hand(true);
  await until("it works again", () => operator.rebalance.world !== undefined);
  await change(kube, { replicas: 2 });
  await until("2 ranks serve", readyWith(kube, 2));
  await until("it is over", async () => (await status(kube)).operation === undefined);
  assert.equal(conditionOf(await status(kube), "Ready").lastTransitionTime, at, "what the other install wrote is kept");
});
