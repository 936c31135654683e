// Claims as caches show them: how many nodes can mount one, which pods use it, and how a pod is held to a node. Pure.
import { z } from "zod";
import { annotations, labels } from "../../crds/common.ts";
import type { KubeObject } from "../kube/kube.ts";
import type { ClaimUse } from "./claim-holder.ts";

const modesSchema = z.object({ accessModes: z.array(z.string()).default([]) }).prefault({});
const claimSchema = z.object({ spec: modesSchema, status: modesSchema });

/** Who can mount a claim at once: pods on many nodes, those on one, or one pod. */
export type ClaimReach = "Nodes" | "Node" | "Pod";

export function claimReach(claim: unknown): ClaimReach {
  const { spec, status } = claimSchema.safeParse(claim).data ?? {};
  const { accessModes = [] } = spec ?? {};
  if (accessModes.length === 0 || accessModes.some((mode) => mode === "ReadWriteMany" || mode === "ReadOnlyMany")) return "Nodes";
  if (!accessModes.includes("ReadWriteOnce")) return "Pod";
  // The volume that it got may offer more than it asked.
  return status?.accessModes.includes("ReadWriteMany") ? "Nodes" : "Node";
}

export const userOf = {
  deployment: (name: string) => `deployment ${name}`,
  job: (name: string) => `job ${name}`,
};

/** Undefined for a pod without a node, or one that has ended. */
export function claimUse(pod: KubeObject, claim: string): Omit<ClaimUse, "model"> | undefined {
  const { uid = "", name, labels: marks = {}, annotations: notes, deletionTimestamp, creationTimestamp } = pod.metadata;
  const { nodeName: node } = (pod.spec ?? {}) as { readonly nodeName?: string };
  const { phase = "Pending" } = (pod.status ?? {}) as { readonly phase?: string };
  if (node === undefined || phase === "Succeeded" || phase === "Failed") return undefined;
  const { [labels.trainingJob]: job, [labels.deployment]: deployment = "" } = marks;
  return {
    ...{ uid, pod: name, claim, node, mounted: phase === "Running", terminating: deletionTimestamp !== undefined },
    ...{ user: job === undefined ? userOf.deployment(deployment) : userOf.job(job), component: marks[labels.component] ?? "" },
    ...{ createdMs: Date.parse(creationTimestamp ?? "") || 0, held: notes?.[annotations.claimNode] },
  };
}

const required = "requiredDuringSchedulingIgnoredDuringExecution";
interface Affinity {
  readonly nodeAffinity?: {
    readonly [required]?: { readonly nodeSelectorTerms?: readonly { readonly matchFields?: readonly object[] }[] };
  };
}

/** The affinity names the object, since the hostname label of a node may be another. Terms are alternatives, so that each gets the node. */
export function onNode(node: string, affinity: Affinity = {}) {
  const field = { key: "metadata.name", operator: "In", values: [node] };
  const { nodeSelectorTerms: [...terms] = [] } = affinity.nodeAffinity?.[required] ?? {};
  const held = (terms.length === 0 ? [{}] : terms).map((term) => ({ ...term, matchFields: [...(term.matchFields ?? []), field] }));
  return { ...affinity, nodeAffinity: { ...affinity.nodeAffinity, [required]: { nodeSelectorTerms: held } } };
}

/** The same in an annotation, since the copy of a pod has no affinity. */
export const heldNote = (node: string | undefined): Record<string, string> => (node === undefined ? {} : { [annotations.claimNode]: node });
