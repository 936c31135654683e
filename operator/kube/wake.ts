// What wakes a plane: changes of its objects, but not our own status writes, of everything with their label, and of their pods' nodes.
import { labels } from "../../crds/common.ts";
import type { OwnerKind } from "./adoption.ts";
import { type Informers, wakers } from "./informers.ts";
import { type KubeObject, keyOf, type Ref, refOf } from "./kube.ts";
import type { Watched } from "./resources.ts";

export interface WakeSources {
  readonly of: Pick<OwnerKind, "label">;
  readonly informers: Informers;
  readonly objects: Watched;
  readonly add: (ref: Ref) => void;
  /** A status that we did not write is corrected; unset = all are ours. */
  readonly wrote?: (object: KubeObject) => boolean;
  /** Called before the owner is woken. */
  readonly onOwned?: (kind: Watched, object: KubeObject) => void;
}

/** Returns the function that stops it. */
export function wake({ of, informers, objects, add, wrote = () => true, onOwned }: WakeSources): () => void {
  const seen = new Map<string, string>();
  const stops = [
    informers.onChange(objects, (object, change) => {
      const key = keyOf(refOf(object));
      const { uid, generation, deletionTimestamp = "" } = object.metadata;
      const mark = `${uid}/${generation}/${deletionTimestamp}`;
      if (change === "set" && seen.get(key) === mark && wrote(object)) return;
      if (change === "set") seen.set(key, mark);
      else seen.delete(key);
      add(refOf(object));
    }),
    ...wakers(of.label).map((kind) =>
      informers.onChange(kind, (object) => {
        onOwned?.(kind, object);
        const name = object.metadata.labels?.[of.label];
        if (name !== undefined) add({ namespace: object.metadata.namespace ?? "", name });
      }),
    ),
  ];
  return () => {
    for (const stop of stops) stop();
  };
}

/** Wakes the deployments with pods on a node that has changed. Returns the function that stops it. */
export function wakeByNodes(informers: Pick<Informers, "list" | "onChange">, add: (ref: Ref) => void): () => void {
  const known = new Map<string, string>();
  return informers.onChange("nodes", (node, change) => {
    const { name } = node.metadata;
    const state = change === "delete" ? undefined : stateOf(node);
    if (state === known.get(name)) return;
    if (state === undefined) known.delete(name);
    else known.set(name, state);
    for (const ref of deploymentsOn(name, informers.list("pods"))) add(ref);
  });
}

/** What passes read of a node; heartbeats of its kubelet change none of it. */
function stateOf({ metadata, spec, status }: KubeObject): string {
  const { unschedulable, taints } = (spec ?? {}) as { unschedulable?: unknown; taints?: unknown };
  const { conditions } = (status ?? {}) as { conditions?: { type: string; status: string }[] };
  const ready = conditions?.find(({ type }) => type === "Ready")?.status;
  return JSON.stringify([ready, unschedulable, taints, Object.entries(metadata.labels ?? {}).sort()]);
}

export function deploymentsOn(node: string, pods: readonly KubeObject[]): Ref[] {
  const there = pods.filter(({ spec }) => (spec as { nodeName?: string } | undefined)?.nodeName === node);
  const refs = there.flatMap(({ metadata: { namespace = "", labels: marks } }): Ref[] => {
    const name = marks?.[labels.deployment];
    return name === undefined ? [] : [{ namespace, name }];
  });
  return [...new Map(refs.map((ref) => [keyOf(ref), ref])).values()];
}
