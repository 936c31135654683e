// Finds pods of a deleted namesake in the cache; core/orphans.ts decides about them.

import { labels } from "../../crds/common.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { workerProcess } from "../../crds/process.ts";
import { isOrphan } from "../kube/adoption.ts";
import type { Informers } from "../kube/informers.ts";
import type { KubeObject } from "../kube/kube.ts";
import type { Orphans, PodFacts } from "./core/snapshot.ts";
import { hasEnded, nodesSeen, podFacts } from "./observe/pod-facts.ts";

interface Sources {
  readonly informers: Pick<Informers, "get" | "ofDeployment" | "seesNodes">;
  readonly now: () => Date;
}

interface PodEnv {
  readonly containers?: readonly { readonly env?: readonly { readonly name: string; readonly value?: string }[] }[];
}

/** The uid that a pod was made for; undefined where it names none. */
function worldOf({ spec }: KubeObject): string | undefined {
  const env = (spec as PodEnv | undefined)?.containers?.flatMap((container) => container.env ?? []);
  return env?.find(({ name }) => name === workerProcess.deploymentUid.variable)?.value;
}

export function isOfOther(pod: KubeObject, uid: string): boolean {
  const world = worldOf(pod);
  return world !== undefined && world !== uid;
}

export function findOrphans({ informers, now }: Sources, { metadata }: MoEDeployment): Orphans {
  const { name, uid } = metadata;
  const old = informers.ofDeployment("pods", metadata).filter((pod) => isOfOther(pod, uid));
  if (old.length === 0) return { workers: [], gateways: 0 };
  const of = (component: string) => old.filter((pod) => pod.metadata.labels?.[labels.component] === component);
  const nodes = nodesSeen(informers);
  const workers = of("worker").filter((pod) => isOrphan(pod.metadata, name));
  return {
    workers: workers.flatMap((pod): PodFacts[] => {
      const facts = podFacts(pod, nodes, now().getTime());
      return facts ? [{ ...facts, lost: facts.silent }] : [];
    }),
    // An ended pod stays where its ReplicaSet was orphaned, and serves nobody.
    gateways: of("gateway").filter((pod) => !hasEnded(pod)).length,
  };
}
