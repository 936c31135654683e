// The Job that downloads a model, as it is rendered and as its process reads it, and the place that it brings the model to.
import assert from "node:assert/strict";
import { test } from "node:test";
import { settingEntries } from "../../../crds/process.ts";
import { parseDownloaderConfig } from "../../../runtime/config.ts";
import { deployment, settings } from "../../../test/kit/deployment/deployment.ts";
import { restrictedFaults } from "../../../test/kit/kube/pod-security.ts";
import { resolvedEnv } from "../../../test/kit/ranks/worker-settings.ts";
import { downloadJob } from "./download-job.ts";
import { gatewayTemplate } from "./gateway.ts";
import { appliedObjects } from "./index.ts";
import { downloadJobName, modelOfPod, modelPlace, modelText, rankModelOfPod, rankModelText, workFolders } from "./model-place.ts";
import { workerTemplate } from "./worker-pod.ts";

const model = { uri: "hf://Qwen/Qwen3-30B-A3B@main", cache: { persistentVolumeClaim: { claimName: "models" } } };
const job = (spec: object = {}, own = settings): any => {
  const object = deployment({ model: { ...model, secretRef: { name: "token" } }, ...spec });
  return downloadJob({ deployment: object, settings: own }, downloadJobName(object) ?? "");
};
const pod = (spec: object = {}) => job(spec).spec.template.spec;

test("its pod keeps to the restricted level, writes to the claim and to nothing else of the cluster's", () => {
  assert.deepEqual(restrictedFaults(pod()), []);
  const [container] = pod().containers;
  assert.deepEqual([pod().automountServiceAccountToken, container.securityContext.readOnlyRootFilesystem], [false, true]);
  const written = container.volumeMounts.filter(({ readOnly }: { readOnly?: boolean }) => !readOnly);
  assert.deepEqual(
    written.map(({ name }: { name: string }) => name),
    ["tmp", "models"],
  );
});

test("its process reads what is rendered for it", () => {
  const entries = settingEntries({ ...settings, hub: "https://mirror.test" }, deployment().spec);
  const read = parseDownloaderConfig(resolvedEnv(pod().containers[0].env, entries, () => "pod-uid"));
  const { folder } = modelPlace(deployment({ model }).spec);
  const { work, ...rest } = read;
  assert.deepEqual(rest, {
    ...{ namespace: "ns", deployment: "moe", podUid: "pod-uid", uri: model.uri, codec: "q4_0", target: `/models/${folder}` },
    ...{ secretDir: "/etc/enodia/model-secret", hub: "https://mirror.test", tlsDir: "/etc/enodia/tls", progressPort: 9445 },
    ...{ endFile: "/dev/termination-log", logLevel: "info", workInUse: undefined },
  });
  assert.match(work, /^\/models\/\.enodia-[0-9a-f]{16}$/);
  const bare = parseDownloaderConfig(resolvedEnv(pod({ model }).containers[0].env, settingEntries(settings, deployment().spec), () => "x"));
  assert.deepEqual([bare.secretDir, bare.hub], [undefined, undefined]);
});

test("a download that nothing can mend ends the Job, and a drained node does not count", () => {
  const { podFailurePolicy, podReplacementPolicy, backoffLimit } = job().spec;
  assert.deepEqual(
    podFailurePolicy.rules.map(({ action }: { action: string }) => action),
    ["FailJob", "Ignore"],
  );
  assert.deepEqual(podFailurePolicy.rules[0].onExitCodes.values, [3]);
  assert.deepEqual([podReplacementPolicy, backoffLimit], ["Failed", 6]);
});

test("it runs the image that the spec names for the runtime, else the operator's", () => {
  const image = (spec: object) => pod(spec).containers[0].image;
  assert.equal(image({}), settings.runtimeImage);
  assert.equal(image({ runtimeImage: { image: "mine:1" } }), "mine:1");
  const containers = [{ name: "runtime", image: "mine:2", imagePullPolicy: "Always" }];
  const own = pod({ podTemplate: { spec: { containers, imagePullSecrets: [{ name: "pull" }] } } });
  assert.deepEqual(
    [own.containers[0].image, own.containers[0].imagePullPolicy, own.imagePullSecrets],
    ["mine:2", "Always", [{ name: "pull" }]],
  );
});

test("it has the workers' way out of the cluster, and nothing else of their environment", () => {
  const env = [
    { name: "HTTPS_PROXY", value: "http://proxy:3128" },
    { name: "OTHER", value: "x" },
  ];
  const added = (spec: object) => pod(spec).containers[0].env.slice(pod().containers[0].env.length);
  assert.deepEqual(added({ podTemplate: { spec: { containers: [{ name: "runtime", env }] } } }), [
    env[0],
    { name: "NODE_USE_ENV_PROXY", value: "1" },
  ]);
  assert.deepEqual(added({ podTemplate: { spec: { containers: [{ name: "runtime", env: [env[1]] }] } } }), []);
});

test("it goes where the ranks go, without being another Job for it", () => {
  const placed = { nodeSelector: { pool: "moe" }, tolerations: [{ key: "pool", operator: "Exists" }] };
  const spec = { podTemplate: { spec: { ...placed, hostname: "x", priorityClassName: "high" } } };
  const { nodeSelector, tolerations, priorityClassName } = pod(spec);
  assert.deepEqual([{ nodeSelector, tolerations }, priorityClassName], [placed, undefined]);
  assert.equal(job(spec).metadata.name, job().metadata.name);
  for (const field of Object.keys(placed)) assert.ok(!(field in pod()), field);
});

test("it is told the work folders of all deployments of the namespace, or none where one cannot be read", () => {
  const object = (uid: string, spec: object): any => ({
    ...deployment(spec, {}, { name: uid, uid }),
    apiVersion: "v1",
    kind: "MoEDeployment",
  });
  const others = [object("a", { model }), object("b", { model }), object("c", {})];
  const folders = workFolders(others) ?? assert.fail();
  assert.equal(folders.length, 2, "one a deployment, of those that download");
  const own = deployment({ model });
  const rendered = downloadJob({ deployment: own, settings }, "job", { workInUse: folders, node: "n1" }) as any;
  const read = parseDownloaderConfig(resolvedEnv(rendered.spec.template.spec.containers[0].env, {}, () => "x"));
  assert.deepEqual(read.workInUse, folders);
  const [term] = rendered.spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms;
  assert.deepEqual(term.matchFields, [{ key: "metadata.name", operator: "In", values: ["n1"] }], "it is held to the node of the claim");
  assert.equal(
    workFolders([...others, object("d", {})].map((one, i) => (i < 3 ? one : { ...one, spec: { model: { uri: 7 } } }))),
    undefined,
  );
  assert.equal(workFolders(Array.from({ length: 1_001 }, (_, i) => object(String(i), { model }))), undefined);
});

test("the place is by URI and codec alone; the Job by place, Secret and deployment", () => {
  const of = (spec: object, status = {}) => deployment({ model, ...spec }, status);
  const folder = (spec: object) => modelPlace(of(spec).spec).folder;
  const same = [{}, { model: { ...model, secretRef: { name: "a" } } }, { replicas: 7 }].map(folder);
  assert.equal(new Set(same).size, 1);
  const others = [{}, { model: { ...model, uri: "hf://Qwen/Qwen3-30B-A3B@v2" } }, { runtime: { expertCodec: "f32" } }].map(folder);
  assert.equal(new Set(others).size, 3);
  for (const one of others) assert.match(one, /^[A-Za-z0-9][\w.-]{0,80}$/);
  const jobs = [{}, { model: { ...model, secretRef: { name: "a" } } }, { runtime: { expertCodec: "f32" } }].map((spec) =>
    downloadJobName(of(spec)),
  );
  assert.equal(new Set(jobs).size, 3);
  for (const name of jobs) assert.ok((name?.length ?? 99) <= "moe".length + 15);
  assert.equal(downloadJobName(deployment()), undefined);
  assert.deepEqual(modelPlace(deployment().spec), { claim: "models", folder: "moe" });
});

test("the longest URI has a folder whose name a file system takes", () => {
  const uri = `s3://bucket/${"a/".repeat(249)}b`;
  const { folder } = modelPlace(deployment({ model: { ...model, uri } }).spec);
  assert.ok(folder.length <= 80, folder);
});

test("a pod's model is read off the pod itself, as it was made by any release", () => {
  const context = { deployment: deployment({ model }), settings };
  const place = modelText(modelPlace(context.deployment.spec));
  assert.equal(rankModelOfPod({ spec: workerTemplate(context).pod.spec }), `${place}#q4_0`, "ranks exchange experts in one form");
  assert.equal(rankModelOfPod({ spec: workerTemplate(context).pod.spec }), rankModelText(context.deployment.spec));
  const { annotations, spec } = gatewayTemplate(context).pod;
  assert.equal(modelOfPod({ metadata: { name: "gw", annotations }, spec }), place);
  assert.equal(modelOfPod({ spec }), undefined, "nothing else in the pod of a gateway says it");
  assert.equal(modelOfPod({ spec: { containers: [] } }), undefined);
  assert.equal(modelOfPod({}), undefined);
});

test("a policy lets the operator in and the pod out, where policies are wanted and something is downloaded", () => {
  const named = (spec: object, on: boolean) => {
    const own = { ...settings, networkPolicies: on ? { operatorNamespace: "sys" } : undefined };
    const rendered = appliedObjects({ deployment: deployment(spec), settings: own });
    return rendered.map(({ object }) => object as any).find(({ metadata }) => metadata.name === "moe-downloader");
  };
  const policy = named({ model }, true);
  assert.deepEqual(
    policy.spec.egress[0].to.slice(1).map(({ ipBlock: { except } }: any) => except[0]),
    ["169.254.0.0/16", "fe80::/10"],
  );
  assert.deepEqual(policy.spec.ingress[0].ports, [{ protocol: "TCP", port: 9445 }]);
  assert.deepEqual([named({ model }, false), named({}, true)], [undefined, undefined]);
});
