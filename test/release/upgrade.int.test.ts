// `helm upgrade` on a real API server with live objects, from the chart of the last tag (from this one without a tag) to this tree's and on
// to charts whose CRDs grow or narrow: objects stay what they were, valid and writable; so they are after a roll back and an uninstall.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { parse, parseAllDocuments, stringify } from "yaml";
import { down, up } from "../cluster/cluster.ts";
import { filesAtLastTag, lastTag } from "../golden/last-tag.ts";
import { release, root, systemNamespace } from "../kit/deployment/product.ts";
import { exec, execOk } from "../kit/processes/process.ts";

const name = "upgrade-int";
const namespace = "served";
const plurals = ["moedeployments", "expertplacements", "moetrainingjobs"];
/** With the version, since kubectl prefers the newest that was served when it asked last. */
const [deployments = "", ...others] = plurals.map((plural) => `${plural}.v1alpha1.enodia.dev`);
const kinds = [deployments, ...others].join(",");
const crds = plurals.map((plural) => `crd/${plural}.enodia.dev`);
const scratch = mkdtempSync(join(tmpdir(), "enodia-charts-"));
let kubectl: (args: readonly string[], input?: object) => Promise<string>;
let helm: (...args: string[]) => Promise<string>;

before(
  async () => {
    const { binaries, kubeconfig } = await up({ name, nodes: 0 });
    kubectl = (args, input) =>
      execOk(binaries.kubectl, ["--kubeconfig", kubeconfig, ...args], input === undefined ? {} : { input: JSON.stringify(input) });
    helm = (...args) => execOk(binaries.helm, [...args, "--namespace", systemNamespace, "--kubeconfig", kubeconfig]);
    await kubectl(["create", "namespace", namespace]);
  },
  { timeout: 600_000 },
);
after(async () => {
  rmSync(scratch, { recursive: true });
  await down(name);
});

/** This tree's chart under another version, with its MoEDeployments changed. */
function changedChart(version: string, change: (spec: any, crd: any) => void): string {
  const chart = join(scratch, version);
  cpSync(join(root, "charts/enodia"), chart, { recursive: true });
  const meta = parse(readFileSync(join(chart, "Chart.yaml"), "utf8"));
  writeFileSync(join(chart, "Chart.yaml"), stringify({ ...meta, version, appVersion: version }));
  const crd = parse(readFileSync(join(root, "crds/manifests/moedeployments.yaml"), "utf8"));
  change(crd.spec.versions[0].schema.openAPIV3Schema.properties.spec, crd.spec);
  writeFileSync(join(chart, "templates/crds/moedeployments.yaml"), stringify(crd, { version: "1.1" }));
  return chart;
}

/** A folder as the last tag has it, or as it stands here without a tag. */
function formerFolder(folder: string): string {
  if (lastTag === undefined) return join(root, folder);
  for (const [file, content] of filesAtLastTag(folder)) {
    mkdirSync(dirname(join(scratch, "former", file)), { recursive: true });
    writeFileSync(join(scratch, "former", file), content);
  }
  return join(scratch, "former", folder);
}

function formerSamples(): any[] {
  const folder = formerFolder("crds/samples");
  return readdirSync(folder).flatMap((file) => {
    const objects = parseAllDocuments(readFileSync(join(folder, file), "utf8")).map((document) => document.toJS());
    const own = objects.filter(({ apiVersion }) => apiVersion.startsWith("enodia.dev/"));
    return own.map((one) => ({ ...one, metadata: { ...one.metadata, name: file.replace(".yaml", ""), namespace } }));
  });
}

/** What the operator of that release has written by now, beside a deployment. */
const placement = (uid: string) => ({
  apiVersion: "enodia.dev/v1alpha1",
  kind: "ExpertPlacement",
  metadata: { name: "smol-moe", namespace },
  spec: {
    ...{ deploymentUID: uid, epoch: 7, parentEpoch: 6, planHash: "h", modelDigest: "d", reason: "repair" },
    ranks: [{ rank: 0, podName: "smol-moe-0", podUID: "p" }],
    layers: [{ layer: 0, epoch: 7, hosts: "0,0.1", weights: "1000,500.500" }],
  },
});
const statuses = {
  moedeployment: {
    ...{ observedGeneration: 1, replicas: 3, readyReplicas: 3, selector: "enodia.dev/deployment=smol-moe" },
    conditions: [{ type: "Ready", status: "True", reason: "AllRanksReady", message: "", lastTransitionTime: "2026-01-01T00:00:00Z" }],
  },
  expertplacement: { phase: "Committed", committedEpoch: 7, layersCommitted: 1 },
};

async function objects(): Promise<any[]> {
  const { items } = JSON.parse(await kubectl(["get", kinds, "-n", namespace, "-o", "json"]));
  for (const { metadata } of items) for (const field of ["managedFields", "resourceVersion"]) delete metadata[field];
  return items;
}

/** Fields of `was` that `is` has not, or has otherwise; what it has beside them are new fields with a default. */
function lost(was: any, is: any, path = ""): string[] {
  if (typeof was !== "object" || was === null) return was === is ? [] : [`${path}: ${was} became ${is}`];
  if (Array.isArray(was) && was.length !== is?.length) return [`${path}: ${was.length} entries became ${is?.length}`];
  return Object.entries(was).flatMap(([key, value]) => lost(value, is?.[key], `${path}.${key}`));
}

/** Every object is what it was; the API server takes it as a new one, which checks all of it, and takes a write to it. */
async function stillGood(were: readonly any[], step: string): Promise<void> {
  const are = await objects();
  assert.equal(are.length, were.length, step);
  for (const was of were) {
    const { kind, metadata } = was;
    const is = are.find((one) => one.metadata.uid === metadata.uid);
    assert.deepEqual(lost(was, is), [], `${step}: ${kind} ${metadata.name}`);
    assert.equal(is.metadata.generation, metadata.generation, "nobody wrote to it");
  }
  await kubectl(["create", "--dry-run=server", "-f", "-"], listOf(are.map(copyOf)));
  await kubectl(["annotate", kinds, "--all", "-n", namespace, "--dry-run=server", "step=next"]);
}

const listOf = (items: readonly object[]): object => ({ apiVersion: "v1", kind: "List", items });

const copyOf = ({ apiVersion, kind, metadata, spec }: any) => ({
  ...{ apiVersion, kind, spec },
  metadata: { name: `${metadata.name}-copy`, namespace },
});
/**
 * What the pod of `helm test` runs, with the rights of its ServiceAccount: all of the install is asked and is well but for what needs a
 * node. Without its role nothing could be asked, so that a pass would say nothing.
 */
async function examinedByItsTest(): Promise<void> {
  const text = await helm("template", release, join(root, "charts/enodia"), "-s", "templates/tests/doctor.yaml");
  const made = parseAllDocuments(text).map((document) => document.toJS());
  const [pod, ...rights] = [made.find(({ kind }) => kind === "Pod"), ...made.filter(({ kind }) => kind !== "Pod")];
  const namespaced = { metadata: { name: systemNamespace, labels: { "pod-security.kubernetes.io/enforce": "restricted" } } };
  await kubectl(["apply", "-f", "-"], { apiVersion: "v1", kind: "Namespace", ...namespaced });
  await kubectl(["create", "-f", "-"], listOf(rights));
  await kubectl(["create", "--dry-run=server", "-f", "-"], pod);
  const levels = async (): Promise<Record<string, string[]>> => {
    const account = pod.spec.serviceAccountName;
    const kubeconfig = await configOf(await kubectl(["create", "token", account, "-n", systemNamespace]));
    const [main, ...args] = pod.spec.containers[0].args;
    const { stdout } = await exec(process.execPath, [join(root, main), ...args, "--kubeconfig", kubeconfig, "-o", "json"]);
    const told: any[] = JSON.parse(stdout);
    return Object.fromEntries(told.map(({ check, outcomes }) => [check, outcomes.map(({ level }: any) => level)]));
  };
  const install = ["CRDs", "the operator's rights"];
  const asked = await levels();
  for (const check of install)
    assert.ok(
      asked[check]?.every((level) => level === "ok"),
      `${check}: ${JSON.stringify(asked)}`,
    );
  assert.ok(asked.operator?.includes("fail"), `no node runs it: ${JSON.stringify(asked)}`);
  await kubectl(["delete", "-f", "-"], listOf(rights.filter(({ kind }) => kind === "ClusterRoleBinding")));
  const unasked = await levels();
  for (const check of install) assert.ok(!unasked[check]?.includes("ok"), `${check}: ${JSON.stringify(unasked)}`);
  await kubectl(["delete", "-f", "-"], listOf(rights.filter(({ kind }) => kind !== "ClusterRoleBinding")));
}

/** A kubeconfig of the cluster for the bearer of a token. */
async function configOf(token: string): Promise<string> {
  const { clusters } = JSON.parse(await kubectl(["config", "view", "--raw", "-o", "json"]));
  const context = { name: "test", context: { cluster: clusters[0].name, user: "test" } };
  const file = join(scratch, "kubeconfig.json");
  const config = { apiVersion: "v1", kind: "Config", clusters, contexts: [context], "current-context": "test" };
  writeFileSync(file, JSON.stringify(Object.assign(config, { users: [{ name: "test", user: { token: token.trim() } }] })));
  return file;
}

const reuse = ["--reset-then-reuse-values"];
const planted = ["-n", namespace, "-o", "jsonpath={.spec.planted}"];

test("objects outlast upgrades, a roll back and an uninstall", { timeout: 1_200_000 }, async () => {
  await helm("install", release, formerFolder("charts/enodia"), "--create-namespace", "--set", "nats.enabled=true,logLevel=warn");
  await kubectl(["wait", "--for=condition=Established", ...crds, "--timeout=30s"]);
  await kubectl(["create", "-f", "-"], listOf(formerSamples()));
  const { metadata } = JSON.parse(await kubectl(["get", "moed", "smol-moe", "-n", namespace, "-o", "json"]));
  await kubectl(["create", "-f", "-"], placement(metadata.uid));
  for (const [kind, status] of Object.entries(statuses))
    await kubectl(["patch", kind, "smol-moe", "-n", namespace, "--subresource=status", "--type=merge", "-p", JSON.stringify({ status })]);
  const were = await objects();
  assert.ok(were.length >= 8);

  await helm("upgrade", release, join(root, "charts/enodia"), ...reuse);
  await stillGood(were, "this chart");
  await examinedByItsTest();
  const env = await kubectl(["get", "deployment", "enodia", "-n", systemNamespace, "-o", "jsonpath={..env}"]);
  assert.match(env, /"ENODIA_LOG_LEVEL","value":"warn"/, "settings are kept");

  const grown = changedChart("9.0.0", (spec, { versions }) => {
    spec.properties.planted = { type: "integer", default: 3 };
    versions.push({ ...versions[0], name: "v1beta1", storage: false });
  });
  await helm("upgrade", release, grown, ...reuse);
  await stillGood(were, "a chart with one field more");
  assert.equal(await kubectl(["get", deployments, "smol-moe", ...planted]), "3", "helm upgrade brings the new CRD");

  const next = JSON.parse(await kubectl(["get", "moedeployments.v1beta1.enodia.dev", "smol-moe", "-n", namespace, "-o", "json"]));
  await kubectl(["replace", "-f", "-"], next); // written as v1beta1, read as v1alpha1: no conversion webhook is needed
  await stillGood(were, "a write as v1beta1");

  await helm("rollback", release, "2");
  await stillGood(were, "a roll back");
  assert.equal(await kubectl(["get", deployments, "smol-moe", ...planted]), "");

  const narrowed = changedChart("9.0.1", (spec) => (spec.properties.replicas.maximum = 2));
  await helm("upgrade", release, narrowed, ...reuse);
  await assert.rejects(stillGood(were, "a narrower chart"), /spec\.replicas.*less than or equal to 2/s);
  await helm("rollback", release, "2");

  await helm("uninstall", release);
  await stillGood(were, "an uninstall");
  await helm("install", release, join(root, "charts/enodia"));
  await stillGood(were, "an install that takes over");
  await helm("uninstall", release);
  await kubectl(["delete", ...crds]);
});
