import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { customResourceDefinition, kinds } from "../../../crds/index.ts";
import { doctorText } from "../doctor-text.ts";
import { judgeFamilies, judgeMetricsApi, judgeVersion, leastMinor } from "./api-server.ts";
import { judgeCertificates } from "./certificates.ts";
import { type Check, type Context, type OperatorFacts, type Outcome, ok } from "./check.ts";
import { compareSchemas, judgeCrd } from "./crds.ts";
import { judgeFreeBytes, judgeNoSource, judgeSource, modelSource, neededBytes } from "./disk-check.ts";
import { count, examine } from "./index.ts";
import { judgeAbsence, judgeServer, judgeTelemetry, nats } from "./nats.ts";
import { amount, freeOf, judgeClocks, judgeFree, judgeNodes } from "./nodes.ts";
import { judgeOperators } from "./operator.ts";
import { judgeClaim, judgeClasses } from "./storage.ts";

const now = new Date("2026-03-01T10:00:00Z");
const dayMs = 86_400_000;
const Gi = 2 ** 30;
const levels = (outcomes: readonly Outcome[]): string => outcomes.map(({ level }) => level).join(" ");

const operator = (more: Partial<OperatorFacts> = {}): OperatorFacts => ({
  namespace: "enodia-system",
  name: "enodia",
  image: "enodia/operator:0.1.0",
  version: "0.1.0",
  serviceAccount: "enodia",
  replicas: 2,
  ready: 2,
  watched: [],
  ...more,
});
const judged = (...operators: readonly OperatorFacts[]) => judgeOperators({ operators, version: "0.1.0" });

const node = (name: string, more: { ready?: boolean; cordoned?: boolean; arch?: string; gpus?: string } = {}) => ({
  apiVersion: "v1",
  kind: "Node",
  metadata: { name },
  spec: { unschedulable: more.cordoned ?? false },
  status: {
    allocatable: { memory: "4Gi", cpu: "2", ...(more.gpus === undefined ? {} : { "nvidia.com/gpu": more.gpus }) },
    nodeInfo: { architecture: more.arch ?? "amd64", operatingSystem: "linux" },
    conditions: [{ type: "Ready", status: more.ready === false ? "False" : "True" }],
  },
});
const podOn = (nodeName: string, requests: object, phase = "Running") => ({
  spec: { nodeName, containers: [{ resources: { requests } }, {}] },
  status: { phase },
});
const freeOn = (gpus: number, gpusInAll: number, memory = 2 * Gi) => ({ node: "a", memory, cpu: 1, gpus, gpusInAll });

const storageClass = (name: string, provisioner: string, usual = "false") => ({
  metadata: { name, annotations: { "storageclass.kubernetes.io/is-default-class": usual } },
  provisioner,
});
const claim = (accessModes: readonly string[], phase = "Bound") => ({ spec: { accessModes }, status: { phase } });
const lease = (renewTime: string, time: string) => ({ metadata: { name: "n", managedFields: [{ time }] }, spec: { renewTime } });
const leaf = (days: number) => ({ name: `ns/leaf-${days}`, endsAt: new Date(now.getTime() + days * dayMs), leastMs: 90 * dayMs });
const told = (status: string, reason: string, name = "ns/moe") => ({ name, status, reason, message: `${reason} says why` });

/** Each answer with a neighbour on the other side of its bound. */
const answers: Readonly<Record<string, readonly [outcomes: readonly Outcome[], want: string]>> = {
  "the least version": [[judgeVersion({ gitVersion: `v1.${leastMinor}.0` })], "ok"],
  "one below it": [[judgeVersion({ gitVersion: `v1.${leastMinor - 1}.9+k3s1` })], "fail"],
  "an operator at rest": [judged(operator()), "ok"],
  "one replica of two": [judged(operator({ ready: 1 })), "warn"],
  "no replica": [judged(operator({ ready: 0 })), "fail"],
  "another version": [judged(operator({ version: "0.2.0" })), "ok warn"],
  "two that watch everything": [judged(operator(), operator({ namespace: "b" })), "warn ok ok"],
  "two with namespaces of their own": [judged(operator({ watched: ["a"] }), operator({ namespace: "b", watched: ["b"] })), "ok ok"],
  "Deployments that may not be listed": [judgeOperators({ operators: undefined, version: "0.1.0" }), "skip"],
  "nodes that are ready": [judgeNodes([node("a"), node("b", { arch: "arm64" })]), "ok"],
  "one that is cordoned": [judgeNodes([node("a"), node("b", { cordoned: true })]), "warn"],
  "none that is ready": [judgeNodes([node("a", { ready: false })]), "fail"],
  "none of a kind that images run on": [judgeNodes([node("a", { arch: "s390x" })]), "fail"],
  "room for a rank": [judgeFree([freeOn(0, 0, Gi)]), "ok ok"],
  "a byte less": [judgeFree([freeOn(0, 0, Gi - 1)]), "warn ok"],
  "a GPU that is free": [judgeFree([freeOn(1, 8)]), "ok ok"],
  "none that is": [judgeFree([freeOn(0, 8)]), "ok warn"],
  "a class of shared files": [[judgeClasses({ items: [storageClass("files", "nfs.csi.k8s.io", "true")] })], "ok"],
  "classes of disks alone": [[judgeClasses({ items: [storageClass("disk", "ebs.csi.aws.com", "true")] })], "ok"],
  "no class": [[judgeClasses({ items: [] })], "warn"],
  "a claim for many nodes": [[judgeClaim("ns/models", claim(["ReadWriteMany"]), { nodes: 3 })], "ok"],
  "one for a node, and one node": [[judgeClaim("ns/models", claim(["ReadWriteOnce"]), { nodes: 1 })], "ok"],
  "one for a node of several": [[judgeClaim("ns/models", claim(["ReadWriteOnce"]), { nodes: 2 })], "ok"],
  "one that waits": [[judgeClaim("ns/models", claim(["ReadWriteMany"], "Pending"), { nodes: 1 })], "warn"],
  "one that is not there": [[judgeClaim("ns/models", undefined, { nodes: 1 })], "warn"],
  "IPv4 first": [[judgeFamilies({ spec: { ipFamilies: ["IPv4", "IPv6"] } })], "ok"],
  "IPv6 first": [[judgeFamilies({ spec: { ipFamilies: ["IPv6", "IPv4"] } })], "fail"],
  "an old Service with an address of IPv6": [[judgeFamilies({ spec: { clusterIP: "fd00::1" } })], "fail"],
  "clocks that agree": [[judgeClocks([lease("2026-03-01T10:00:00.500000Z", "2026-03-01T10:00:00Z")])], "ok"],
  "a clock ahead": [[judgeClocks([lease("2026-03-01T10:00:11.000000Z", "2026-03-01T10:00:00Z")])], "warn"],
  "leases that tell no time": [[judgeClocks([])], "skip"],
  "load that is heard": [judgeTelemetry([told("True", "Fresh"), told("Unknown", "NoRanks")]), "ok"],
  "load that is not": [
    judgeTelemetry([told("False", "Stale"), told("False", "Stale", "ns/b"), told("False", "NATSUnavailable")]),
    "warn warn",
  ],
  "no NATS server": [judgeTelemetry([told("Unknown", "NotConfigured")]), "warn"],
  "certificates with time left": [judgeCertificates([leaf(91)], now), "ok"],
  "one that should have been renewed": [judgeCertificates([leaf(91), leaf(89)], now), "warn"],
  "one that has ended": [judgeCertificates([leaf(0), leaf(89)], now), "fail warn"],
  "no metrics API, and nobody who needs it": [[judgeMetricsApi(undefined, [])], "ok"],
  "no metrics API, and an autoscaler": [[judgeMetricsApi(undefined, ["ns/moe"])], "warn"],
  "a metrics API": [[judgeMetricsApi({ status: { conditions: [{ type: "Available", status: "True" }] } }, ["ns/moe"])], "ok"],
};
for (const [name, [outcomes, want]] of Object.entries(answers)) {
  test(`doctor: ${name}`, () => {
    assert.equal(levels(outcomes), want, JSON.stringify(outcomes));
    for (const { level, remedy } of outcomes) if (level === "fail" || level === "warn") assert.ok(remedy, "says what to do");
  });
}

test("doctor: the least version is the chart's", () => {
  const chart = readFileSync(join(import.meta.dirname, "../../../charts/enodia/Chart.yaml"), "utf8");
  assert.match(chart, new RegExp(`kubeVersion: ">=1\\.${leastMinor}\\.0-0"`));
});

test("doctor: what a node has left is what it offers less what its pods ask for, those that are over left out", () => {
  const pods = [
    podOn("a", { memory: "512Mi", cpu: "250m" }),
    podOn("a", { memory: "1073741824" }),
    podOn("a", { memory: "3Gi" }, "Succeeded"),
    { spec: { containers: [] } },
    podOn("b", { "nvidia.com/gpu": 1 }),
  ];
  assert.deepEqual(freeOf([node("a"), node("b", { gpus: "2" }), node("c", { cordoned: true })], pods), [
    { node: "a", memory: 2.5 * Gi, cpu: 1.75, gpus: 0, gpusInAll: 0 },
    { node: "b", memory: 4 * Gi, cpu: 2, gpus: 1, gpusInAll: 2 },
  ]);
  assert.equal(amount("1e3"), 1000);
});

const [kind] = kinds;
if (!kind) throw new Error("no kind");
const established = { conditions: [{ type: "Established", status: "True" }] };
const stored = (change: (schema: any) => void): object => {
  const object = structuredClone(customResourceDefinition(kind)) as any;
  change(object.spec.versions[0].schema.openAPIV3Schema);
  return { ...object, status: established };
};
const judgedCrd = (change: (schema: any) => void, operators = [operator()]) =>
  judgeCrd(kind, stored(change), { version: "0.1.0", operators });

test("doctor: a CRD is held to this version's, field by field, and other words are no difference", () => {
  assert.equal(judgedCrd((schema) => Object.assign(schema.properties.spec, { description: "other words" })).level, "ok");
  const lacking = judgedCrd((schema) => delete schema.properties.spec.properties.experts.properties.minExpertReplicas);
  assert.equal(lacking.level, "fail");
  assert.match(lacking.what, /it lacks spec\.experts\.minExpertReplicas$/);
  assert.match(
    judgedCrd((schema) => Object.assign(schema.properties.spec.properties, { next: {} })).what,
    /has spec\.next, which this version does not know/,
  );
  assert.match(
    judgedCrd((schema) => Object.assign(schema.properties.spec.properties.replicas, { maximum: 7 })).what,
    /other bounds.* of spec\.replicas$/,
  );
  const older = judgedCrd((schema) => delete schema.properties.spec.properties.experts, [operator({ version: "0.2.0" })]);
  assert.equal(older.level, "warn", "it may be the command that was left behind");
});

test("doctor: a CRD that is not there is well before an install, and fails after it", () => {
  assert.equal(judgeCrd(kind, undefined, { version: "0.1.0", operators: [] }).level, "ok");
  assert.equal(judgeCrd(kind, undefined, { version: "0.1.0", operators: [operator()] }).level, "fail");
});

test("doctor: fields of a list's entries are compared too", () => {
  const list = (properties: object) => ({ properties: { all: { type: "array", items: { type: "object", properties } } } });
  assert.deepEqual(compareSchemas(list({ a: {}, b: {} }), list({ a: {} })).lacking, ["all.[].b"]);
});

const context = (more: Partial<Context>): Context => ({
  kube: {} as Context["kube"],
  transport: {} as Context["transport"],
  namespace: "default",
  operators: [],
  version: "0.1.0",
  now,
  sleep: (_, signal) => new Promise((resolve) => signal.addEventListener("abort", () => resolve())),
  signal: new AbortController().signal,
  ...more,
});
const check = (name: string, when: Check["when"], run: Check["run"] = async () => [ok(name)]): Check => ({ name, when, run });

test("doctor: what is asked depends on an operator being there, and a check that fails holds up no other", async () => {
  const all = [check("always", "always"), check("before", "before"), check("after", "after")];
  const names = async (operators: Context["operators"]) => (await examine(context({ operators }), all)).map((one) => one.check);
  assert.deepEqual(await names([]), ["always", "before"]);
  assert.deepEqual(await names([operator()]), ["always", "after"]);
  const broken = check("broken", "always", () => Promise.reject(new Error("no answer")));
  const examined = await examine(context({}), [broken, check("fine", "always")]);
  assert.deepEqual(count(examined), { fail: 0, warn: 0, skip: 1, ok: 1 });
  assert.match(
    doctorText(examined),
    /^skip {2}broken {2}not asked: no answer\nok {4}fine {4}fine\n\n0 failed, 0 to look at, 1 not asked, 1 ok$/,
  );
});

test("doctor tries NATS where a server is named: what it lacks is warned of, and no connection fails with its remedy", async () => {
  const good = { version: "2.12.0", payloadBytesMax: 1_048_576, encrypted: true, authenticated: true };
  assert.equal(levels(judgeServer(good, "nats:4222")), "ok ok ok ok");
  const open = judgeServer({ ...good, payloadBytesMax: 65_536, encrypted: false, authenticated: false }, "nats:4222");
  assert.equal(levels(open), "ok warn warn warn");
  assert.match(open[1]?.what ?? "", /messages have 65536 bytes at most, a load message may have 1048576/);
  for (const [code, remedy] of [
    ["AuthorizationViolation", /--nats-credentials/],
    ["Error: self-signed certificate in certificate chain", /ca\.crt/],
    ["NatsError: CONNECTION_REFUSED", /start the server/],
  ] as const) {
    const { level, remedy: told = "" } = judgeAbsence(new AppError("no connection", { code }), "nats:4222");
    assert.equal(level, "fail");
    assert.match(told, remedy);
  }
  assert.equal(levels(await nats.run({ operators: [] } as unknown as Context)), "skip");
  assert.equal(levels(await nats.run({ operators: [operator()] } as unknown as Context)), "");
  const server = { host: "nats:4222", ask: async () => good };
  assert.equal(levels(await nats.run({ nats: server } as unknown as Context)), "ok ok ok ok");
});

test("doctor tries the source of a model, and holds its size against the claim", async () => {
  const found = { kind: "folder", revision: "0123456789abcdef", files: 3, bytes: 4e9 } as const;
  assert.match(judgeSource(found, "hf://o/m").what, /^hf:\/\/o\/m: a folder of 3 files, 4\.0 GB, commit 0123456789ab$/);
  assert.deepEqual([neededBytes(found), neededBytes({ ...found, kind: "store" })], [8e9, 4e9]);
  assert.match(judgeNoSource(new AppError("answered 401", { code: "SourceRefused" }), "hf://o/m").what, /SourceRefused: answered 401/);
  const claim = (storage: string) => ({ spec: {}, status: { capacity: { storage } } });
  const levelOf = (of: unknown) => judgeFreeBytes(of, "ns/models", 8e9).level;
  assert.deepEqual([claim("8Gi"), claim("8G"), claim("7G"), undefined, { spec: {} }].map(levelOf), ["ok", "ok", "fail", "warn", "warn"]);
  const kube = { get: async () => claim("100Gi"), list: async () => assert.fail("not asked") };
  const run = (model?: object) => modelSource.run({ kube, namespace: "ns", model } as unknown as Context);
  assert.equal(levels(await run()), "");
  assert.equal(levels(await run({ uri: "hf://o/m", ask: async () => found })), "ok");
  assert.equal(levels(await run({ uri: "hf://o/m", claim: "models", ask: async () => found })), "ok ok");
  assert.equal(levels(await run({ uri: "hf://o/m", claim: "models", ask: () => Promise.reject(new Error("no")) })), "fail");
});
