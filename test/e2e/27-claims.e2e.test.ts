// Users of one claim, whose volume one node has at a time: another model by blue/green and a second deployment on ReadWriteOnce, which are held
// to its node, and the refusal of a second one on ReadWriteOncePod.
import assert from "node:assert/strict";
import { chmodSync, cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type EnforcedClaims, enforceClaims, enforcedPath } from "../cluster/claims.ts";
import { pauseImage } from "../cluster/node.ts";
import { gatewayAddress, type Target } from "../kit/deployment/product.ts";
import { condition } from "../kit/kube/kubectl.ts";
import { modelsFolder, provideTiny } from "../kit/models/local-models.ts";
import { until } from "../kit/processes/process.ts";
import { explainFailures } from "./diagnose.ts";
import { inPhase, patchSpec } from "./steps.ts";
import { clusterName, type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

const namespace = "e2e-claims";
const startMs = 240_000;
const rollMs = 300_000;
const folder = mkdtempSync(join(tmpdir(), "enodia-claims-"));
const made: Deployed[] = [];
let target: Target;
let one: Deployed;
let claims: EnforcedClaims | undefined;

const runtime = { backend: "cpu", expertCodec: "f32", maxContext: 128, kvPool: "16Mi" };
const tiny = (name: string, uri: string) => smolMoe(name, { model: { uri }, replicas: 1, runtime, experts: { memoryPerRank: "64Mi" } });

explainFailures(() => one);
before(async () => {
  const log = (line: string) => void process.stderr.write(`# ${line}\n`);
  target = await openWorld();
  await provideTiny(log);
  chmodSync(folder, 0o755);
  for (const name of ["a", "b"]) cpSync(join(modelsFolder(), "tiny"), join(folder, name), { recursive: true });
  claims = enforceClaims(clusterName, folder, log);
  one = await deploy(target, namespace, tiny("shared", "pvc://models/tiny"));
  made.push(one);
  await one.kubectl.apply(...claimOf("single", "ReadWriteOnce"), ...claimOf("once", "ReadWriteOncePod"));
});
after(async () => {
  for (const each of made) await remove(each);
  await claims?.stop();
  rmSync(folder, { recursive: true });
});

/** A volume that one node has at a time, and the claim that is bound to it. */
function claimOf(name: string, mode: string): readonly object[] {
  const size = { storage: "1Gi" };
  const spec = { storageClassName: "", accessModes: [mode] };
  const bound = { persistentVolumeReclaimPolicy: "Retain", claimRef: { namespace, name } };
  const volume = { ...spec, ...bound, capacity: size, hostPath: enforcedPath(`${namespace}-${name}`) };
  const claim = { ...spec, volumeName: `${namespace}-${name}`, resources: { requests: size } };
  return [
    { apiVersion: "v1", kind: "PersistentVolume", metadata: { name: `${namespace}-${name}` }, spec: volume },
    { apiVersion: "v1", kind: "PersistentVolumeClaim", metadata: { name, namespace }, spec: claim },
  ];
}

async function make(name: string, uri: string): Promise<Deployed> {
  const each = { ...one, name, url: async () => (await gatewayAddress(target, one.kubectl, name)).url };
  made.push(each);
  await one.kubectl.apply(tiny(name, uri));
  return each;
}

const serves = (moed: any) => inPhase("Complete")(moed) && !moed.status.rollout.green && condition(moed, "Ready")?.status === "True";
const singleNode = () => claims?.nodeOf(`${namespace}-single`);

/** A pod that mounts the claim on a node, whoever has it. */
const strangerOn = (nodeName: string) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "stranger" },
  spec: {
    nodeName,
    securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: "RuntimeDefault" } },
    containers: [
      {
        ...{ name: "pause", image: pauseImage, volumeMounts: [{ name: "claim", mountPath: "/claim" }] },
        securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
      },
    ],
    volumes: [{ name: "claim", persistentVolumeClaim: { claimName: "single" } }],
  },
});

test("on ReadWriteOnce another model comes by blue/green, and a second deployment beside it, all on the node of the claim", async () => {
  const { kubectl } = one;
  const first = await make("first", "pvc://single/a");
  await kubectl.waitFor("moed", "first", "the first to serve", serves, startMs);
  const node = singleNode();
  const other = (await kubectl.list("nodes")).find(({ metadata }) => metadata.name !== node)?.metadata.name ?? "";
  await kubectl.apply(strangerOn(other));
  const failed = ["get", "events", "--field-selector", "involvedObject.name=stranger,reason=FailedMount", "-o", "name"];
  await until("no mount on another node", async () => ((await kubectl.run(failed)) === "" ? undefined : true), { timeoutMs: 60_000 });
  await kubectl.run(["delete", "pod", "stranger", "--grace-period=0", "--force"]);
  await patchSpec(first, { model: { uri: "pvc://single/b" } });
  await kubectl.waitFor("moed", "first", "a green deployment", (moed) => moed.status?.rollout?.green !== undefined, startMs);
  await kubectl.waitFor("moed", "first", "the other model by it, not rolled back", serves, rollMs);
  await make("second", "pvc://single/a");
  await kubectl.waitFor("moed", "second", "the second to serve", serves, startMs);
  const servers = await kubectl.list("pods", "enodia.dev/component=weight-server");
  const nodes = servers.filter(({ metadata }) => metadata.deletionTimestamp === undefined).map(({ spec }) => spec.nodeName);
  assert.deepEqual(nodes, [node, node]);
});

test("on ReadWriteOncePod a second deployment is refused with the pod that has the claim, and the first goes on", async () => {
  const { kubectl } = one;
  await make("only", "pvc://once/a");
  await kubectl.waitFor("moed", "only", "the only one to serve", serves, startMs);
  await make("late", "pvc://once/b");
  const inUse = (moed: any) => condition(moed, "ModelAvailable")?.reason === "ClaimInUse";
  const late = await kubectl.waitFor("moed", "late", "the refusal", inUse, startMs);
  assert.match(
    condition(late, "ModelAvailable")?.message ?? "",
    /pod only-weight-server-.* of deployment only has it: use a claim that is/,
  );
  assert.ok(serves(await kubectl.get("moed", "only")));
});
