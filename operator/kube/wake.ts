// What wakes a plane: changes of its objects, but not our own status writes, and of everything with their label.
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
