// Who dials which port of whom, and that the chart's and the operator's policies let it through on both sides: a port or a dial without a
// policy fails here.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { labels, ports } from "../../crds/common.ts";
import { parseMoETrainingJob } from "../../crds/moe-training-job.ts";
import { downloadJob } from "../../operator/deployment/objects/download-job.ts";
import { appliedObjects } from "../../operator/deployment/objects/index.ts";
import { workerPod, workerTemplate } from "../../operator/deployment/objects/worker-pod.ts";
import { trainersPolicy } from "../../operator/training/network-policy.ts";
import { trainingPod } from "../../operator/training/pod.ts";
import { deployment, settings } from "../kit/deployment/deployment.ts";
import { object, ref } from "../kit/training/training-plane.ts";

type Port = keyof typeof ports;
type Dial = readonly [from: string, to: string];
const all = (to: readonly string[]): Dial[] => to.map((one) => ["anyone", one]);
const dials: Readonly<Record<Port, readonly Dial[]>> = {
  http: all(["gateway"]),
  grpc: [
    ...["worker", "gateway"].map((to): Dial => ["operator", to]),
    ...["worker", "gateway"].map((from): Dial => [from, "worker"]),
    ["worker", "weight-server"],
  ],
  engine: [["worker", "worker"]],
  ranks: [["trainer", "trainer"]],
  world: [["operator", "trainer"]],
  trace: [], // on loopback, for a port-forward
  progress: ["downloader", "weight-server"].map((to) => ["operator", to]),
  metrics: all(["worker", "gateway", "operator"]),
  probes: all(["worker", "gateway", "weight-server", "operator"]),
  page: [], // for a port-forward, unless the chart's values say otherwise
};

const networkPolicies = { operatorNamespace: "enodia-system" };
const rendered = (model: object) => ({
  deployment: deployment({ model }),
  settings: { ...settings, networkPolicies },
  weightServer: { replicas: 1 as const },
});
const cached = rendered({ uri: "hf://org/name", cache: { persistentVolumeClaim: { claimName: "models" } } });
const job = parseMoETrainingJob({ ...object({}), metadata: { ...ref, uid: "u", generation: 1 } });
const training = { trainingImage: "i", pullPolicy: "IfNotPresent", logLevel: "info" } as const;

/** Lines with an expression go: what is left is YAML, and has the rules of the default values. */
const chartText = readFileSync(new URL("../../charts/enodia/templates/networkpolicy.yaml", import.meta.url), "utf8");
const [chart] = parseAllDocuments(chartText.replace(/^.*\{\{.*\n/gm, "")).map((document) => document.toJS());

const applied = appliedObjects(cached).map(({ object }) => object as any);
const policies: any[] = [...applied.filter(({ kind }) => kind === "NetworkPolicy"), trainersPolicy(job, networkPolicies)];
const pods: any[] = [
  ...applied.filter(({ kind }) => kind === "Deployment").map(({ spec }) => spec.template),
  (downloadJob(cached, "moe-download") as any).spec.template,
  workerPod(cached, workerTemplate(cached), 0, "x"),
  trainingPod(job, training, { image: "i", rank: 0, attempt: 0 }),
];
const labelsOf = new Map<string, Record<string, string>>(pods.map(({ metadata }) => [metadata.labels[labels.component], metadata.labels]));
labelsOf.set("operator", { "app.kubernetes.io/component": "operator" });

function selects({ matchLabels, matchExpressions = [] }: any, of: Record<string, string>): boolean {
  const equal = Object.entries(matchLabels ?? {}).every(([key, value]) => of[key] === value);
  return equal && matchExpressions.every(({ key, operator, values }: any) => operator === "In" && values.includes(of[key]));
}
/** `peer`: undefined for anyone. */
const admits = (rules: any[], side: "from" | "to", peer: Record<string, string> | undefined, port: number): boolean =>
  rules.some((rule) => {
    const peers = rule[side] as any[] | undefined;
    return (
      (peers === undefined || (peer !== undefined && peers.some(({ podSelector }) => selects(podSelector, peer)))) &&
      (rule.ports === undefined || rule.ports?.some((one: any) => one.port === port))
    );
  });
const policyOf = (component: string): any =>
  component === "operator" ? chart.spec : policies.find(({ spec }) => selects(spec.podSelector, labelsOf.get(component) ?? {}))?.spec;

for (const [port, of] of Object.entries(dials) as [Port, readonly Dial[]][]) {
  for (const [from, to] of of) {
    test(`${from} reaches ${to} at its port of ${port}`, () => {
      assert.ok(admits(policyOf(to).ingress, "from", labelsOf.get(from), ports[port]), `the policy of ${to} does not let ${from} in`);
      if (from === "anyone") return;
      assert.ok(admits(policyOf(from).egress, "to", labelsOf.get(to), ports[port]), `the policy of ${from} does not let it out to ${to}`);
    });
  }
}

test("every port that a pod declares is dialed by somebody here", () => {
  for (const { metadata, spec } of pods) {
    const to = metadata.labels[labels.component];
    assert.ok(policyOf(to), `${to} has a policy`);
    for (const { containerPort } of spec.containers.flatMap((one: any) => one.ports ?? [])) {
      const [name] = Object.entries(ports).find(([, port]) => port === containerPort) ?? [];
      assert.ok(name && dials[name as Port].some((dial) => dial[1] === to), `${to}: ${containerPort}`);
    }
  }
});

test("every port that the operator's source dials is one that it reaches here", () => {
  const files = globSync(["rebalance", "deployment/state", "training"].map((folder) => `operator/${folder}/**/*.ts`));
  const dialed = files
    .filter((file) => !/\.test\.ts$|network-policy\.ts$|training\/pod\.ts$/.test(file))
    .flatMap((file) => [...readFileSync(file, "utf8").matchAll(/(?<!#)\bports\.(\w+)/g)].map(([, name]) => name as Port))
    .filter((name) => name in ports);
  assert.deepEqual(new Set(dialed), new Set(["grpc", "world", "progress"]));
  for (const name of dialed)
    assert.ok(
      dials[name].some(([from]) => from === "operator"),
      name,
    );
});

/** Per place of the runtime that opens a connection: who dials whom at which port; none where what calls it is a row, or it leaves the product. */
const places: Readonly<Record<string, readonly (readonly (readonly [...Dial, Port])[])[]>> = {
  "engine/rows/peer-connections.ts": [[["worker", "worker", "engine"]]],
  "experts/peers.ts": [[["worker", "worker", "grpc"]], [["worker", "worker", "grpc"]]],
  "experts/weight-client.ts": [[["worker", "weight-server", "grpc"]]],
  "gateway/auth/issuer-keys.ts": [[]],
  "gateway/gateway-text.ts": [[["gateway", "worker", "grpc"]]],
  "gateway/routing/worker-pool.ts": [[["gateway", "worker", "grpc"]]],
  "modelstore/download/request.ts": [[], []],
  "net/collectives/wire-link.ts": [[["trainer", "trainer", "ranks"]]],
  "net/engine-link.ts": [[["worker", "worker", "engine"]]],
  "net/grpc.ts": [[], [], []],
  "net/heartbeat.ts": [[]],
  "net/nats.ts": [[]],
  "net/peer-connection.ts": [[]],
  "net/peer-snapshot.ts": [["worker", "gateway"].map((from) => [from, "worker", "grpc"] as const)],
  "net/read-link.ts": [[]],
  "net/service.ts": [[]],
  "observe/trace.ts": [[]],
};
const calls = /\bnetwork\.connect\w*\(|\bcallHeartbeat\(\{|\bPeerConnection\.call\(|(?<![.#\w])fetch\(|OTLPTraceExporter\(|grpc\.Client\(/;
const openers = "connect|connectReads|callHeartbeat|createClient|request|get|createConnection|createSocket|Socket|Agent";
const modules = String.raw`"(?:node:(?:net|tls|https?|http2|dgram)|nats|undici|[^"]*/(?:grpc|read-link|heartbeat|service)\.ts)"`;
const imports = String.raw`^import (?:\w+|\* as \w+|\{[^}]*(?<!type )\b(?:${openers})\b[^}]*\}) from ${modules}`;
const opening = new RegExp(`${calls.source}|${imports}`, "gm");

test("every place where the runtime opens a connection is one whose port is reached here", () => {
  const source = (file: string) => readFileSync(`runtime/${file}`, "utf8").replace(/^\s*(?:\/\/|\/?\*).*$/gm, "");
  const found = globSync("**/*.ts", { cwd: "runtime" }).filter((file) => !/\.test\.ts$|\/gen\//.test(file));
  const counted = (of: readonly (readonly [string, number])[]) => Object.fromEntries(of.filter(([, count]) => count > 0).sort());
  assert.deepEqual(
    counted(found.map((file) => [file, [...source(file).matchAll(opening)].length])),
    counted(Object.entries(places).map(([file, { length }]) => [file, length])),
  );
  for (const [file, of] of Object.entries(places))
    for (const [from, to, port] of of.flat())
      assert.ok(
        dials[port].some((dial) => dial[0] === from && dial[1] === to),
        `${file}: ${from} to ${to} at ${port}`,
      );
});

test("pods that are not of a component are not let in", () => {
  const stranger = { app: "x" };
  for (const [component, port] of [
    ["worker", "grpc"],
    ["worker", "engine"],
    ["trainer", "ranks"],
    ["trainer", "world"],
  ] as const)
    assert.ok(!admits(policyOf(component).ingress, "from", stranger, ports[port]), `${component} ${port}`);
});
