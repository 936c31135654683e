// The simulated kubelet on the in-memory API, which keeps the contract of the real one: what becomes of a pod from its node to its end.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type KubeObject, resources } from "../../operator/kube/kube.ts";
import { FakeKube } from "../kit/kube/fake-kube.ts";
import { until } from "../kit/processes/process.ts";
import { type PodStart, SimulatedNodes } from "./nodes.ts";

const manager = { manager: "test" };
const ref = { namespace: "ns", name: "p" };

function pod(nodeName: string | undefined): KubeObject {
  const volumes = [{ name: "tls", secret: { secretName: "p-tls" } }];
  const spec = { containers: [{ name: "runtime", image: "i" }], volumes, ...(nodeName === undefined ? {} : { nodeName }) };
  return { apiVersion: "v1", kind: "Pod", metadata: ref, spec };
}

const ends: (() => Promise<void>)[] = [];
after(() => Promise.all(ends.map((end) => end())));

async function world() {
  const kube = new FakeKube();
  const state = { ready: false, ended: [] as number[] };
  const started: PodStart[] = [];
  const start = async (given: PodStart) => {
    started.push(given);
    const stop = async (graceMs: number) => void state.ended.push(graceMs);
    return { ready: () => state.ready, stop };
  };
  const errors: unknown[] = [];
  const onError = (error: unknown) => void errors.push(error);
  const nodes = new SimulatedNodes({ kube, count: 2, podsPerNode: 10, start, network: "127.99", onError });
  ends.push(() => nodes.stop());
  await nodes.start();
  const status = async () => (await kube.get(resources.pods, ref))?.status as any;
  const is = (what: string, holds: (found: any) => boolean) =>
    until(what, async () => (holds(await status()) ? true : undefined), { timeoutMs: 20_000, everyMs: 20 });
  return { kube, nodes, state, started, errors, status, is };
}

const readiness = (found: any): string | undefined => found?.conditions?.find((one: any) => one.type === "Ready")?.status;

test("a pod runs once it has a node and its Secrets, is ready when its process is, and is gone when that has ended", {
  timeout: 60_000,
}, async () => {
  const { kube, state, started, errors, status, is } = await world();
  assert.equal(kube.all(resources.nodes).length, 2);
  await kube.create(resources.pods, pod("sim-1"), manager);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(started.length, 0, "its Secret is not there");
  const data = { "tls.crt": Buffer.from("certificate").toString("base64") };
  await kube.create(resources.secrets, { apiVersion: "v1", kind: "Secret", metadata: { namespace: "ns", name: "p-tls" }, data }, manager);
  await is("it to run", (found) => found?.phase === "Running" && readiness(found) === "False");
  assert.deepEqual(started[0]?.secret("p-tls"), { "tls.crt": "certificate" });
  assert.equal((await status()).podIP, started[0]?.ip);
  state.ready = true;
  await is("it to be ready", (found) => readiness(found) === "True");
  state.ready = false;
  await is("it to be ready no more", (found) => readiness(found) === "False");
  await kube.delete(resources.pods, ref, { graceSeconds: 30 });
  await until("it to be gone", async () => ((await kube.get(resources.pods, ref)) === undefined ? true : undefined), { timeoutMs: 20_000 });
  assert.equal(state.ended.length, 1);
  assert.ok(state.ended[0]! > 10_000 && state.ended[0]! <= 30_000, `it had ${state.ended[0]} ms`);
  assert.deepEqual(errors, []);
});

test("a node that was switched off ends its processes and says nothing more, not even of pods that are deleted; another takes their place", {
  timeout: 60_000,
}, async () => {
  const { kube, nodes, state, started, errors, status, is } = await world();
  state.ready = true;
  const data = { "tls.crt": "" };
  await kube.create(resources.secrets, { apiVersion: "v1", kind: "Secret", metadata: { namespace: "ns", name: "p-tls" }, data }, manager);
  await kube.create(resources.pods, pod("sim-1"), manager);
  await is("it to be ready", (found) => readiness(found) === "True");
  await nodes.off("sim-1");
  assert.deepEqual(state.ended, [0]);
  await kube.delete(resources.pods, ref, { graceSeconds: 1 });
  await new Promise((resolve) => setTimeout(resolve, 2_500));
  assert.equal(readiness(await status()), "True", "nobody has told otherwise");
  await kube.delete(resources.pods, ref, { graceSeconds: 0 });
  await nodes.add(1);
  await kube.create(resources.pods, pod("sim-2"), manager);
  await until("the pod to run on the new node", () => started[1], { timeoutMs: 20_000 });
  assert.deepEqual(errors, []);
});

test("a node that was taken for lost says that it is well", { timeout: 60_000 }, async () => {
  const { kube } = await world();
  const ready = async (): Promise<unknown> =>
    ((await kube.get(resources.nodes, { namespace: "", name: "sim-0" }))?.status as any)?.conditions[0].status;
  const lost = { status: { conditions: [{ type: "Ready", status: "Unknown" }] } };
  const found = await kube.get(resources.nodes, { namespace: "", name: "sim-0" });
  await kube.updateStatus(resources.nodes, { ...found!, ...lost }, { manager: "controllers" });
  assert.equal(await ready(), "Unknown");
  await until("it to be ready", async () => ((await ready()) === "True" ? true : undefined), { timeoutMs: 20_000 });
});

test("a pod that no node has is left alone", { timeout: 30_000 }, async () => {
  const { kube, started } = await world();
  await kube.create(resources.pods, pod(undefined), manager);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.equal(started.length, 0);
});
