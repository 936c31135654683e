// The contract of the Kubernetes API as far as the operator relies on it. The in-memory twin and the real API server pass the same
// tests.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { AppError, apiVersion } from "../../crds/common.ts";
import { type FieldConflict, FieldConflictError } from "../../operator/kube/errors.ts";
import { type Kube, type KubeObject, resources, type WatchEvent } from "../../operator/kube/kube.ts";
import { applies, givenUp, managersOf } from "../../operator/kube/managed-fields.ts";

export interface KubeContract {
  readonly make: () => Promise<{ kube: Kube; namespace: string }>;
  /** Tests that this implementation cannot pass, each with the reason. */
  readonly skip?: Readonly<Record<string, string>>;
}

const manager = { manager: "contract" };
const other = { manager: "contract-other" };
/** A conflict in one field with one manager. */
const contested =
  ([operation, by]: readonly [FieldConflict["operation"], string], field: string) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof FieldConflictError, String(error));
    assert.deepEqual([error.code, error.retry], ["FieldConflict", "backoff"]);
    const [first] = error.conflicts;
    assert.deepEqual(first, { field, manager: by, operation, subresource: "" });
    return true;
  };
const code = (want: string) => (error: unknown) => error instanceof AppError && error.code === want;

export function runKubeContract({ make, skip = {} }: KubeContract): void {
  const it = (sentence: string, run: (kube: Kube, namespace: string) => Promise<void>) =>
    test(sentence, { skip: skip[sentence] ?? false, timeout: 30_000 }, async () => {
      const { kube, namespace } = await make();
      await run(kube, namespace);
    });
  const name = () => `c-${randomBytes(4).toString("hex")}`;
  const configMap = (namespace: string, data: Record<string, string>, extra: object = {}): KubeObject => ({
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: { name: name(), namespace, labels: { "enodia.dev/deployment": "contract" }, ...extra },
    data,
  });
  const placement = (namespace: string): KubeObject => ({
    apiVersion,
    kind: "ExpertPlacement",
    metadata: { name: name(), namespace },
    spec: { deploymentUID: "u", epoch: 1, parentEpoch: 0, planHash: "h", modelDigest: "d", ranks: [], layers: [] },
  });
  const cm = resources.configMaps;

  it("a created object has a uid and a version, and a second create is AlreadyExists", async (kube, namespace) => {
    const made = await kube.create(cm, configMap(namespace, { a: "1" }), manager);
    assert.ok(made.metadata.uid && made.metadata.resourceVersion && made.metadata.creationTimestamp);
    await assert.rejects(kube.create(cm, { ...made, metadata: { name: made.metadata.name, namespace } }, manager), code("AlreadyExists"));
  });

  it("get of what is not there is undefined, and delete of it is false", async (kube, namespace) => {
    assert.equal(await kube.get(cm, { namespace, name: name() }), undefined);
    assert.equal(await kube.delete(cm, { namespace, name: name() }), false);
  });

  it("a dry run changes nothing", async (kube, namespace) => {
    const object = configMap(namespace, { a: "1" });
    await kube.create(cm, object, { ...manager, dryRun: true });
    assert.equal(await kube.get(cm, { namespace, name: object.metadata.name }), undefined);
  });

  it("an unknown field is Invalid, never dropped", async (kube, namespace) => {
    const object = { ...configMap(namespace, {}), unheardOf: 1 };
    await assert.rejects(kube.create(cm, object, manager), code("Invalid"));
  });

  it("an update needs the current version, else it is a Conflict", async (kube, namespace) => {
    const first = await kube.create(cm, configMap(namespace, { a: "1" }), manager);
    const second = await kube.update(cm, { ...first, data: { a: "2" } }, manager);
    assert.notEqual(second.metadata.resourceVersion, first.metadata.resourceVersion);
    await assert.rejects(kube.update(cm, { ...first, data: { a: "3" } }, manager), code("Conflict"));
    assert.deepEqual((await kube.get(cm, { namespace, name: first.metadata.name }))?.data, { a: "2" });
  });

  it("apply creates, and applying the same again changes no version", async (kube, namespace) => {
    const object = configMap(namespace, { a: "1" });
    const first = await kube.apply(cm, object, manager);
    const second = await kube.apply(cm, object, manager);
    assert.equal(second.metadata.resourceVersion, first.metadata.resourceVersion);
    assert.equal(second.metadata.uid, first.metadata.uid);
  });

  it("a field that is no longer applied goes, and those of another manager stay", async (kube, namespace) => {
    const object = configMap(namespace, { a: "1", b: "1" });
    await kube.apply(cm, object, manager);
    await kube.apply(cm, { ...object, data: { c: "1" } }, other);
    const last = await kube.apply(cm, { ...object, data: { a: "2" } }, manager);
    assert.deepEqual(last.data, { a: "2", c: "1" });
  });

  it("an applied field that another manager has set otherwise is a FieldConflict, and nothing changes", async (kube, namespace) => {
    const object = configMap(namespace, { a: "1", b: "1" });
    const changed = { ...object, data: { a: "2", b: "2" } };
    const before = await kube.apply(cm, object, manager);
    await assert.rejects(kube.apply(cm, { ...object, data: { a: "2" } }, other), contested(["Apply", "contract"], ".data.a"));
    const ref = { namespace, name: object.metadata.name };
    assert.deepEqual(await kube.get(cm, ref), before);
    await kube.patch(cm, ref, { data: { a: "3" } }, other);
    await assert.rejects(kube.apply(cm, changed, manager), contested(["Update", "contract-other"], ".data.a"));
    assert.deepEqual((await kube.get(cm, ref))?.data, { a: "3", b: "1" });
    const alike = await kube.apply(cm, { ...object, data: { a: "3", b: "2" } }, manager);
    assert.deepEqual(alike.data, { a: "3", b: "2" }, "nobody minds the value that is there");
  });

  it("a forced apply takes the field, and it is the others' no more", async (kube, namespace) => {
    const object = configMap(namespace, { a: "1" });
    await kube.apply(cm, object, manager);
    await kube.apply(cm, { ...object, data: { a: "2" } }, { ...other, force: true });
    await assert.rejects(kube.apply(cm, object, manager), contested(["Apply", "contract-other"], ".data.a"));
    const last = await kube.apply(cm, object, { ...manager, force: true });
    assert.deepEqual(last.data, { a: "1" });
    assert.ok(!applies("contract-other", last, ["data", "a"]));
    await kube.apply(cm, { ...object, data: { c: "1" } }, other);
    assert.deepEqual((await kube.apply(cm, { ...object, data: { a: "4" } }, manager)).data, { a: "4", c: "1" });
  });

  it("a field of two managers stays when one of them applies it no more", async (kube, namespace) => {
    const object = configMap(namespace, { a: "1", b: "1" });
    await kube.apply(cm, object, manager);
    await kube.apply(cm, { ...object, data: { a: "1" } }, other);
    assert.deepEqual((await kube.apply(cm, { ...object, data: { c: "1" } }, manager)).data, { a: "1", c: "1" });
  });

  it("a field that is taken out of managedFields stays when its manager applies it no more", async (kube, namespace) => {
    const object = configMap(namespace, { a: "1", b: "1" });
    const made = await kube.apply(cm, object, manager);
    assert.ok(applies("contract", made, ["data", "a"]));
    const { uid = "", resourceVersion = "", name: called } = made.metadata;
    const metadata = { uid, resourceVersion, managedFields: givenUp("contract", made, ["data", "a"]) };
    const left = await kube.patch(cm, { namespace, name: called }, { metadata }, manager);
    assert.ok(!applies("contract", left, ["data", "a"]) && applies("contract", left, ["data", "b"]));
    assert.deepEqual((await kube.apply(cm, { ...object, data: { c: "1" } }, manager)).data, { a: "1", c: "1" });
    await assert.rejects(kube.patch(cm, { namespace, name: called }, { metadata }, manager), code("Conflict"));
  });

  it("fields whose managers were cleared are before-first-apply's", async (kube, namespace) => {
    const object = configMap(namespace, { a: "1" });
    await kube.apply(cm, object, manager);
    const ref = { namespace, name: object.metadata.name };
    await kube.patch(cm, ref, { metadata: { managedFields: [{}] } }, other);
    const want = contested(["Update", "before-first-apply"], ".data.a");
    await assert.rejects(kube.apply(cm, { ...object, data: { a: "2" } }, manager), want);
    assert.deepEqual((await kube.apply(cm, { ...object, data: { a: "2" } }, { ...manager, force: true })).data, { a: "2" });
  });

  it("a Deployment that is applied without replicas has one, which nobody manages", async (kube, namespace) => {
    const deployments = resources.deployments;
    const object = (replicas?: number): KubeObject => ({
      apiVersion: deployments.apiVersion,
      kind: deployments.kind,
      metadata: { name: called, namespace },
      spec: {
        ...(replicas === undefined ? {} : { replicas }),
        selector: { matchLabels: { app: called } },
        template: { metadata: { labels: { app: called } }, spec: { containers: [{ name: "none", image: "none.invalid/none" }] } },
      },
    });
    const called = name();
    const made = await kube.apply(deployments, object(), manager);
    assert.equal((made.spec as any).replicas, 1);
    assert.ok(!applies("contract", made, ["spec", "replicas"]));
    assert.equal(((await kube.apply(deployments, object(3), manager)).spec as any).replicas, 3);
    assert.equal(((await kube.apply(deployments, object(), manager)).spec as any).replicas, 1, "given up, it is the default again");
    await kube.delete(deployments, { namespace, name: called });
  });

  it("an applied status takes what others wrote into it", async (kube, namespace) => {
    const eplace = resources.expertPlacements;
    const { metadata, ...made } = await kube.create(eplace, placement(namespace), manager);
    const status = (phase: string) => ({ ...made, metadata: { name: metadata.name, namespace }, spec: undefined, status: { phase } });
    await kube.applyStatus(eplace, status("Preparing"), other);
    assert.deepEqual((await kube.applyStatus(eplace, status("Committed"), manager)).status, { phase: "Committed" });
  });

  it("status is written through its subresource only", async (kube, namespace) => {
    const eplace = resources.expertPlacements;
    const made = await kube.create(eplace, { ...placement(namespace), status: { phase: "Committed" } }, manager);
    assert.equal(made.status, undefined);
    const withStatus = await kube.updateStatus(eplace, { ...made, status: { phase: "Preparing" } }, manager);
    assert.deepEqual(withStatus.status, { phase: "Preparing" });
    assert.equal(withStatus.metadata.generation, made.metadata.generation);
    const spec = { ...(withStatus.spec as object), epoch: 2 };
    const updated = await kube.update(eplace, { ...withStatus, spec, status: { phase: "Aborted" } }, manager);
    assert.deepEqual(updated.status, { phase: "Preparing" });
    assert.equal(updated.metadata.generation, (made.metadata.generation ?? 0) + 1);
  });

  it("a status is applied whatever uid it names, and answered with the uid that stands", async (kube, namespace) => {
    const eplace = resources.expertPlacements;
    const { metadata } = await kube.create(eplace, placement(namespace), manager);
    const other = { name: metadata.name, namespace, uid: "00000000-0000-0000-0000-000000000000" };
    const object = { apiVersion, kind: "ExpertPlacement", metadata: other, status: { phase: "Committed" } };
    assert.equal((await kube.applyStatus(eplace, object, manager)).metadata.uid, metadata.uid);
  });

  it("status fields that are no longer applied go", async (kube, namespace) => {
    const eplace = resources.expertPlacements;
    const made = await kube.create(eplace, placement(namespace), manager);
    const status = (fields: object) => ({
      apiVersion,
      kind: "ExpertPlacement",
      metadata: { name: made.metadata.name, namespace },
      status: fields,
    });
    await kube.applyStatus(eplace, status({ phase: "Preparing", reason: "because" }), manager);
    const last = await kube.applyStatus(eplace, status({ phase: "Committed" }), manager);
    assert.deepEqual(last.status, { phase: "Committed" });
  });

  it("a map in the status that would lose all of its entries is Invalid, and goes when it is left out", async (kube, namespace) => {
    const eplace = resources.expertPlacements;
    const made = await kube.create(eplace, placement(namespace), manager);
    const apply = (numbers: object) => {
      const decision = { reason: "Why", message: "why", ...numbers };
      const object = { apiVersion, kind: "ExpertPlacement", metadata: { name: made.metadata.name, namespace }, status: { decision } };
      return kube.applyStatus(eplace, object, manager);
    };
    await apply({ numbers: { ageMs: 1 } });
    await assert.rejects(apply({ numbers: {} }), code("Invalid"));
    assert.deepEqual((await apply({})).status, { decision: { reason: "Why", message: "why" } });
  });

  it("a scale sets replicas under its manager's name, and needs the current version", async (kube, namespace) => {
    const moed = resources.moeDeployments;
    const ref = { namespace, name: name() };
    const spec = { model: { uri: "pvc://models/x" }, replicas: 2, suspend: true };
    const made = await kube.create(moed, { apiVersion, kind: "MoEDeployment", metadata: ref, spec }, other);
    const version = ({ metadata: { resourceVersion = "" } }: KubeObject) => resourceVersion;
    await kube.scale(moed, ref, { replicas: 3, resourceVersion: version(made) }, manager);
    const scaled = await kube.get(moed, ref);
    assert.ok(scaled);
    assert.deepEqual([(scaled.spec as any).replicas, scaled.metadata.generation], [3, 2]);
    const who = managersOf(scaled, ["spec", "replicas"]).map(({ manager, operation }) => [manager, operation]);
    assert.deepEqual(who, [["contract", "Update"]], "and it is the creator's no more");
    await assert.rejects(kube.scale(moed, ref, { replicas: 4, resourceVersion: version(made) }, manager), code("Conflict"));
    await kube.delete(moed, ref);
    await assert.rejects(kube.scale(moed, ref, { replicas: 4, resourceVersion: version(scaled) }, manager), code("NotFound"));
  });

  it("a scale of replicas that nobody has leaves them with nobody, and a merge patch makes them its manager's", async (kube, namespace) => {
    const moed = resources.moeDeployments;
    const ref = { namespace, name: name() };
    const spec = { model: { uri: "pvc://models/x" }, suspend: true };
    const made = await kube.apply(moed, { apiVersion, kind: "MoEDeployment", metadata: ref, spec }, other);
    const version = ({ metadata: { resourceVersion = "" } }: KubeObject) => resourceVersion;
    await kube.scale(moed, ref, { replicas: 3, resourceVersion: version(made) }, manager);
    const scaled = await kube.get(moed, ref);
    assert.ok(scaled);
    assert.deepEqual([(scaled.spec as any).replicas, managersOf(scaled, ["spec", "replicas"])], [3, []]);
    const claim = (replicas: number, object: KubeObject) =>
      kube.patch(moed, ref, { metadata: { resourceVersion: version(object) }, spec: { replicas } }, manager);
    await assert.rejects(claim(4, made), code("Conflict"));
    const claimed = await claim(4, scaled);
    const who = managersOf(claimed, ["spec", "replicas"]).map(({ manager, operation }) => [manager, operation]);
    assert.deepEqual(who, [["contract", "Update"]]);
    await kube.delete(moed, ref);
  });

  it("a scale to 0 sets it and leaves it with nobody, whoever had the number before", async (kube, namespace) => {
    const moed = resources.moeDeployments;
    const ref = { namespace, name: name() };
    const spec = { model: { uri: "pvc://models/x" }, replicas: 2, suspend: true };
    const made = await kube.create(moed, { apiVersion, kind: "MoEDeployment", metadata: ref, spec }, other);
    await kube.scale(moed, ref, { replicas: 0, resourceVersion: made.metadata.resourceVersion ?? "" }, manager);
    const scaled = await kube.get(moed, ref);
    assert.ok(scaled);
    assert.deepEqual([(scaled.spec as any).replicas, managersOf(scaled, ["spec", "replicas"])], [0, []]);
    await kube.delete(moed, ref);
  });

  it("a merge patch sets and removes single fields, and a uid in it is a precondition", async (kube, namespace) => {
    const made = await kube.create(cm, configMap(namespace, { a: "1" }, { annotations: { x: "1", y: "1" } }), manager);
    const ref = { namespace, name: made.metadata.name };
    const patched = await kube.patch(cm, ref, { metadata: { uid: made.metadata.uid, annotations: { x: null, z: "2" } } }, manager);
    assert.deepEqual(patched.metadata.annotations, { y: "1", z: "2" });
    await assert.rejects(
      kube.patch(cm, ref, { metadata: { uid: "00000000-0000-0000-0000-000000000000", annotations: { w: "1" } } }, manager),
      code("Invalid"),
    );
    await assert.rejects(kube.patch(cm, { namespace, name: name() }, { data: { a: "1" } }, manager), code("NotFound"));
  });

  it("a delete with a uid spares another incarnation of the name", async (kube, namespace) => {
    const made = await kube.create(cm, configMap(namespace, { a: "1" }), manager);
    const ref = { namespace, name: made.metadata.name };
    assert.equal(await kube.delete(cm, ref, { uid: "00000000-0000-0000-0000-000000000000" }), false);
    assert.ok(await kube.get(cm, ref));
    assert.equal(await kube.delete(cm, ref, { uid: made.metadata.uid ?? "" }), true);
    assert.equal(await kube.get(cm, ref), undefined);
  });

  it("a list selects by namespace and label", async (kube, namespace) => {
    const mine = await kube.create(cm, configMap(namespace, {}, { labels: { "enodia.dev/deployment": "x", color: "red" } }), manager);
    await kube.create(cm, configMap(namespace, {}, { labels: { color: "blue" } }), manager);
    const named = async (labelSelector: string) =>
      (await kube.list(cm, { namespace, labelSelector })).items.map((item) => item.metadata.name);
    assert.ok((await named("color=red")).includes(mine.metadata.name));
    assert.equal((await named("color=red,enodia.dev/deployment")).length, 1);
    assert.deepEqual(await named("color=green"), []);
    const all = await kube.list(cm, { labelSelector: "color=red" });
    assert.equal(all.items[0]?.kind, "ConfigMap");
  });

  it("a watch goes on exactly where a list ended", async (kube, namespace) => {
    await kube.create(cm, configMap(namespace, { before: "1" }), manager);
    const { resourceVersion } = await kube.list(cm, { namespace, labelSelector: "enodia.dev/deployment" });
    const abort = new AbortController();
    const seen: string[] = [];
    const object = configMap(namespace, { n: "0" });
    const watching = (async () => {
      for await (const event of kube.watch(cm, {
        namespace,
        labelSelector: "enodia.dev/deployment",
        resourceVersion,
        signal: abort.signal,
      })) {
        if (event.type === "BOOKMARK") continue;
        seen.push(`${event.type} ${(event.object.data as any)?.n}`);
        if (event.type === "DELETED") return;
      }
    })();
    const made = await kube.create(cm, object, manager);
    await kube.update(cm, { ...made, data: { n: "1" } }, manager);
    await kube.delete(cm, { namespace, name: object.metadata.name });
    await watching;
    abort.abort();
    assert.deepEqual(seen, ["ADDED 0", "MODIFIED 1", "DELETED 1"]);
  });

  it("a watch from a version long gone is Expired", async (kube, namespace) => {
    const drain = async (events: AsyncIterable<WatchEvent>) => {
      for await (const _ of events) return;
    };
    const signal = AbortSignal.timeout(10_000);
    await assert.rejects(drain(kube.watch(cm, { namespace, resourceVersion: "1", signal })), code("Expired"));
  });

  it("of two writers with one version exactly one wins", async (kube, namespace) => {
    const made = await kube.create(cm, configMap(namespace, { holder: "" }), manager);
    const tries = await Promise.allSettled(["a", "b", "c", "d"].map((holder) => kube.update(cm, { ...made, data: { holder } }, manager)));
    assert.equal(tries.filter((one) => one.status === "fulfilled").length, 1);
  });
}
