// Server-side apply of the rendered objects, skipped while neither what we want nor what is there has changed. An object that is
// not this deployment's is never touched: applied, it would carry our owner reference and be deleted with the deployment. What a
// deleted deployment of the same name left without an owner is taken over, so that a Service keeps its address.
import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { AppError, apiVersion } from "../../crds/common.ts";
import { hasCode } from "../kube/errors.ts";
import { type Kube, type KubeObject, type Ref, type Resource, refOf } from "../kube/kube.ts";
import { mayAdopt } from "./adoption.ts";
import { objectRefusal } from "./core/refusal-text.ts";
import type { Refusal } from "./core/snapshot.ts";
import type { Absent, Rendered } from "./objects/index.ts";

export const manager = "enodia-operator";

/** The deployment that objects are made for. */
export interface Owner {
  readonly name: string;
  readonly uid: string;
}

export interface Applied {
  /** The objects that are refused, by the API server or since they are somebody else's. */
  readonly refusals: readonly Refusal[];
  /** The first error of another kind. */
  readonly failure: AppError | undefined;
}

export class Applier {
  readonly #kube: Kube;
  readonly #live: (resource: Resource, ref: Ref) => KubeObject | undefined;
  /** The last write of each object, by owner's uid, then by object. */
  readonly #last = new Map<string, Map<string, { hash: string; version: string }>>();

  /** `live` gives what the informers have; they follow objects with our labels only. */
  constructor(kube: Kube, live: (resource: Resource, ref: Ref) => KubeObject | undefined) {
    this.#kube = kube;
    this.#live = live;
  }

  /** Applies in order, each whatever became of those before it. */
  async apply(objects: readonly Rendered[], owner: Owner): Promise<Applied> {
    const refusals: Refusal[] = [];
    let failure: AppError | undefined;
    for (const { resource, object, otherwise } of objects) {
      try {
        const problem = await this.#applyOne({ resource, object }, owner);
        if (problem === undefined) continue;
        refusals.push({ reason: "ObjectRefused", message: problem });
        if (otherwise && !isDeepStrictEqual(otherwise, object)) await this.#applyOne({ resource, object: otherwise }, owner);
      } catch (caught) {
        failure ??= AppError.from(caught, `applying ${object.kind} ${object.metadata.name}`);
      }
    }
    return { refusals, failure };
  }

  /** Deletes those that are there and ours; whatever else has their names stays. */
  async remove(objects: readonly Absent[], owner: Owner & { readonly namespace: string }): Promise<void> {
    for (const { resource, name } of objects) {
      const ref = { namespace: owner.namespace, name };
      const live = this.#live(resource, ref);
      if (!live || (await this.#foreignness(live, resource.kind, owner)) !== undefined) continue;
      await this.#kube.delete(resource, ref, { uid: live.metadata.uid ?? "" });
    }
  }

  /** The reason why an object that is there cannot be taken; undefined when it can be. */
  async #foreignness(live: KubeObject, kind: string, { name, uid }: Owner): Promise<string | undefined> {
    const foreign = foreignness(live, kind, { name, uid });
    const adopter = { namespace: live.metadata.namespace ?? "", name, uid };
    return foreign !== undefined && (await mayAdopt(this.#kube, live, adopter)) ? undefined : foreign;
  }

  forget(uid: string): void {
    this.#last.delete(uid);
  }

  async #applyOne({ resource, object }: Rendered, owner: Owner): Promise<string | undefined> {
    const last = this.#last.get(owner.uid) ?? new Map<string, { hash: string; version: string }>();
    this.#last.set(owner.uid, last);
    const key = `${resource.plural}/${object.metadata.name}`;
    const hash = createHash("sha256").update(JSON.stringify(object)).digest("hex");
    const cached = this.#live(resource, refOf(object));
    // The cache may be behind our own write, never behind somebody else's for long.
    if (last.get(key)?.hash === hash && cached?.metadata.resourceVersion === last.get(key)?.version) return undefined;
    const live = cached ?? (await this.#kube.get(resource, refOf(object)));
    const foreign = live ? await this.#foreignness(live, object.kind, owner) : undefined;
    if (foreign !== undefined) return foreign;
    try {
      const applied = await this.#kube.apply(resource, object, { manager });
      last.set(key, { hash, version: applied.metadata.resourceVersion ?? "" });
      return undefined;
    } catch (error) {
      if (!hasCode(error, "Invalid", "Forbidden")) throw error;
      return objectRefusal(object.kind, object.metadata.name, (error as Error).message);
    }
  }
}

/** The reason why an object that is there is not this deployment's; undefined when it is. */
function foreignness({ metadata }: KubeObject, kind: string, owner: Owner): string | undefined {
  const owners = metadata.ownerReferences ?? [];
  if (owners.some((one) => one.uid === owner.uid)) return undefined;
  const namesake = owners.some((one) => one.apiVersion === apiVersion && one.kind === "MoEDeployment" && one.name === owner.name);
  if (namesake) return `${kind} ${metadata.name} belongs to a deleted MoEDeployment of this name and is being removed; it is waited for`;
  return `${kind} ${metadata.name} exists and does not belong to this MoEDeployment; delete or rename it, or give the MoEDeployment another name`;
}
