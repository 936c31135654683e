import assert from "node:assert/strict";
import { test } from "node:test";
import { bundleEntries } from "./bundle.ts";
import { redacted, redactedLine, scrubbedText } from "./redact.ts";

const secret = "s3cr3t-planted";
const meta = (name: string) => ({
  name,
  namespace: "ns",
  labels: { "enodia.dev/deployment": "moe", "team.example/key": secret },
  annotations: { "kubectl.kubernetes.io/last-applied-configuration": secret, "enodia.dev/leaving": "Roll" },
  managedFields: [{ manager: secret }],
});
const sidecar = {
  name: "agent",
  image: "agent:1",
  args: [`--token=${secret}`],
  command: ["sh", "-c", secret],
  env: [{ name: "AGENT_TOKEN", value: secret }],
  livenessProbe: { httpGet: { httpHeaders: [{ name: "Authorization", value: secret }] } },
};
const runtime = {
  name: "runtime",
  image: "enodia/runtime:0.1.0",
  env: [
    { name: "ENODIA_RANK", value: "3" },
    { name: "ENODIA_NATS_URL", value: `nats://user:${secret}@nats:4222` },
    { name: "ENODIA_OTLP_ENDPOINT", value: `https://collector/v1?key=${secret}` },
    { name: "ENODIA_OF_SOMEBODY", value: secret },
    { name: "KEY", valueFrom: { secretKeyRef: { name: "keys", key: "k" } } },
  ],
};
const podSpec = { containers: [runtime, sidecar], volumes: [{ name: "v", csi: { volumeAttributes: { password: secret } } }] };
const ended = (name: string) => ({
  name,
  restartCount: 1,
  state: {},
  lastState: { terminated: { exitCode: 1, message: `token=${secret}` } },
});

const objects: Readonly<Record<string, any>> = {
  pod: {
    kind: "Pod",
    metadata: meta("moe-0"),
    spec: podSpec,
    status: {
      phase: "Running",
      containerStatuses: [ended("runtime"), { ...ended("agent"), lastState: { terminated: { message: secret } } }],
    },
  },
  deployment: {
    kind: "MoEDeployment",
    metadata: meta("moe"),
    spec: {
      model: { uri: "pvc://models/moe" },
      podTemplate: { metadata: { annotations: { "example.com/x": secret } }, spec: podSpec },
      gateway: { podTemplate: { spec: podSpec }, apiKeySecretRef: { name: "keys" } },
      telemetry: { nats: { url: `nats://user:${secret}@nats:4222` } },
      later: { field: secret },
    },
    status: { conditions: [{ type: "Ready", message: `Authorization: Bearer ${secret}` }] },
  },
  event: {
    kind: "Event",
    metadata: meta("e"),
    reason: "Failed",
    note: `pulling from https://me:${secret}@registry/x`,
    regarding: { name: "moe-0" },
  },
  job: {
    kind: "MoETrainingJob",
    metadata: meta("job"),
    spec: { output: { uri: "pvc://models/out" }, podTemplate: { spec: podSpec }, later: { field: secret } },
    status: { curve: [{ step: 1, loss: "2.5" }], lastFailure: { message: `Authorization: Bearer ${secret}` } },
  },
  claim: { kind: "PersistentVolumeClaim", metadata: meta("models"), spec: { accessModes: ["ReadWriteMany"], volumeName: secret } },
  operator: { kind: "Deployment", metadata: meta("enodia"), spec: { replicas: 2, template: { metadata: meta(""), spec: podSpec } } },
};

test("bundle: a secret in any field that is not allowed, or that looks like one, stays behind", () => {
  for (const [name, object] of Object.entries(objects)) {
    const text = JSON.stringify(redacted(object));
    assert.ok(!text.includes(secret), `${name}: ${text}`);
  }
});

test("bundle: what a supporter needs of the same objects is there", () => {
  const pod = redacted(objects.pod) as any;
  assert.equal(pod.spec.containers[0].env.find(({ name }: any) => name === "ENODIA_RANK").value, "3");
  assert.equal(pod.spec.containers[0].env.find(({ name }: any) => name === "ENODIA_NATS_URL").value, "nats://nats:4222");
  assert.deepEqual(pod.metadata.labels, { "enodia.dev/deployment": "moe" });
  assert.equal(pod.status.containerStatuses[0].lastState.terminated.exitCode, 1);
  const deployment = redacted(objects.deployment) as any;
  assert.equal(deployment.spec.model.uri, "pvc://models/moe");
  assert.equal(deployment.spec.podTemplate.spec.containers[1].image, "agent:1");
  assert.equal("later" in deployment.spec, false, "a field that this version does not know is not handed on");
});

test("bundle: kinds that are not named are not handed on at all", () => {
  for (const kind of ["Secret", "ConfigMap", "ServiceAccount", "toString"])
    assert.equal(redacted({ kind, metadata: { name: "x" }, data: { a: secret } } as any), undefined);
});

const texts: Readonly<Record<string, string>> = {
  "an address with a password": `nats://user:${secret}@host:4222`,
  "a bearer token": `authorization: Bearer ${secret}`,
  "a name and its value": `api_key=${secret}`,
  JSON: `{"password":"${secret}"}`,
  "JSON in JSON": JSON.stringify(JSON.stringify({ password: secret })),
  "a password with a quote": JSON.stringify({ password: `a"${secret}` }),
  "a password with spaces": `"password": "one two ${secret}", "a": 1`,
  "an address whose password has an @": `https://user:p@${secret}@host/path`,
  "a signed address": `https://bucket.example/model?X-Amz-Date=1&X-Amz-Signature=${secret}`,
  "another signed address": `https://store.example/model?sv=1&sig=${secret}`,
  "a token of a hub": `hf_${"x".repeat(10)}${secret}`,
  "a key in PEM": `-----BEGIN PRIVATE KEY-----\n${secret}\n-----END PRIVATE KEY-----`,
  "a key in PEM that is cut off": `-----BEGIN PRIVATE KEY-----\n${secret}`,
  "a JSON Web Token": `eyJhbGciOi.${secret}.${secret}`,
};
for (const [name, text] of Object.entries(texts))
  test(`bundle: a text loses ${name}`, () => assert.ok(!scrubbedText(text).includes(secret), scrubbedText(text)));

test("bundle: a text without credentials stays as it is", () => {
  const text = "RanksNotReady: 1 of 3 ranks serve: moe-0: CrashLoopBackOff, 4 restarts; 512Mi, token 17 of 4096 tokens";
  assert.equal(scrubbedText(text), text);
});

test("bundle: of log lines only ours are kept, with texts of known fields", () => {
  const at = "2026-03-01T10:00:00Z";
  const line = {
    level: "warn",
    name: "gateway",
    message: "request failed",
    requestId: "r-1",
    traceId: "0af7651916cd43dd8448eb211c80319c",
    tokens: 7,
    prompt: secret,
    err: { message: `token: ${secret}`, note: secret },
  };
  const kept = redactedLine(`${at} ${JSON.stringify(line)}`);
  assert.ok(!kept.includes(secret), kept);
  for (const word of ["request failed", "r-1", "0af7651916cd43dd8448eb211c80319c", '"tokens":7', at]) assert.ok(kept.includes(word), word);
  assert.equal(redactedLine(`${at} ${secret}`), `${at} [a line of ${secret.length} characters that is no log line of ours]`);
});

test("bundle: the archive as a whole has no planted secret, and a page that names what could not be read", () => {
  const entries = bundleEntries({
    kind: "MoEDeployment",
    namespace: "ns",
    name: "moe",
    version: "0.1.0",
    now: new Date("2026-03-01T10:00:00Z"),
    objects: { all: Object.values(objects) },
    texts: { "status.txt": `why: password=${secret}` },
    logs: { "moe-0": [`2026-03-01T10:00:00Z ${secret}`] },
    metrics: { "moe-0": `enodia_ready 1\nother_metric{token="${secret}"} 1` },
    unread: [{ what: "nodes", why: `forbidden, token=${secret}` }],
  });
  const all = entries.map(({ path, content }) => `${path}\n${Buffer.from(content ?? []).toString()}`).join("\n");
  assert.ok(!all.includes(secret));
  assert.deepEqual(
    entries.map(({ path }) => path),
    ["logs/moe-0.log", "metrics/moe-0.txt", "objects/all.json", "README.txt", "status.txt"].map((path) => `enodia-moe/${path}`),
  );
  assert.match(all, /Could not be read:\n {2}nodes: forbidden/);
  assert.match(all, /enodia_ready 1/);
});
