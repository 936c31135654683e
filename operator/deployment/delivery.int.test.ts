// Downloads of models on a real API server with the real Job controller: what of a spec is refused, and the life of a Job whose pods are
// admitted by the restricted level and whose ends are written here, as a kubelet would.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { down } from "../../test/cluster/cluster.ts";
import { type ControlPlane, controlPlane } from "../../test/integration/control-plane.ts";
import { startDeploymentPlane } from "../../test/integration/deployment-plane.ts";
import { tellPod } from "../../test/integration/pod-status.ts";
import { until as poll } from "../../test/kit/processes/process.ts";
import { type Kube, type KubeObject, resources } from "../kube/kube.ts";

const name = "delivery-int";
const namespace = "delivery";
const manager = { manager: "test" };
let kube: Kube;
let kubectl: ControlPlane["kubectl"];

before(
  async () => {
    const plane = await controlPlane(name, 0);
    ({ kube, kubectl } = plane);
    const labels = { "pod-security.kubernetes.io/enforce": "restricted" };
    await plane.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace, labels } });
  },
  { timeout: 600_000 },
);
after(() => down(name));

const cache = { persistentVolumeClaim: { claimName: "models" } };
const object = (of: string, spec: object): KubeObject => ({
  apiVersion: "enodia.dev/v1alpha1",
  kind: "MoEDeployment",
  metadata: { name: of, namespace },
  spec: { replicas: 1, ...spec },
});
const create = (of: string, spec: object) => kube.create(resources.moeDeployments, object(of, spec), { ...manager, dryRun: true });

const secret = { name: "token" };
const form = /must be pvc:\/\/<claim>\/<folder>, hf:\/\/<owner>\/<name>\[@<revision>\], s3:\/\/.*secrets belong into secretRef/;
const refused: Record<string, { readonly model: object; readonly want: RegExp }> = {
  "another scheme": { model: { uri: "ftp://host/x", cache }, want: form },
  "http without TLS": { model: { uri: "http://host/x/", cache }, want: form },
  "credentials in a URL": { model: { uri: "https://user:pass@host/x/", cache }, want: form },
  "a signature in a URL": { model: { uri: "https://host/x.gguf?sig=1", cache }, want: form },
  "a hub without an owner": { model: { uri: "hf://name", cache }, want: form },
  "a hub's path that leaves it": { model: { uri: "hf://../name", cache }, want: form },
  "a bucket without a prefix": { model: { uri: "s3://bucket", cache }, want: form },
  "a path out of the claim": { model: { uri: "pvc://models/../etc" }, want: form },
  "nowhere to keep it": {
    model: { uri: "hf://org/name" },
    want: /model\.cache: .*cache is required for a model that is downloaded: set cache\.persistent/,
  },
  "a cache beside a claim": { model: { uri: "pvc://models/x", cache }, want: /model\.cache: .*pvc:\/\/ names its claim itself/ },
  "a Secret beside a claim": { model: { uri: "pvc://models/x", secretRef: secret }, want: /model\.secretRef: .*a claim needs none/ },
  "a cache that is nowhere": {
    model: { uri: "hf://org/name", cache: {} },
    want: /model\.cache: .*needs either persistentVolumeClaim or ephemeral/,
  },
  "a cache in two places": {
    model: { uri: "hf://org/name", cache: { ...cache, ephemeral: { sizeLimit: "1Gi" } } },
    want: /model\.cache: .*needs either persistentVolumeClaim or ephemeral/,
  },
  "a disk without a limit": {
    model: { uri: "hf://org/name", cache: { ephemeral: {} } },
    want: /ephemeral\.sizeLimit: Required/,
  },
  "a cache of another kind": {
    model: { uri: "hf://org/name", cache: { hostPath: {} } },
    want: /unknown field "spec\.model\.cache\.hostPath"/,
  },
};
for (const [what, { model, want }] of Object.entries(refused))
  test(`${what} is refused with the field and the remedy`, async () => {
    await assert.rejects(create("refused", { model }), want);
  });

test("each source's URIs are taken, with and without what may be left out", async () => {
  const uris = [
    ...["hf://Qwen/Qwen3-30B-A3B", "hf://Qwen/Qwen3-30B-A3B@main", "hf://Qwen/Qwen3-30B-A3B@refs/pr/1"],
    ...["s3://bucket.name/a/b_c.d", "s3://bucket/a/", "https://host:8443/a/b.gguf", "https://host/"],
  ];
  for (const uri of uris) {
    await create("taken", { model: { uri, cache } });
    await create("taken", { model: { uri, cache, secretRef: secret } });
  }
});

test("a model may change while it serves, also to one of a claim", async () => {
  const ref = { namespace, name: "changes" };
  await kube.create(resources.moeDeployments, object(ref.name, { model: { uri: "hf://org/name", cache } }), manager);
  const patch = (model: object) => kube.patch(resources.moeDeployments, ref, { spec: { model } }, { ...manager, dryRun: true });
  await patch({ uri: "hf://org/name@v2" });
  await patch({ uri: "s3://bucket/x" });
  await patch({ uri: "pvc://models/x", cache: null });
  await kube.delete(resources.moeDeployments, ref);
});

const until = <T>(what: string, probe: () => Promise<T | undefined>) => poll(what, probe, { timeoutMs: 60_000, everyMs: 100 });

const podsWith = async (of: string, component: string): Promise<any[]> =>
  (await kube.list(resources.pods, { namespace, labelSelector: `enodia.dev/deployment=${of},enodia.dev/component=${component}` })).items;

test("the Job's pod is admitted, its end decides, and the columns tell", { timeout: 240_000 }, async () => {
  const stop = await startDeploymentPlane(kube, namespace);
  const ref = { namespace, name: "hub" };
  const podsOf = (component: string) => podsWith("hub", component);
  const end = async (pod: any, phase: string, exitCode: number, message: object) => {
    const terminated = { exitCode, reason: exitCode === 0 ? "Completed" : "Error", message: JSON.stringify(message) };
    const one = { name: "downloader", image: "x", imageID: "x", ready: false, restartCount: 0, state: { terminated } };
    await tellPod(kube, pod, { phase, containerStatuses: [one] });
  };
  const available = async () =>
    ((await kube.get(resources.moeDeployments, ref))?.status as any)?.conditions?.find((one: any) => one.type === "ModelAvailable");
  try {
    const claim = { accessModes: ["ReadWriteMany"], resources: { requests: { storage: "1Gi" } } };
    const made = { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { name: "models", namespace }, spec: claim };
    await kube.create(resources.persistentVolumeClaims, made, manager);
    await kube.create(resources.moeDeployments, object("hub", { model: { uri: "hf://org/name", cache } }), manager);
    const [pod] = await until("the pod of the Job", async () =>
      (await podsOf("downloader")).length === 1 ? podsOf("downloader") : undefined,
    );
    await until("the condition", async () => ((await available())?.reason === "Downloading" ? true : undefined));
    const columns = (await kubectl("get", "moed", "hub", "-n", namespace, "-o", "wide")).split("\n");
    assert.match(columns[0] ?? "", /DOWNLOAD/);
    assert.match(columns[1] ?? "", / hf:\/\/org\/name .* Downloading/);
    await end(pod, "Failed", 3, { reason: "SourceRefused", message: "answered 401: give HF_TOKEN" });
    const told = await until("the reason", async () => ((await available())?.reason === "SourceRefused" ? available() : undefined));
    assert.match(
      told.message,
      /answered 401: give HF_TOKEN; it is tried again 120 s after that, and at once where Job hub-model-\w+ is deleted/,
    );
    assert.deepEqual([(await podsOf("downloader")).length, (await podsOf("worker")).length], [1, 0], "no second try of what is hopeless");
    await kubectl("delete", "jobs", "-n", namespace, "-l", "enodia.dev/deployment=hub");
    const again = await until("another pod", async () => (await podsOf("downloader")).find((one) => one.metadata.uid !== pod.metadata.uid));
    await end(again, "Succeeded", 0, { reason: "Done", message: "digest", revision: "c0ffee" });
    const [worker] = await until("a rank", async () => ((await podsOf("worker")).length === 1 ? podsOf("worker") : undefined));
    assert.equal(worker.spec.volumes.find((one: any) => one.name === "models").persistentVolumeClaim.claimName, "models");
    const { status } = (await until("its end in the status", async () => {
      const now = (await kube.get(resources.moeDeployments, ref)) as any;
      return now.status.download.phase === "Done" ? now : undefined;
    })) as any;
    assert.deepEqual(status.download, { uri: "hf://org/name", revision: "c0ffee", phase: "Done", progress: "Done" });
  } finally {
    await stop();
  }
});

test("a claim for one node: the weight server's pod and the ranks' are admitted, it comes first, and goes when it is not wanted", {
  timeout: 240_000,
}, async () => {
  const stop = await startDeploymentPlane(kube, namespace);
  const ref = { namespace, name: "single" };
  const reason = async () =>
    ((await kube.get(resources.moeDeployments, ref))?.status as any)?.conditions?.find((one: any) => one.type === "ModelAvailable")?.reason;
  try {
    const claim = { accessModes: ["ReadWriteOnce"], resources: { requests: { storage: "1Gi" } } };
    const made = { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { name: "single", namespace }, spec: claim };
    await kube.create(resources.persistentVolumeClaims, made, manager);
    await kube.create(resources.moeDeployments, object(ref.name, { model: { uri: "pvc://single/moe" } }), manager);
    const [pod] = await until("the weight server's pod", async () =>
      (await podsWith(ref.name, "weight-server")).length === 1 ? podsWith(ref.name, "weight-server") : undefined,
    );
    await until("the condition", async () => ((await reason()) === "WeightServerNotReady" ? true : undefined));
    assert.equal((await podsWith(ref.name, "worker")).length, 0);
    const status = { phase: "Running", podIP: "10.1.2.3", podIPs: [{ ip: "10.1.2.3" }], conditions: [{ type: "Ready", status: "True" }] };
    await tellPod(kube, pod, status);
    const [worker] = await until("a rank", async () =>
      (await podsWith(ref.name, "worker")).length === 1 ? podsWith(ref.name, "worker") : undefined,
    );
    assert.deepEqual(worker.spec.volumes.find((one: any) => one.name === "models").emptyDir, {});
    const weightServers = async () => (await kube.get(resources.deployments, { namespace, name: "single-weight-server" })) as any;
    const patch = (spec: object) => kube.patch(resources.moeDeployments, ref, { spec }, manager);
    await patch({ suspend: true });
    await until("no weight server while suspended", async () => ((await weightServers()).spec.replicas === 0 ? true : undefined));
    await patch({ model: { uri: "pvc://models/moe" } });
    await until("nothing of the weight server", async () => ((await weightServers()) === undefined ? true : undefined));
    await until("not its Service", async () =>
      (await kube.get(resources.services, { namespace, name: "single-weight-server" })) === undefined ? true : undefined,
    );
  } finally {
    await stop();
  }
});
