// Server-side apply of owned objects, skipped while nothing has changed. Objects and fields of others stay (field-conflicts.ts); those of a
// deleted namesake are adopted.
import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { AppError, apiVersion } from "../../crds/common.ts";
import { manager, mayAdopt, type OwnerKind } from "./adoption.ts";
import { type FieldConflict, FieldConflictError, hasCode } from "./errors.ts";
import { conflictText, isAutoscaled, isTakeable } from "./field-conflicts.ts";
import { type Kube, type KubeObject, type Ref, type Resource, refOf, resources } from "./kube.ts";
import { applies, type FieldPath, givenUp } from "./managed-fields.ts";
import type { Refusal } from "./refusal-text.ts";
import { objectRefusal } from "./refusal-text.ts";

const conflictBackoff = { baseMs: 10_000, maxMs: 120_000 } as const;
const giveUpTries = 4;

export interface Rendered {
  readonly resource: Resource;
  readonly object: KubeObject;
  readonly otherwise?: KubeObject;
  /** A field left to others; its value stays. */
  readonly leaves?: FieldPath;
  /** What the field is before it is left: where there is no object yet, or a zero of ours. */
  readonly begins?: unknown;
  /** Fields taken by force, as the API server writes them. */
  readonly takes?: readonly string[];
}

/** An object of other settings or an earlier spec, which must go. */
export interface Absent {
  readonly resource: Resource;
  readonly name: string;
}

export interface Owner {
  readonly name: string;
  readonly uid: string;
}

export interface Applied {
  /** Refused by the API server, or because somebody else owns the object. */
  readonly refusals: readonly Refusal[];
  /** Objects whose fields others manage, each with the remedy. */
  readonly conflicts: readonly string[];
  readonly failure: AppError | undefined;
}

export interface ApplierOptions {
  readonly of: OwnerKind;
  readonly kube: Kube;
  /** The cached object; informers follow only objects with our labels. */
  readonly live: (resource: Resource, ref: Ref) => KubeObject | undefined;
  readonly now: () => number;
}

/** A write, with the object's version and content after it. */
interface Write {
  readonly hash: string;
  readonly version: string;
  readonly substance: string;
}

type Result = { readonly refused: string } | { readonly conflict: string } | "applied";

interface Standoff {
  readonly hash: string;
  readonly version: string;
  readonly conflicts: readonly FieldConflict[];
  readonly waitMs: number;
  readonly nextAt: number;
}

export class Applier {
  readonly #of: ApplierOptions["of"];
  readonly #kube: Kube;
  readonly #live: ApplierOptions["live"];
  readonly #now: () => number;
  readonly #last = new Map<string, Map<string, Write>>();
  readonly #standoffs = new Map<string, Map<string, Standoff>>();

  constructor({ of, kube, live, now }: ApplierOptions) {
    this.#of = of;
    this.#kube = kube;
    this.#live = live;
    this.#now = now;
  }

  async apply(objects: readonly Rendered[], owner: Owner): Promise<Applied> {
    const refusals: Refusal[] = [];
    const conflicts: string[] = [];
    let failure: AppError | undefined;
    for (const rendered of objects) {
      const { object, otherwise } = rendered;
      try {
        const result = await this.#applyOne(rendered, owner);
        if (result === "applied") continue;
        if ("conflict" in result) {
          conflicts.push(result.conflict);
          continue;
        }
        refusals.push({ reason: "ObjectRefused", message: result.refused });
        if (!otherwise || isDeepStrictEqual(otherwise, object)) continue;
        const instead = await this.#applyOne({ ...rendered, object: otherwise }, owner);
        if (instead !== "applied" && "conflict" in instead) conflicts.push(instead.conflict);
      } catch (caught) {
        failure ??= AppError.from(caught, `applying ${object.kind} ${object.metadata.name}`);
      }
    }
    return { refusals, conflicts, failure };
  }

  async remove(objects: readonly Absent[], owner: Owner & { readonly namespace: string }): Promise<void> {
    for (const { resource, name } of objects) {
      const ref = { namespace: owner.namespace, name };
      const live = this.#live(resource, ref);
      if (!live || (await this.#foreignness(live, resource.kind, owner)) !== undefined) continue;
      await this.#kube.delete(resource, ref, { uid: live.metadata.uid ?? "" });
    }
  }

  async #foreignness(live: KubeObject, kind: string, { name, uid }: Owner): Promise<string | undefined> {
    const foreign = foreignness(live, kind, { name, uid, kind: this.#of.kind });
    const adopter = { namespace: live.metadata.namespace ?? "", name, uid, of: this.#of };
    return foreign !== undefined && (await mayAdopt(this.#kube, live, adopter)) ? undefined : foreign;
  }

  forget(uid: string): void {
    this.#last.delete(uid);
    this.#standoffs.delete(uid);
  }

  async #applyOne(rendered: Rendered, owner: Owner): Promise<Result> {
    const { resource, object, leaves, begins } = rendered;
    const last = within(this.#last, owner.uid);
    const key = keyOf(rendered);
    const hash = hashOf(object);
    const live = this.#live(resource, refOf(object)) ?? (await this.#kube.get(resource, refOf(object)));
    const written = last.get(key);
    // The cache may lag behind our write, but not for long behind others'.
    if (live && written?.hash === hash && stands(live, written)) {
      last.set(key, Object.assign({}, written, { version: live.metadata.resourceVersion ?? "" }));
      return "applied";
    }
    const foreign = live ? await this.#foreignness(live, object.kind, owner) : undefined;
    if (foreign !== undefined) return { refused: foreign };
    const standing = await this.#standsOff(rendered, { hash, live, owner });
    if (standing) return { conflict: conflictText(object, standing.conflicts) };
    try {
      const isNone = !live || (leaves !== undefined && (await this.#giveUp(resource, refOf(object), leaves)) === "zero");
      if (isNone && leaves && begins !== undefined) {
        await this.#write({ ...rendered, object: withValue(object, leaves, begins) as KubeObject });
        return "applied"; // and the next pass gives up what it began with
      }
      const made = await this.#write(rendered);
      last.set(key, { hash, version: made.metadata.resourceVersion ?? "", substance: substanceOf(made) });
    } catch (error) {
      if (error instanceof FieldConflictError) return this.#standOff(rendered, { hash, live, owner }, error.conflicts);
      if (!hasCode(error, "Invalid", "Forbidden")) throw error;
      return { refused: objectRefusal(object.kind, object.metadata.name, (error as Error).message) };
    }
    within(this.#standoffs, owner.uid).delete(key);
    return "applied";
  }

  /** The standing conflict where another try is not due; else undefined. */
  async #standsOff(rendered: Rendered, { hash, live, owner }: Attempt): Promise<Standoff | undefined> {
    const standoff = within(this.#standoffs, owner.uid).get(keyOf(rendered));
    if (!live || !standoff || standoff.hash !== hash) return undefined;
    if (this.#now() < standoff.nextAt) return standoff;
    if (live.metadata.resourceVersion !== standoff.version || (await this.#mayTake(rendered, standoff.conflicts))) return undefined;
    return standoff;
  }

  /** Forces the apply only where nobody manages the conflicting fields. */
  async #write(rendered: Rendered): Promise<KubeObject> {
    const { resource, object } = rendered;
    try {
      return await this.#kube.apply(resource, object, { manager });
    } catch (error) {
      if (!(error instanceof FieldConflictError) || !(await this.#mayTake(rendered, error.conflicts))) throw error;
      return await this.#kube.apply(resource, object, { manager, force: true });
    }
  }

  #standOff(rendered: Rendered, { hash, live, owner }: Attempt, conflicts: readonly FieldConflict[]): Result {
    const key = keyOf(rendered);
    const standoffs = within(this.#standoffs, owner.uid);
    const before = standoffs.get(key);
    const waitMs = before?.hash === hash ? Math.min(2 * before.waitMs, conflictBackoff.maxMs) : conflictBackoff.baseMs;
    const version = live?.metadata.resourceVersion ?? "";
    standoffs.set(key, { hash, version, conflicts, waitMs, nextAt: this.#now() + waitMs });
    return { conflict: conflictText(rendered.object, conflicts) };
  }

  async #mayTake({ object, takes = [] }: Rendered, conflicts: readonly FieldConflict[]): Promise<boolean> {
    const unscaled = conflicts.some(isAutoscaled) && !(await this.#isScaled(object));
    return conflicts.every((conflict) => isTakeable(conflict, { always: takes, unscaled }));
  }

  async #isScaled({ kind, metadata }: KubeObject): Promise<boolean> {
    const { items } = await this.#kube.list(resources.horizontalPodAutoscalers, { namespace: metadata.namespace ?? "" });
    return items.some(({ spec }) => {
      const target = (spec as { scaleTargetRef?: { kind?: string; name?: string } } | undefined)?.scaleTargetRef;
      return target?.kind === kind && target.name === metadata.name;
    });
  }

  /** Gives up a field so that its value stays. A zero of ours is kept, for the apply to remove: nobody scales up from it. */
  async #giveUp(resource: Resource, ref: Ref, path: FieldPath): Promise<"zero" | "others"> {
    for (let tries = 1; ; tries++) {
      const live = await this.#kube.get(resource, ref);
      if (!live || !applies(manager, live, path)) return "others";
      if (valueAt(live, path) === 0) return "zero";
      const { uid = "", resourceVersion = "" } = live.metadata;
      const metadata = { uid, resourceVersion, managedFields: givenUp(manager, live, path) };
      try {
        await this.#kube.patch(resource, ref, { metadata }, { manager });
        return "others";
      } catch (error) {
        if (!hasCode(error, "Conflict") || tries === giveUpTries) throw error;
      }
    }
  }
}

interface Attempt {
  readonly hash: string;
  readonly live: KubeObject | undefined;
  readonly owner: Owner;
}

const hashOf = (value: object): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");

const stands = (live: KubeObject, { version, substance }: Write): boolean =>
  live.metadata.resourceVersion === version || substanceOf(live) === substance;

function substanceOf(object: KubeObject): string {
  const metadata = Object.assign({}, object.metadata, { resourceVersion: undefined, managedFields: undefined });
  return hashOf(Object.assign({}, object, { apiVersion: undefined, kind: undefined, metadata, status: undefined }));
}

const keyOf = ({ resource, object }: Rendered): string => `${resource.plural}/${object.metadata.name}`;

function within<T>(all: Map<string, Map<string, T>>, uid: string): Map<string, T> {
  const found = all.get(uid) ?? new Map<string, T>();
  all.set(uid, found);
  return found;
}

const valueAt = (object: KubeObject, path: FieldPath): unknown =>
  path.reduce<unknown>((value, name) => (value as Record<string, unknown> | undefined)?.[name], object);

function withValue(object: object, [name = "", ...below]: FieldPath, value: unknown): object {
  const inner = (object as Record<string, object | undefined>)[name] ?? {};
  return { ...object, [name]: below.length === 0 ? value : withValue(inner, below, value) };
}

/** Why the object is not the owner's; undefined when it is. */
function foreignness({ metadata }: KubeObject, kind: string, owner: Owner & Pick<OwnerKind, "kind">): string | undefined {
  const owners = metadata.ownerReferences ?? [];
  if (owners.some((one) => one.uid === owner.uid)) return undefined;
  const namesake = owners.some((one) => one.apiVersion === apiVersion && one.kind === owner.kind && one.name === owner.name);
  if (namesake) return `${kind} ${metadata.name} belongs to a deleted ${owner.kind} of this name and is being removed; it is waited for`;
  return `${kind} ${metadata.name} exists and does not belong to this ${owner.kind}; delete or rename it, or give the ${owner.kind} another name`;
}
