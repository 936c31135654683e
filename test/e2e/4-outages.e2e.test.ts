// NATS away, the operator away: serving goes on, load comes on Control, and everything recovers alone.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { loadSubject } from "../../crds/telemetry.ts";
import { createBus } from "../../runtime/net/nats.ts";
import { kubectlOf, systemNamespace, type Target, waitReady, workerPods } from "../kit/deployment/product.ts";
import { type Load, startLoad } from "../kit/gateway/traffic-load.ts";
import { condition, type Kubectl } from "../kit/kube/kubectl.ts";
import { sleep, until } from "../kit/processes/process.ts";
import { patchRebalancing } from "./balance.ts";
import { explainFailures } from "./diagnose.ts";
import { natsUrl, openBus } from "./load-watch.ts";
import { hasEnded, isMoving, outcome, PlacementWatch, type Seen } from "./watch-placement.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const model = "steady";
const staleAfterMs = 10_000;

let target: Target;
let moe: Deployed;
let system: Kubectl;
let load: Load | undefined;
let watch: PlacementWatch | undefined;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  system = kubectlOf(target, systemNamespace);
  // Workers are started with the window: set later, it would replace them.
  const rebalancing = { mode: "Off", interval: "5s", trigger: { window: "2s" } };
  const staleAfter = `${staleAfterMs / 1000}s`;
  moe = await deploy(target, "e2e-outages", smolMoe(model, { telemetry: { staleAfter }, rebalancing }));
  watch = new PlacementWatch(moe);
});
after(async () => {
  await load?.stop();
  await watch?.close();
  await system.try(["scale", "deployment/enodia-nats", "--replicas=1"]);
  await system.try(["scale", "deployment/enodia", "--replicas=2"]);
  if (moe) await remove(moe);
});

const epochNow = async (): Promise<number> => (await moe.kubectl.get("eplace", model)).spec.epoch;

const telemetry = (reason: string) =>
  moe.kubectl.waitFor("moed", model, reason, (moed) => condition(moed, "TelemetryFresh")?.reason === reason, 60_000);

const natsPods = async (): Promise<number> => (await system.list("pods", "app.kubernetes.io/component=nats")).length;

/** The processes that serve: each pod with its restarts. */
const processes = async (): Promise<string[]> =>
  (await moe.kubectl.list("pods")).map(({ metadata, status }) => `${metadata.name} ${status.containerStatuses?.[0]?.restartCount}`).sort();

test("NATS down for a while under load: load comes on Control and experts move by it, no failed request; scale and repair work", async () => {
  const url = await moe.url();
  load = startLoad({ url: () => url, model, clients: 4, topic: "code" });
  await sleep(5000);
  await system.run(["scale", "deployment/enodia-nats", "--replicas=0"]);
  await until("NATS to be gone", async () => ((await natsPods()) === 0 ? true : undefined), { timeoutMs: 40_000 });
  const epoch = await epochNow();
  await patchRebalancing(moe, model, { mode: "Auto", trigger: { imbalancePercent: 101, minTokens: 100 } });
  await watch?.next("experts to be moved", (seen) => seen.epoch > epoch, 60_000);
  await telemetry("FreshOnControl");
  await moe.kubectl.run(["scale", `moed/${model}`, "--replicas=2"]);
  await waitReady(moe.kubectl, model);
  const [pod] = await workerPods(moe.kubectl, model);
  await moe.kubectl.run(["delete", "pod", pod?.metadata.name ?? "", "--grace-period=0", "--force", "--wait=false"]);
  await moe.kubectl.run(["scale", `moed/${model}`, "--replicas=3"]);
  await sleep(1000);
  await waitReady(moe.kubectl, model);
  assert.equal(load.counts.failed, 0, load.errors[0]);
});

test("NATS back: it brings load again without help", async () => {
  await system.run(["scale", "deployment/enodia-nats", "--replicas=1"]);
  await telemetry("Fresh");
  assert.equal(load?.counts.failed, 0, load?.errors[0]);
  await load?.stop();
});

test("a forged message on NATS mutes no rank, and nobody is let in without a user, whose load is its own", async () => {
  const bus = await openBus(moe, "forger");
  const stranger = createBus({ url: await natsUrl(target), name: "stranger" });
  try {
    bus.subscribe(loadSubject("enodia", "another", model, "*"), () => assert.fail("load of another namespace"));
    await until("a foreign subject to be refused", () => (bus.status.reason === "AuthorizationViolation" ? true : undefined), {
      timeoutMs: 20_000,
    });
    const heard = await new Promise<{ subject: string; text: string }>((resolve) => {
      bus.subscribe(loadSubject("enodia", moe.namespace, model, 0), (bytes, subject) =>
        resolve({ subject, text: `${Buffer.from(bytes)}` }),
      );
    });
    const at = heard.text.indexOf("{");
    const forged = JSON.stringify({ ...JSON.parse(heard.text.slice(at)), seq: Number.MAX_SAFE_INTEGER });
    for (const text of [heard.text.slice(0, at) + forged, forged]) assert.ok(bus.publish(heard.subject, text));
    await until("the stranger to be refused", () => (stranger.status.reason === "AuthorizationViolation" ? true : undefined), {
      timeoutMs: 20_000,
    });
    await sleep(staleAfterMs + 3_000); // a rank that was muted shows by then
    const fresh = condition(await moe.kubectl.get("moed", model), "TelemetryFresh");
    assert.equal(fresh?.status, "True", fresh?.message);
  } finally {
    await Promise.all([bus.close(), stranger.close()]);
  }
});

test("ranks and gateways have network policies", async () => {
  const names = (await moe.kubectl.list("networkpolicies")).map(({ metadata }) => metadata.name);
  assert.deepEqual(names.toSorted(), [`${model}-gateway`, `${model}-workers`]);
});

test("operator and workers start without NATS", async () => {
  await system.run(["scale", "deployment/enodia-nats", "--replicas=0"]);
  await system.run(["rollout", "restart", "deployment/enodia"]);
  await system.run(["rollout", "status", "deployment/enodia", "--timeout=60s"]);
  const names = (await workerPods(moe.kubectl, model)).map((pod) => pod.metadata.name);
  await moe.kubectl.run(["delete", "pod", names[0] ?? "", "--grace-period=0", "--force", "--wait=false"]);
  await sleep(1000);
  await waitReady(moe.kubectl, model);
  await system.run(["scale", "deployment/enodia-nats", "--replicas=1"]);
  await telemetry("Fresh");
});

test("operator killed in the middle of a rebalance: serving goes on, the plan is finished or rolled back, no pod is restarted or replaced", async () => {
  const url = await moe.url();
  load = startLoad({ url: () => url, model, clients: 4, topic: "story" });
  assert.ok(watch);
  const processesBefore = await processes();
  const { epoch } = watch;
  // Slow enough to be hit in the middle.
  const slow = { budget: { maxTransferBytesPerSecond: "4Mi" } };
  await patchRebalancing(moe, model, {
    mode: "Auto",
    interval: "1s",
    trigger: { imbalancePercent: 101, minTokens: 200 },
    ...slow,
  });
  const moving = await watch.next("a new plan under way", (seen) => seen.epoch > epoch && isMoving(seen), 60_000);
  await system.run(["delete", "pods", "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force", "--wait=false"]);
  const killed = watch.latest ?? moving;
  assert.ok(isMoving(killed), `the plan had ended: ${killed.status.phase}`);
  await patchRebalancing(moe, model, { mode: "Off", budget: { maxTransferBytesPerSecond: null } });
  const ended = (seen: Seen): boolean => hasEnded(seen) && outcome(seen) !== outcome(killed);
  const settled = await watch.next("the plan to be settled by the new leader", ended, 90_000);
  process.stderr.write(`# ${settled.at - killed.at} ms after its leader was killed: ${settled.status.phase}: ${settled.status.reason}\n`);
  await waitReady(moe.kubectl, model);
  assert.deepEqual(await processes(), processesBefore);
  assert.equal(load.counts.failed, 0, load.errors[0]);
});

test("a worker killed while the operator is away costs no request", async () => {
  await system.run(["scale", "deployment/enodia", "--replicas=0"]);
  await until(
    "the operator to be gone",
    async () => ((await system.list("pods", "app.kubernetes.io/component=operator")).length === 0 ? true : undefined),
    { timeoutMs: 40_000 },
  );
  const [pod] = await workerPods(moe.kubectl, model);
  await moe.kubectl.run(["delete", "pod", pod?.metadata.name ?? "", "--grace-period=0", "--force", "--wait=false"]);
  const killed = Date.now();
  const answeredBefore = load?.counts.requests ?? 0;
  await sleep(20_000);
  const answered = load?.counts.requests ?? 0;
  await until("another request to finish", () => ((load?.counts.requests ?? 0) > answered ? true : undefined), { timeoutMs: 40_000 });
  process.stderr.write(
    `# ${answered - answeredBefore} requests in the first 20 s after the kill, the next ${((Date.now() - killed) / 1000 - 20).toFixed(1)} s later\n`,
  );
  await system.run(["scale", "deployment/enodia", "--replicas=2"]);
  await waitReady(moe.kubectl, model);
  await load?.stop();
  assert.equal(load?.counts.failed, 0, load?.errors[0]);
});
