// The pods of a deployment, read from the cache once per pass and grouped.

import { labels } from "../../../crds/common.ts";
import { downloaderComponent } from "../../../crds/download.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { workerProcess } from "../../../crds/process.ts";
import { weightServerComponent } from "../../../crds/weight-server.ts";
import { isOrphan, isOwned } from "../../kube/adoption.ts";
import type { Informers, PodOverlay } from "../../kube/informers.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { Orphans, PodFacts } from "../core/snapshot.ts";
import { hasEnded, type NodeHealth, podFacts } from "./pod-facts.ts";

interface Sources {
  readonly informers: Pick<Informers, "related">;
  readonly overlay: Pick<PodOverlay, "merge">;
}

interface PodEnv {
  readonly containers?: readonly { readonly env?: readonly { readonly name: string; readonly value?: string }[] }[];
}

export interface OwnPods {
  readonly workers: readonly KubeObject[];
  readonly gateways: readonly KubeObject[];
  readonly downloaders: readonly KubeObject[];
  readonly weightServers: readonly KubeObject[];
  /** Made for a deleted deployment of this name. */
  readonly others: { readonly workers: readonly KubeObject[]; readonly gateways: readonly KubeObject[] };
}

export function ownPods({ informers, overlay }: Sources, { metadata }: Pick<MoEDeployment, "metadata">): OwnPods {
  const { uid } = metadata;
  const all = informers.related("pods", metadata);
  const isOurs = (pod: KubeObject) => componentOf(pod) === "worker" && isOwned(pod, uid);
  const by = Map.groupBy(all, componentOf);
  const of = (component: string) => by.get(component) ?? [];
  const [others, gateways] = [of("gateway").filter((pod) => isOfOther(pod, uid)), of("gateway").filter((pod) => !isOfOther(pod, uid))];
  return {
    workers: overlay.merge(of("worker").filter(isOurs), isOurs),
    gateways,
    downloaders: of(downloaderComponent),
    weightServers: of(weightServerComponent),
    others: { workers: of("worker").filter((pod) => isOfOther(pod, uid)), gateways: others },
  };
}

const componentOf = ({ metadata }: KubeObject): string | undefined => metadata.labels?.[labels.component];

/** The uid that a pod was made for; undefined where it names none. */
function worldOf({ spec }: KubeObject): string | undefined {
  const env = (spec as PodEnv | undefined)?.containers?.flatMap((container) => container.env ?? []);
  return env?.find(({ name }) => name === workerProcess.deploymentUid.variable)?.value;
}

export function isOfOther(pod: KubeObject, uid: string): boolean {
  const world = worldOf(pod);
  return world !== undefined && world !== uid;
}

export function orphansOf({ workers, gateways }: OwnPods["others"], name: string, nodes: NodeHealth, now: number): Orphans {
  return {
    workers: workers.flatMap((pod): PodFacts[] => {
      const facts = isOrphan(pod.metadata, name) ? podFacts(pod, nodes, now) : undefined;
      return facts ? [{ ...facts, lost: facts.silent }] : [];
    }),
    // An ended pod stays where its ReplicaSet was orphaned, and serves nobody.
    gateways: gateways.filter((pod) => !hasEnded(pod)).length,
  };
}
