// Whether an object may be acted on: its namespace's copy must be reliable, and no other install may claim it.
import { type Claims, heldByAnother } from "./claims.ts";
import type { Informers } from "./informers.ts";
import { type KubeObject, keyOf, type Ref, refOf } from "./kube.ts";

export type NamespaceClaims = Pick<Claims, "holds" | "holder" | "leave" | "onChange">;

export interface PermissionOptions {
  readonly informers: Informers;
  /** The namespaces of this install; unset = all. */
  readonly claims: NamespaceClaims | undefined;
  readonly event: (
    object: { readonly metadata: Ref & { readonly uid: string; readonly generation: number; readonly resourceVersion: string } },
    type: "Normal" | "Warning",
    reason: string,
    note: string,
  ) => void;
}

export class Permission {
  readonly #informers: Informers;
  readonly #claims: NamespaceClaims | undefined;
  readonly #event: (
    object: { readonly metadata: Ref & { readonly uid: string; readonly generation: number; readonly resourceVersion: string } },
    type: "Normal" | "Warning",
    reason: string,
    note: string,
  ) => void;

  constructor({ informers, claims, event }: PermissionOptions) {
    this.#informers = informers;
    this.#claims = claims;
    this.#event = event;
  }

  /** Adds every deployment of a namespace that is claimed, lost or refused. */
  onChange(add: (key: string) => void): void {
    this.#claims?.onChange((namespace) => {
      for (const object of this.#within(namespace)) add(keyOf(refOf(object)));
    });
  }

  /** `wait`: the copy is unreliable. `refused`: another install's, or not known to be ours. */
  of(ref: Ref): "granted" | "wait" | "refused" {
    const { namespace } = ref;
    if (this.#informers.trouble(namespace) !== undefined) return "wait";
    const object = this.#informers.get("moeDeployments", ref);
    if (object === undefined) {
      // A namespace without objects needs no claim.
      if (this.#within(namespace).length === 0) this.#claims?.leave(namespace);
      return "granted";
    }
    if (this.#claims?.holds(namespace) ?? true) return "granted";
    this.#tell(object);
    return "refused";
  }

  #tell(object: KubeObject): void {
    const { namespace = "", name, uid = "", generation = 0, resourceVersion = "" } = object.metadata;
    const holder = this.#claims?.holder(namespace);
    if (holder === undefined) return; // it may be ours in a moment
    const { reason, message } = heldByAnother(namespace, holder);
    this.#event({ metadata: { namespace, name, uid, generation, resourceVersion } }, "Warning", reason, message);
  }

  #within(namespace: string): KubeObject[] {
    return this.#informers.list("moeDeployments", ({ metadata }) => metadata.namespace === namespace);
  }
}
