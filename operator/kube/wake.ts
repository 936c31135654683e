// What wakes a plane: changes of the objects of its kind, but not our own writes of their status, and of everything that bears their name in
// a label.
import type { OwnerKind } from "./adoption.ts";
import { type Informers, type Watched, wakers } from "./informers.ts";
import { type KubeObject, keyOf, type Ref, refOf } from "./kube.ts";

export interface WakeSources {
  readonly of: Pick<OwnerKind, "label">;
  readonly informers: Informers;
  /** Where the objects are watched. */
  readonly objects: Watched;
  readonly add: (ref: Ref) => void;
  /** False of a status that we have not written, which is put right; all are ours where it is not given. */
  readonly wrote?: (object: KubeObject) => boolean;
  /** Called with each change of an owned object, before its owner is woken. */
  readonly onOwned?: (kind: Watched, object: KubeObject) => void;
}

/** Returns how to stop. */
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
