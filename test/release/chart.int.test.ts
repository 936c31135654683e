// The chart as Helm reads it: lint, schema, and the labels and fields that every rendered object must have.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, test } from "node:test";
import { parseAllDocuments, parseDocument } from "yaml";
import { moeDeploymentSpecSchema } from "../../crds/moe-deployment.ts";
import { ensureBinaries } from "../cluster/binaries.ts";
import { productVersion, release, root } from "../kit/deployment/product.ts";
import { podSpecs, restrictedFaults } from "../kit/kube/pod-security.ts";
import { exec, execOk } from "../kit/processes/process.ts";
import { type Image, packCommand, pinnedValues } from "./steps.ts";

const chart = join(root, "charts/enodia");
const valuesFiles = readdirSync(join(chart, "ci"));
let helm: string;

before(async () => {
  ({ helm } = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only: ["helm"] }));
});

async function rendered(...args: string[]): Promise<any[]> {
  const text = await execOk(helm, ["template", release, chart, ...args]);
  return parseAllDocuments(text).flatMap((document) => document.toJS() ?? []);
}
const full = () => rendered("-f", join(chart, "ci/full-values.yaml"));
const named = (objects: any[], kind: string, name: string) =>
  objects.find((object) => object.kind === kind && object.metadata.name === name);

test("every values file of ci passes a strict lint", async () => {
  assert.ok(valuesFiles.length >= 3);
  for (const file of valuesFiles) await execOk(helm, ["lint", "--strict", chart, "-f", join(chart, "ci", file)]);
});

test("a key that the chart does not know is refused by name", async () => {
  const { code, stderr } = await exec(helm, ["template", release, chart, "--set", "nats.enabeld=true"]);
  assert.notEqual(code, 0);
  assert.match(stderr, /enabeld/);
});

test("what Artifact Hub is told of CRDs and an example is what the chart has", async () => {
  const { annotations } = parseDocument(readFileSync(join(chart, "Chart.yaml"), "utf8")).toJS();
  const told = (key: string): any[] => parseDocument(annotations[`artifacthub.io/${key}`]).toJS();
  const crds = (await rendered()).filter(({ kind }) => kind === "CustomResourceDefinition");
  const names = (list: any[]) => list.map((each) => each.join(" ")).sort();
  assert.deepEqual(
    names(told("crds").map(({ kind, version, name }) => [kind, version, name])),
    names(crds.map(({ metadata, spec }) => [spec.names.kind, spec.versions[0].name, metadata.name])),
  );
  for (const example of told("crdsExamples")) assert.doesNotThrow(() => moeDeploymentSpecSchema.parse(example.spec));
});

test("every object says of which release it is, and a new chart version alone rolls no pods", async () => {
  for (const object of await full()) {
    const { labels } = object.metadata;
    assert.equal(labels["app.kubernetes.io/name"], "enodia", `${object.kind} ${object.metadata.name}`);
    assert.equal(labels["app.kubernetes.io/instance"], release);
    if (object.kind !== "Deployment") continue;
    const pods = object.spec.template.metadata.labels;
    assert.ok(!("helm.sh/chart" in pods));
    for (const [key, value] of Object.entries(object.spec.selector.matchLabels)) assert.equal(pods[key], value);
  }
});

test("common labels are on every object, no pod takes them, and none stands in for the chart's own", async () => {
  const labels = ["commonLabels.owner=x", "commonLabels.app\\.kubernetes\\.io/name=y", "commonLabels.app\\.kubernetes\\.io/component=z"];
  const objects = await rendered("-f", join(chart, "ci/full-values.yaml"), "--set", labels.join(","));
  for (const { kind, metadata, spec } of objects) {
    assert.equal(metadata.labels.owner, "x", `${kind} ${metadata.name}`);
    assert.equal(metadata.labels["app.kubernetes.io/name"], "enodia");
    assert.notEqual(metadata.labels["app.kubernetes.io/component"], "z");
    if (kind === "Deployment") assert.ok(!("owner" in spec.template.metadata.labels) && !("owner" in spec.selector.matchLabels));
  }
});

test("an image with a digest is named by it, whatever the tag, behind the mirror too", async () => {
  const digest = `sha256:${"a".repeat(64)}`;
  const images = ["image", "runtimeImage", "trainingImage", "nats.image"];
  const sets = images.flatMap((image) => [`${image}.digest=${digest}`, `${image}.tag=old`]);
  const objects = await rendered("--set", ["global.imageRegistry=mirror.example.com", ...sets].join(","));
  const pods = podSpecs(objects).map(({ spec }: any) => spec.containers[0]);
  const env = pods.flatMap((container) => container.env ?? []).filter(({ name }: any) => /_IMAGE$/.test(name));
  assert.deepEqual([...pods.map(({ image }) => image), ...env.map(({ value }: any) => value)].sort(), [
    ...["enodia/operator", "enodia/operator", "enodia/runtime", "enodia/training", "nats"].map(
      (name) => `mirror.example.com/${name}@${digest}`,
    ),
  ]);
  const { code, stderr } = await exec(helm, ["template", release, chart, "--set", "image.digest=sha256:short"]);
  assert.notEqual(code, 0);
  assert.match(stderr, /digest/);
});

test("the chart of a release, packed, names every image of this project by digest and passes the lint", async () => {
  const folder = mkdtempSync(join(tmpdir(), "enodia-pack-"));
  try {
    const place = { registry: "registry.example.com/team", version: productVersion(), out: folder };
    const digestOf = ({ name }: Image): string => `sha256:${name.padEnd(64, "0").replaceAll(/[^0-9a-f]/g, "a")}`;
    const copy = join(folder, "enodia");
    cpSync(chart, copy, { recursive: true });
    writeFileSync(join(copy, "values.yaml"), pinnedValues(readFileSync(join(chart, "values.yaml"), "utf8"), place, digestOf));
    const [, ...pack] = packCommand(place, copy);
    await execOk(helm, pack);
    const packed = join(folder, `enodia-${productVersion()}.tgz`);
    await execOk(helm, ["lint", "--strict", packed]);
    const text = await execOk(helm, ["template", release, packed]);
    const named = [...text.matchAll(/registry\.example\.com\/team\/enodia\/(\w+)@sha256:[0-9a-f]{64}/g)].map(([, name]) => name).sort();
    assert.deepEqual(named, ["operator", "operator", "runtime", "training"], "the operator's image in its test too");
    assert.doesNotMatch(text, /enodia\/\w+:\d/, "none by its tag");
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("replicas spread over nodes, or as the values say, each constraint with the selector of the operator's pods unless it has one", async () => {
  const spread = async (...args: string[]) =>
    named(await rendered(...args), "Deployment", "enodia").spec.template.spec.topologySpreadConstraints;
  const labelSelector = {
    matchLabels: {
      "app.kubernetes.io/name": "enodia",
      "app.kubernetes.io/instance": release,
      "app.kubernetes.io/component": "operator",
    },
  };
  const overNodes = { maxSkew: 1, topologyKey: "kubernetes.io/hostname", whenUnsatisfiable: "ScheduleAnyway" };
  assert.deepEqual(await spread(), [{ ...overNodes, labelSelector }]);
  const zones = { maxSkew: 2, topologyKey: "topology.kubernetes.io/zone", whenUnsatisfiable: "DoNotSchedule" };
  const own = { ...zones, labelSelector: { matchLabels: { app: "x" } } };
  assert.deepEqual(await spread("--set-json", `topologySpreadConstraints=${JSON.stringify([zones, own])}`), [
    { ...zones, labelSelector },
    own,
  ]);
});

test("operator and NATS are placed and extended as the values say", async () => {
  const objects = await full();
  const operator = named(objects, "Deployment", "enodia").spec.template.spec;
  const nats = named(objects, "Deployment", "enodia-nats").spec.template.spec;
  assert.deepEqual(operator.nodeSelector, { "kubernetes.io/os": "linux" });
  assert.deepEqual(nats.nodeSelector, { disk: "ssd" });
  assert.deepEqual(nats.tolerations, [{ key: "dedicated", operator: "Exists" }]);
  assert.equal(nats.priorityClassName, "system-cluster-critical");
  const [container] = operator.containers;
  assert.equal(container.env.find((one: any) => one.name === "NODE_EXTRA_CA_CERTS").value, "/etc/ca/ca.crt");
  assert.ok(
    container.volumeMounts.some((mount: any) => mount.name === "ca") && operator.volumes.some((volume: any) => volume.name === "ca"),
  );
  assert.equal(container.securityContext.readOnlyRootFilesystem, true, "defaults stay beside what is set");
  const bare = named(await rendered("--set", "podSecurityContext.runAsUser=null"), "Deployment", "enodia").spec.template.spec;
  assert.ok(!("runAsUser" in bare.securityContext) && bare.securityContext.runAsNonRoot);
});

test("every pod of the chart keeps to the restricted Pod Security level, also where users and groups are the platform's to give", async () => {
  const users = ["runAsUser", "runAsGroup", "fsGroup"].flatMap((field) => ["--set", `podSecurityContext.${field}=null`]);
  const values = valuesFiles.map((file) => ["-f", join(chart, "ci", file)]);
  for (const args of [...values, ["--set", "nats.enabled=false"], users]) {
    const pods = podSpecs(await rendered(...args));
    assert.ok(pods.some(({ where }) => where === "Deployment enodia"));
    assert.equal(
      pods.length,
      args.some((arg) => /external-nats|nats\.enabled/.test(arg)) ? 2 : 3,
      "operator, its test, and NATS where it is on",
    );
    for (const { where, spec } of pods) assert.deepEqual(restrictedFaults(spec), [], `${where} with ${args.join(" ")}`);
  }
});

test("every install and upgrade that the guides have people type renders, with the chart where it is and the settings as they stand", async () => {
  const text = ["README.md", "charts/enodia/README.md"].map((file) => readFileSync(join(root, file), "utf8")).join("\n");
  const typed = [...text.replaceAll("\\\n", " ").matchAll(/(?:^|`)helm (?:install|upgrade) enodia (\S+) ([^`\n]*)/gm)];
  assert.ok(typed.length >= 4);
  for (const [command, path = "", rest = ""] of typed) {
    const sets = [...rest.matchAll(/--set (\S+)/g)].flatMap(([, value = ""]) => ["--set", value]);
    await execOk(helm, ["template", release, join(root, path), ...sets]).catch((cause) => {
      throw new Error(`${command}: ${cause.message}`);
    });
  }
});

test("the chart's test is a hook of `helm test` with all that it needs, apart from the operator, and is not there without roles", async () => {
  const tests = (objects: any[]) => objects.filter(({ metadata }) => metadata.annotations?.["helm.sh/hook"] === "test");
  const objects = await rendered("--set", "watchNamespaces={serving,other}");
  const made = tests(objects);
  assert.deepEqual(made.map(({ kind }) => kind).sort(), ["ClusterRole", "ClusterRoleBinding", "Pod", "ServiceAccount"]);
  const pod = made.find(({ kind }) => kind === "Pod");
  assert.deepEqual(pod.spec.containers[0].args, ["operator/cli/main.ts", "doctor", "--namespace", "serving"]);
  for (const { kind, spec } of objects)
    if (kind === "Service" || kind === "NetworkPolicy") {
      const selected = Object.entries(spec.selector ?? spec.podSelector.matchLabels);
      assert.ok(
        selected.some(([key, value]) => pod.metadata.labels[key] !== value),
        `no ${kind} takes the test for the operator`,
      );
    }
  const { rules } = made.find(({ kind }) => kind === "ClusterRole");
  const writes = rules.filter(({ verbs }: any) => verbs.some((verb: string) => verb !== "get" && verb !== "list"));
  assert.deepEqual(
    writes.flatMap(({ resources }: any) => resources),
    ["subjectaccessreviews"],
    "a question, which changes nothing",
  );
  assert.deepEqual(tests(await rendered("--set", "rbac.create=false")), []);
});

test("alerts link to runbooks only where a prefix is given", async () => {
  const rules = (objects: any[]) =>
    objects
      .find((object) => object.kind === "PrometheusRule")
      .spec.groups.flatMap((group: any) => group.rules)
      .filter(({ alert }: any) => alert !== undefined);
  for (const { alert, annotations } of rules(await full()))
    assert.equal(annotations.runbook_url, `https://wiki.example.com/enodia/${alert}.md`);
  for (const { annotations } of rules(await rendered("--set", "monitoring.prometheusRule.enabled=true")))
    assert.ok(!annotations.runbook_url);
});

test("the chart's NATS is started with what the operator writes, waits for that, and has no seed", async () => {
  const objects = await rendered();
  const { containers, volumes } = named(objects, "Deployment", "enodia-nats").spec.template.spec;
  assert.ok(containers[0].args.includes("--config=/etc/nats/auth/auth.conf"));
  const { secretName, items, optional = false } = volumes[1].secret;
  assert.deepEqual([secretName, items, optional], ["enodia-nats-server", [{ key: "auth.conf", path: "auth.conf" }], false]);
  const operator = named(objects, "Deployment", "enodia").spec.template.spec;
  const env = (name: string) => operator.containers[0].env.find((one: any) => one.name === name)?.value;
  assert.deepEqual([env("ENODIA_NATS_SECRETS"), env("ENODIA_NATS_CREDS")], ["enodia-nats", undefined]);
  assert.ok(!operator.volumes.some(({ name }: any) => name === "nats"));
  assert.ok(!objects.some(({ kind }) => kind === "Secret"));
});

test("with a certificate NATS speaks TLS only, and the operator knows its CA and not its key", async () => {
  const objects = await full();
  const nats = named(objects, "Deployment", "enodia-nats").spec.template.spec;
  assert.ok(
    ["--tls", "--tlscert=/etc/nats/tls/tls.crt", "--tlskey=/etc/nats/tls/tls.key"].every((arg) => nats.containers[0].args.includes(arg)),
  );
  const operator = named(objects, "Deployment", "enodia").spec.template.spec;
  const env = (name: string) => operator.containers[0].env.find((one: any) => one.name === name)?.value;
  assert.match(env("ENODIA_NATS_URL"), /^tls:\/\/enodia-nats\..*\.svc:4222$/);
  assert.deepEqual(operator.volumes.find((volume: any) => volume.name === "nats").projected.sources, [
    { secret: { name: "nats-tls", items: [{ key: "ca.crt", path: "ca.crt" }] } },
  ]);
  const { code, stderr } = await exec(helm, [...["template", release, chart, "--set", "nats.auth.enabled=false,nats.tls.secretName=x"]]);
  assert.notEqual(code, 0);
  assert.match(stderr, /nats.tls.secretName needs credentials beside it/);
});

test("your own NATS has the Secret that you name, and without one, or without authentication, none is asked for", async () => {
  const sources = (objects: any[]) =>
    named(objects, "Deployment", "enodia").spec.template.spec.volumes.find((volume: any) => volume.name === "nats")?.projected.sources;
  const own = await rendered("-f", join(chart, "ci/external-nats-values.yaml"));
  assert.deepEqual(sources(own)[0], { secret: { name: "nats-creds", optional: true } });
  for (const kind of ["Secret", "Deployment", "Service", "NetworkPolicy"]) assert.equal(named(own, kind, "enodia-nats"), undefined, kind);
  assert.equal(sources(await rendered("--set", "nats.url=nats://n:4222")), undefined);
  const open = await rendered("--set", "nats.auth.enabled=false");
  assert.equal(sources(open), undefined);
  assert.ok(!JSON.stringify(open).includes("ENODIA_NATS_SECRETS"));
  assert.ok(!named(open, "Deployment", "enodia-nats").spec.template.spec.volumes.some(({ name }: any) => name === "auth"));
});

test("traces of the operator go where the values say, with their share, and the policy lets them through", async () => {
  const to = async (endpoint: string) => {
    const objects = await rendered("--set", `tracing.otlpEndpoint=${endpoint},tracing.sampleRatio=0.25`);
    const { env } = named(objects, "Deployment", "enodia").spec.template.spec.containers[0];
    const value = (name: string) => env.find((one: any) => one.name === name)?.value;
    assert.deepEqual([value("ENODIA_OTLP_ENDPOINT"), value("ENODIA_TRACE_RATIO")], [endpoint, "0.25"]);
    const { egress } = named(objects, "NetworkPolicy", "enodia").spec;
    // The last of the rules that name a port of any host; those after it are of pods.
    return egress.findLast(({ to }: any) => to === undefined).ports.map(({ port }: any) => port);
  };
  assert.deepEqual(await to("http://otel.observability:4318"), [4318]);
  assert.deepEqual(await to("http://otel.observability/v1/traces"), [80]);
  assert.deepEqual(await to("https://traces.example.com"), [443]);
  const { env } = named(await rendered(), "Deployment", "enodia").spec.template.spec.containers[0];
  assert.ok(!env.some(({ name }: any) => /OTLP|TRACE/.test(name)));
});

test("network policies let the operator reach the API server, pods, NATS and DNS, NATS be reached by operator and workers, and can be switched off", async () => {
  const objects = await rendered("--set", "networkPolicy.natsPorts={4222,4333}");
  const operator = named(objects, "NetworkPolicy", "enodia").spec;
  const ports = (rules: any[]) => rules.map((rule) => rule.ports.map(({ port }: any) => port));
  assert.deepEqual(ports(operator.ingress), [[9464, 9465]]);
  assert.deepEqual(ports(operator.egress), [[53, 53, 5353, 5353], [443, 6443], [4222, 4333], [9440], [9443], [9445]]);
  assert.deepEqual(operator.egress.at(-1).to[0].podSelector.matchExpressions[0].values, ["downloader", "weight-server"]);
  const nats = named(objects, "NetworkPolicy", "enodia-nats").spec;
  assert.deepEqual([ports(nats.ingress), nats.egress, nats.policyTypes], [[[4222]], undefined, ["Ingress", "Egress"]]);
  assert.equal(nats.ingress[0].from.length, 2);
  const switched = async (enabled: boolean) => {
    const rest = await rendered("--set", `networkPolicy.enabled=${enabled}`);
    const env = named(rest, "Deployment", "enodia").spec.template.spec.containers[0].env;
    return [
      rest.filter((object) => object.kind === "NetworkPolicy").length,
      env.find((one: any) => one.name === "ENODIA_NETWORK_POLICIES").value,
    ];
  };
  assert.deepEqual(await switched(true), [2, "true"]);
  assert.deepEqual(await switched(false), [0, "false"]);
});
