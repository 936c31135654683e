// Checks storage classes for models, and the claims of deployments.
import { z } from "zod";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { resources } from "../../kube/kube.ts";
import { listed } from "../../views/format.ts";
import { type Check, type Outcome, ok, read, warn } from "./check.ts";

/** Provisioners whose volumes several nodes can mount. */
const shared =
  /nfs|cephfs|efs\.csi|azurefile|\bfile\.csi|filestore|glusterfs|lustre|weka|beegfs|juicefs|seaweedfs|smb\.csi|quobyte|manila/i;
const defaultClass = "storageclass.kubernetes.io/is-default-class";
const namedMax = 6;
const claimsMax = 50;

const classesSchema = z.object({
  items: z.array(
    z.object({
      metadata: z.object({ name: z.string(), annotations: z.record(z.string(), z.string()).default({}) }),
      provisioner: z.string(),
    }),
  ),
});

export function judgeClasses(document: unknown): Outcome {
  const { items } = classesSchema.parse(document);
  const byHand = "make a PersistentVolume by hand for the claim that holds models, or install a provisioner";
  if (items.length === 0) return warn("there is no storage class, so claims are not filled by themselves", byHand);
  const usual = items.find(({ metadata }) => metadata.annotations[defaultClass] === "true")?.metadata.name;
  const many = items.filter(({ provisioner }) => shared.test(provisioner));
  const names = listed(
    items.map(({ metadata, provisioner }) => `${metadata.name} (${provisioner})`),
    namedMax,
  );
  const text = `${names}; default: ${usual ?? "none"}`;
  if (many.length > 0)
    return ok(
      `${text}; known for ReadWriteMany: ${listed(
        many.map(({ metadata }) => metadata.name),
        namedMax,
      )}`,
    );
  return ok(`${text}; none is known for ReadWriteMany: a weight server serves a model's claim to workers on several nodes`);
}

export const storageClasses: Check = {
  name: "storage classes",
  when: "always",
  run: async ({ transport }) => [judgeClasses(await read(transport, "/apis/storage.k8s.io/v1/storageclasses?limit=500"))],
};

const claimSchema = z.object({
  spec: z.object({ accessModes: z.array(z.string()).default([]) }).prefault({}),
  status: z.object({ phase: z.string().default("Pending"), accessModes: z.array(z.string()).default([]) }).prefault({}),
});

export function judgeClaim(where: string, object: unknown, { nodes }: { readonly nodes: number }): Outcome {
  const [namespace, name] = where.split("/");
  const look = `kubectl -n ${namespace} describe pvc ${name}`;
  if (object === undefined)
    return warn(`claim ${where} of a deployment is not there`, `enodia model push FOLDER --claim ${name} --namespace ${namespace}`);
  const { spec, status } = claimSchema.parse(object);
  const modes = spec.accessModes.join(", ");
  if (status.phase !== "Bound") return warn(`claim ${where} is ${status.phase} (${modes})`, look);
  const many = [...spec.accessModes, ...status.accessModes].includes("ReadWriteMany") || spec.accessModes.includes("ReadOnlyMany");
  if (many || nodes < 2) return ok(`claim ${where} is bound (${modes})`);
  return ok(
    `claim ${where} is bound (${modes}): one of ${nodes} nodes can mount it, and a weight server there serves it to workers on the others`,
  );
}

export const claims: Check = {
  name: "model claims",
  when: "after",
  run: async ({ kube }) => {
    const [{ items }, nodes] = await Promise.all([kube.list(resources.moeDeployments), kube.list(resources.nodes)]);
    const needed = new Set(
      items.flatMap((object) => {
        const { metadata, spec } = parseMoEDeployment(object);
        const [, claim] = /^pvc:\/\/([^/]+)\//.exec(spec.model.uri) ?? [];
        return claim === undefined ? [] : [`${metadata.namespace}/${claim}`];
      }),
    );
    return Promise.all(
      [...needed].slice(0, claimsMax).map(async (where) => {
        const [namespace = "", name = ""] = where.split("/");
        return judgeClaim(where, await kube.get(resources.persistentVolumeClaims, { namespace, name }), { nodes: nodes.items.length });
      }),
    );
  },
};
