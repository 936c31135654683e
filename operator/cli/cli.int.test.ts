// The commands that read a cluster, on a real API server without a node: as a new user would run them, before an install, with planted
// faults, and with fewer rights than they would like.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { encodeLayer } from "../../crds/plan.ts";
import { down, open } from "../../test/cluster/cluster.ts";
import { type ControlPlane, controlPlane, root } from "../../test/integration/control-plane.ts";
import { exec, execOk, type Finished, until } from "../../test/kit/processes/process.ts";
import { type KubeObject, resources } from "../kube/kube.ts";

const name = "cli-int";
const namespace = "serving";
const manager = { manager: "test" };
const secret = "s3cr3t-planted";
const patient = { timeoutMs: 60_000 };
let plane: ControlPlane;
let kubeconfig: string;
let folder: string;

const enodia = (args: readonly string[], config = kubeconfig): Promise<Finished> =>
  exec(process.execPath, [join(root, "operator/cli/main.ts"), ...args], { env: { ...process.env, KUBECONFIG: config }, cwd: folder });
async function told(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await enodia(args);
  assert.equal(code, 0, stderr);
  return stdout;
}

before(
  async () => {
    plane = await controlPlane(name, 0);
    kubeconfig = open(name).kubeconfig;
    folder = mkdtempSync(join(tmpdir(), "enodia-cli-"));
    await plane.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  },
  { timeout: 600_000 },
);
after(async () => {
  await down(name);
  if (folder) rmSync(folder, { recursive: true });
});

const worker = (rank: number): KubeObject => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: {
    name: `moe-${rank}-abcde`,
    namespace,
    labels: { "enodia.dev/deployment": "moe", "enodia.dev/component": "worker", "enodia.dev/rank": String(rank) },
  },
  spec: {
    containers: [
      {
        name: "runtime",
        image: "enodia/runtime:0.1.0",
        env: [{ name: "HF_TOKEN", value: secret }],
        resources: { limits: { memory: "512Mi" } },
      },
    ],
  },
});

test("doctor before an install: the CRDs are this version's as the API server gives them back, and no node is ready", async () => {
  const { code, stdout } = await until(
    "the namespace to have a service account",
    async () => {
      const done = await enodia(["doctor", "-n", namespace]);
      return done.stdout.includes("no service account yet") ? undefined : done;
    },
    patient,
  );
  assert.equal(code, 1, stdout);
  for (const plural of ["moedeployments", "expertplacements", "moetrainingjobs"])
    assert.match(stdout, new RegExp(`^ok +CRDs +${plural}\\.enodia\\.dev is that of `, "m"));
  assert.match(stdout, /^FAIL {2}nodes +0 of 0 nodes are ready/m);
  assert.match(stdout, /^ok +API server +v1\./m);
  assert.match(stdout, /^ok +your rights to install/m);
  assert.match(stdout, /^ok +admission of pods +serving takes pods like those of the operator/m);
  assert.match(stdout, /^ok +operator +none is installed yet/m);
});

test("doctor finds a CRD that lacks a field", async () => {
  const path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/experts/properties/minExpertReplicas";
  await plane.kubectl("patch", "crd", "moedeployments.enodia.dev", "--type=json", "-p", JSON.stringify([{ op: "remove", path }]));
  try {
    const { stdout } = await enodia(["doctor"]);
    assert.match(stdout, /^warn +CRDs +moedeployments\.enodia\.dev is not that of .*: it lacks spec\.experts\.minExpertReplicas$/m);
  } finally {
    await plane.kubectl("apply", "-f", join(root, "crds/manifests"));
  }
});

test("doctor finds namespaces that refuse pods, and a refused namespace costs no other answer", async () => {
  const quota = { apiVersion: "v1", kind: "ResourceQuota", metadata: { name: "none", namespace: "full" }, spec: { hard: { pods: "0" } } };
  await plane.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: "full" } }, quota);
  const refused = await until(
    "the quota to be enforced",
    async () => {
      const { stdout } = await enodia(["doctor", "-n", "full"]);
      return /^FAIL {2}admission of pods .*exceeded quota/m.test(stdout) ? stdout : undefined;
    },
    patient,
  );
  assert.match(refused, /^ok +API server/m);
});

test("doctor knows a node's clock by its lease, which is renewed as a kubelet does it", async () => {
  const ref = { namespace: "kube-node-lease", name: "node-a" };
  const renewed = async (aheadMs: number): Promise<string> => {
    const spec = {
      holderIdentity: ref.name,
      leaseDurationSeconds: 40,
      renewTime: new Date(Date.now() + aheadMs).toISOString().replace("Z", "000Z"),
    };
    const lease = await plane.kube.get(resources.leases, ref);
    const kubelet = { manager: "kubelet" };
    if (lease) await plane.kube.update(resources.leases, { ...lease, spec }, kubelet);
    else await plane.kube.create(resources.leases, { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata: ref, spec }, kubelet);
    return (await enodia(["doctor"])).stdout;
  };
  await renewed(0);
  await sleep(12_000); // longer than the bound: the API server has to note the time of the second write
  assert.match(await renewed(0), /^ok +clocks +1 nodes are within 10 s/m);
  assert.match(await renewed(60_000), /^warn +clocks +.*node-a (59|60|61) s ahead/m);
  await plane.kube.delete(resources.leases, ref);
});

test("status of nothing says so, and status of a name that is not there says where to look", async () => {
  assert.equal(
    await told("status", "-n", namespace),
    `no MoEDeployment and no MoETrainingJob in namespace ${namespace}; -A looks at all namespaces\n`,
  );
  const missing = await enodia(["status", "nobody", "-n", namespace]);
  assert.equal(missing.code, 1);
  assert.equal(missing.stderr, `enodia: no MoEDeployment "nobody" in namespace ${namespace}; see: enodia status -A\n`);
});

const conditions = [
  ["Ready", "False", "RanksNotReady", "0 of 2 ranks serve: moe-0-abcde: Unschedulable"],
  ["Available", "False", "BelowMinServing", "0 of at least 1 ranks serve"],
  ["TelemetryFresh", "False", "NATSUnavailable", "nats://nats:4222 does not answer"],
].map(([type, status, reason, message]) => ({
  type,
  status,
  reason,
  message,
  lastTransitionTime: "2026-03-01T10:00:00Z",
  observedGeneration: 1,
}));

test("status finds what is wrong with a deployment: its pods have no node, for which reason it does not serve", async () => {
  const spec = { model: { uri: "pvc://models/moe" }, replicas: 2 };
  const made = await plane.kube.create(
    resources.moeDeployments,
    { apiVersion: "enodia.dev/v1alpha1", kind: "MoEDeployment", metadata: { name: "moe", namespace }, spec },
    manager,
  );
  await plane.kube.applyStatus(
    resources.moeDeployments,
    { apiVersion: made.apiVersion, kind: made.kind, metadata: { name: "moe", namespace }, status: { observedGeneration: 1, conditions } },
    manager,
  );
  for (const rank of [0, 1]) await plane.kube.create(resources.pods, worker(rank), manager);
  const text = await until(
    "the scheduler to look at the pods",
    async () => {
      const stdout = await told("status", "-A");
      return stdout.includes("no node has room") ? stdout : undefined;
    },
    patient,
  );
  const lines = text.split("\n");
  assert.equal(lines[0], "2 things are wrong, the worst first");
  assert.equal(lines[2], `CRITICAL  moed ${namespace}/moe: worker moe-0-abcde, moe-1-abcde: no node has room`);
  assert.match(lines[3] ?? "", /^ {2}why {2}no nodes available to schedule pods|0\/0 nodes are available/);
  assert.equal(lines[4], "  so   does not serve (0 of at least 1 ranks serve), is not ready (0 of 2 ranks serve)");
  assert.match(lines[5] ?? "", /^ {2}do {3}enodia doctor/);
  assert.match(text, /^WARNING {3}moed serving\/moe: no load is heard/m);
  assert.match(text, /^serving +moe +RanksNotReady +0\/2 +-/m);
});

test("status as JSON has the findings, and of one deployment its ranks", async () => {
  const all = JSON.parse(await told("status", "moe", "-n", namespace, "-o", "json"));
  assert.deepEqual(
    all.findings.map(({ severity, code }: any) => `${severity} ${code}`),
    ["critical Unscheduled", "warning NATSUnavailable"],
  );
  assert.deepEqual(
    all.deployments[0].ranks.map(({ rank, state }: any) => [rank, state]),
    [
      [0, "Pending"],
      [1, "Pending"],
    ],
  );
});

test("status tells warnings of the cluster, and a spec that nobody looks at", async () => {
  const pod = await plane.kube.get(resources.pods, { namespace, name: "moe-0-abcde" });
  const at = new Date().toISOString();
  await plane.apply({
    apiVersion: "v1",
    kind: "Event",
    metadata: { name: "moe-0.mount", namespace },
    involvedObject: { apiVersion: "v1", kind: "Pod", name: "moe-0-abcde", namespace, uid: pod?.metadata.uid },
    reason: "FailedMount",
    message: "no such volume",
    type: "Warning",
    count: 2,
    firstTimestamp: at,
    lastTimestamp: at,
  });
  await plane.kubectl("patch", "moed", "moe", "-n", namespace, "--type=merge", "-p", '{"spec":{"replicas":3}}');
  const text = await until(
    "the change to be old enough",
    async () => {
      const stdout = await told("status", "moe", "-n", namespace);
      return stdout.includes("nobody acts on its spec") ? stdout : undefined;
    },
    patient,
  );
  assert.match(text, /^ {2}why {2}generation 2 is there since \d+ (s|min), and the operator has looked at generation 1 last/m);
  assert.match(text, /pod moe-0-abcde: FailedMount\n {2}why {2}no such volume \(2 times, /);
  assert.match(text, /^RANK +POD/m);
});

test("status --watch writes again when something has changed, and ends by a signal with 0", { timeout: 60_000 }, async () => {
  const child = spawn(process.execPath, [join(root, "operator/cli/main.ts"), "status", "-n", namespace, "--watch"], {
    env: { ...process.env, KUBECONFIG: kubeconfig },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  const seen = (what: RegExp) => until(`"${what}" to be written`, async () => (what.test(text) ? true : undefined), patient);
  await seen(/RanksNotReady/);
  await plane.kubectl("patch", "moed", "moe", "-n", namespace, "--type=merge", "-p", '{"spec":{"replicas":1}}');
  await seen(/0\/1/);
  child.kill("SIGINT");
  assert.deepEqual(await once(child, "exit"), [0, null]);
});

test("experts draws the plan, and writes a picture that it may write again", async () => {
  const layers = [{ hosts: [[0], [1, 0]], weights: [[1000], [500, 500]] }].map((plan, layer) => ({
    layer,
    epoch: 3,
    ...encodeLayer(plan),
  }));
  const ranks = [0, 1].map((rank) => ({ rank, podName: `moe-${rank}-abcde`, podUID: `u${rank}` }));
  await plane.kube.create(
    resources.expertPlacements,
    {
      apiVersion: "enodia.dev/v1alpha1",
      kind: "ExpertPlacement",
      metadata: { name: "moe", namespace },
      spec: { deploymentUID: "u", epoch: 3, parentEpoch: 0, planHash: "h", modelDigest: "d", ranks, layers },
    },
    manager,
  );
  for (let times = 0; times < 2; times += 1) {
    const text = await told("experts", "moe", "-n", namespace, "--svg", "map.svg");
    assert.match(text, /^ +0 \|#\+\| +2 experts, +1 secondary/m);
  }
  assert.match(readFileSync(join(folder, "map.svg"), "utf8"), /^<svg .*data-made-by="enodia experts"/);
});

test("logs and top say what they miss where no pod runs", async () => {
  const logs = await enodia(["logs", "moe", "-n", namespace]);
  assert.equal(logs.code, 1);
  assert.match(logs.stderr, /^enodia: moe-0-abcde: /m);
  assert.match(await told("top", "moe", "-n", namespace), /^ +0 +moe-0-abcde +Pending +- /m);
});

test("bundle writes an archive that has the objects and not the secret, and replaces no file", async () => {
  const said = await told("bundle", "moe", "-n", namespace, "-o", "moe.tar.gz");
  assert.match(said, /^moe\.tar\.gz: \d+ bytes/);
  const listed = (await execOk("tar", ["-tzf", join(folder, "moe.tar.gz")])).split("\n");
  for (const file of [
    "README.txt",
    "status.txt",
    "doctor.txt",
    "objects/moedeployment.json",
    "objects/pods.json",
    "objects/expertplacement.json",
  ])
    assert.ok(listed.includes(`enodia-moe/${file}`), file);
  const text = await execOk("tar", ["-xzOf", join(folder, "moe.tar.gz")]);
  assert.ok(text.includes("moe-0-abcde") && text.includes("HF_TOKEN") && text.includes("BelowMinServing"));
  assert.ok(!text.includes(secret));
  assert.equal(statSync(join(folder, "moe.tar.gz")).mode & 0o777, 0o600, "it is for its owner alone");
  const again = await enodia(["bundle", "moe", "-n", namespace, "-o", "moe.tar.gz"]);
  assert.match(again.stderr, /^enodia: -o: cannot write moe\.tar\.gz/);
});

test("bundle and logs take a training job, with its pods and events and not with those of the deployment", async () => {
  const labels = { "enodia.dev/training-job": "moe", "enodia.dev/component": "trainer", "enodia.dev/rank": "0" };
  const { spec } = worker(0);
  const pod = { apiVersion: "v1", kind: "Pod", metadata: { namespace, name: "moe-train-0-0", labels }, spec };
  const job = {
    apiVersion: "enodia.dev/v1alpha1",
    kind: "MoETrainingJob",
    metadata: { namespace, name: "moe" },
    spec: {
      model: { uri: "pvc://models/moe" },
      data: { uri: "pvc://models/data" },
      steps: 10,
      memoryPerRank: "1Gi",
      output: { uri: "pvc://models/out" },
      podTemplate: { metadata: { annotations: { "example.com/token": secret } } },
    },
  };
  await plane.apply(pod, job);
  const logs = await enodia(["logs", "job/moe", "-n", namespace]);
  assert.match(logs.stderr, /^enodia: moe-train-0-0: /m);
  assert.doesNotMatch(logs.stderr, /moe-0-abcde/);
  await told("bundle", "job/moe", "-n", namespace, "-o", "job.tar.gz");
  const text = await execOk("tar", ["-xzOf", join(folder, "job.tar.gz")]);
  assert.ok(text.includes("moe-train-0-0") && text.includes("pvc://models/out") && !text.includes("moe-0-abcde"));
  assert.match(text, /Support archive of MoETrainingJob serving\/moe/);
  assert.ok(!text.includes(secret));
  const missing = await enodia(["bundle", "job/nowhere", "-n", namespace]);
  assert.match(missing.stderr, /no MoETrainingJob "nowhere" in namespace serving/);
});

test("completion asks the cluster for names", async () => {
  assert.equal(await told("completion", "words", "status", "-n", namespace, ""), "moe\n");
  assert.equal(await told("completion", "words", "logs", "-n", namespace, ""), "moe\njob/moe\n");
  assert.equal(await told("completion", "words", "bundle", "-n", namespace, "job/"), "job/moe\n");
  assert.equal(await told("completion", "kubectl", "sta"), "status\n:4\n");
});

test("doctor after an install: no replica is ready, for which reason, and nobody leads", async () => {
  const labels = { "app.kubernetes.io/part-of": "enodia", "app.kubernetes.io/component": "operator" };
  const containers = [{ name: "operator", image: "enodia/operator:0.1.0" }];
  await plane.apply(
    { apiVersion: "v1", kind: "Namespace", metadata: { name: "enodia-system" } },
    {
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "enodia", namespace: "enodia-system", labels },
      spec: { selector: { matchLabels: labels }, template: { metadata: { labels }, spec: { containers } } },
    },
  );
  const text = await until(
    "the scheduler to look at its pod",
    async () => {
      const { stdout } = await enodia(["doctor", "-n", namespace]);
      return stdout.includes("no node has room") ? stdout : undefined;
    },
    patient,
  );
  assert.match(text, /^FAIL {2}operator +enodia-system\/enodia: 0 of 1 replicas are ready/m);
  assert.match(text, /^warn {2}operator +pod enodia-\S+: no node has room: /m);
  assert.match(text, /^FAIL {2}leader +the lease enodia-system\/enodia-operator is not there/m);
  assert.match(text, /^FAIL {2}the operator's rights +system:serviceaccount:enodia-system:default may not /m);
  assert.match(text, /^warn {2}model claims +claim serving\/models of a deployment is not there/m);
});

test("with the rights to see deployments alone, status and bundle say what they could not look at", async () => {
  const user = "looker";
  await plane.kubectl("create", "serviceaccount", user, "-n", namespace);
  await plane.kubectl("create", "role", user, "-n", namespace, "--verb=get,list", "--resource=moedeployments.enodia.dev");
  await plane.kubectl("create", "rolebinding", user, "-n", namespace, `--role=${user}`, `--serviceaccount=${namespace}:${user}`);
  const token = (await plane.kubectl("create", "token", user, "-n", namespace)).trim();
  const config = JSON.parse(await plane.kubectl("config", "view", "--raw", "-o", "json"));
  config.users = [{ name: user, user: { token } }];
  for (const { context } of config.contexts) context.user = user;
  const path = join(folder, "looker.json");
  await execOk("sh", ["-c", `cat > ${path}`], { input: JSON.stringify(config) });
  const stdout = await until(
    "the API server to know the rights",
    async () => {
      const status = await enodia(["status", "-n", namespace], path);
      return status.code === 0 ? status.stdout : undefined;
    },
    patient,
  );
  assert.match(stdout, /^not looked at, so nothing is said of it:$/m);
  for (const what of ["pods", "events", "moetrainingjobs"]) assert.match(stdout, new RegExp(`^ {2}${what}: .*forbidden`, "m"));
  const doctor = await enodia(["doctor", "-n", namespace], path);
  assert.match(doctor.stdout, /^warn +your rights to look +you may not .*pods\/proxy/m);
  assert.match(doctor.stdout, /^skip +operator/m);
  const bundle = await enodia(["bundle", "moe", "-n", namespace, "-o", "little.tar.gz"], path);
  assert.equal(bundle.code, 0, bundle.stderr);
  for (const what of ["status", "pods", "expertplacements moe", "logs"])
    assert.match(bundle.stderr, new RegExp(`^enodia: not in it: ${what}: .*forbidden`, "m"));
});
