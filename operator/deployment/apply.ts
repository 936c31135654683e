// Server-side apply of the rendered objects, skipped while neither what we want nor what is there has changed.
import { createHash } from "node:crypto";
import { hasCode } from "../kube/errors.ts";
import { type Kube, type KubeObject, keyOf, type Resource, refOf } from "../kube/kube.ts";
import type { Refusal } from "./core/snapshot.ts";
import type { Rendered } from "./objects/index.ts";

export const manager = "enodia-operator";

export class Applier {
  readonly #kube: Kube;
  readonly #live: (resource: Resource, ref: ReturnType<typeof refOf>) => KubeObject | undefined;
  readonly #last = new Map<string, { hash: string; version: string }>();

  constructor(kube: Kube, live: (resource: Resource, ref: ReturnType<typeof refOf>) => KubeObject | undefined) {
    this.#kube = kube;
    this.#live = live;
  }

  /** Applies in order. What the API server refuses is returned, everything else is thrown. */
  async apply(objects: readonly Rendered[]): Promise<Refusal[]> {
    const refusals: Refusal[] = [];
    for (const { resource, object } of objects) {
      const key = `${resource.plural}/${keyOf(refOf(object))}/${object.metadata.ownerReferences?.[0]?.uid ?? ""}`;
      const hash = createHash("sha256").update(JSON.stringify(object)).digest("hex");
      const last = this.#last.get(key);
      const live = this.#live(resource, refOf(object));
      // The cache may be behind our own write, never behind somebody else's for long.
      if (last?.hash === hash && live && live.metadata.resourceVersion === last.version) continue;
      try {
        const applied = await this.#kube.apply(resource, object, { manager });
        this.#last.set(key, { hash, version: applied.metadata.resourceVersion ?? "" });
      } catch (error) {
        if (!hasCode(error, "Invalid", "Forbidden")) throw error;
        refusals.push({ reason: "ObjectRefused", message: `${object.kind} ${object.metadata.name}: ${(error as Error).message}` });
      }
    }
    return refusals;
  }
}
