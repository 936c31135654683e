// Deletes CAs whose owner is gone: no owner reference spans namespaces. A CA goes only when the API server lists the namespace without the
// owner and no leaf is left, such as of pods that `--cascade=orphan` left.
import { labels } from "../../crds/common.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, resources } from "../kube/kube.ts";
import { certificatesIn, subjectOf, textOf } from "./authorities.ts";
import { isIssuedBy } from "./authority.ts";

/** Costs a list per suspect namespace, and nothing without suspects. */
export const sweepMs = 15_000;
/** Namespaces per sweep; the next sweep continues. */
const namespacesMax = 100;

export interface SweepOptions {
  readonly kube: Pick<Kube, "list" | "delete">;
  readonly informers: Pick<Informers, "get" | "list" | "watches" | "trouble" | "trainingTrouble">;
}

/** Stops at the first error, since the rest would fail too; the next sweep starts over. */
export async function sweepAuthorities(options: SweepOptions): Promise<void> {
  const suspects: KubeObject[] = [];
  for (const secret of options.informers.list("authorities")) if (await isSuspect(secret, options)) suspects.push(secret);
  const byNamespace = [...Map.groupBy(suspects, (secret) => subjectOf(secret)?.ref.namespace ?? "")];
  for (const [namespace, secrets] of byNamespace.slice(0, namespacesMax)) await sweepNamespace(options, namespace, secrets);
}

/** Reliable caches have neither the owner nor a leaf. */
async function isSuspect(secret: KubeObject, { informers }: SweepOptions): Promise<boolean> {
  const subject = subjectOf(secret);
  if (!subject) return false;
  const { ref, uid, of } = subject;
  if (!informers.watches(ref.namespace)) return false;
  if ((of.training ? informers.trainingTrouble(ref.namespace) : informers.trouble(ref.namespace)) !== undefined) return false;
  if (informers.get(of.objects, ref)?.metadata.uid === uid) return false;
  const wanted = Object.entries({ [of.label]: ref.name, [labels.component]: "tls" });
  const leaves = informers.list(
    of.secrets,
    ({ metadata }) => metadata.namespace === ref.namespace && wanted.every(([label, value]) => metadata.labels?.[label] === value),
  );
  const authorities = certificatesIn(secret);
  for (const leaf of leaves)
    for (const authority of authorities) if (await isIssuedBy(authority, textOf(leaf, "tls.crt") ?? "")) return false;
  return true;
}

async function sweepNamespace({ kube }: SweepOptions, namespace: string, secrets: readonly KubeObject[]): Promise<void> {
  // The cache may lag: a new object has its CA first.
  const kinds = new Set(secrets.flatMap((secret) => subjectOf(secret)?.of ?? []));
  const living = new Set<string | undefined>();
  for (const { resource } of kinds) {
    const { items } = await kube.list(resource, { namespace });
    for (const { metadata } of items) living.add(metadata.uid);
  }
  for (const secret of secrets) {
    if (living.has(subjectOf(secret)?.uid)) continue;
    const { name, namespace: own = "", uid } = secret.metadata;
    await kube.delete(resources.secrets, { namespace: own, name }, uid === undefined ? {} : { uid });
  }
}
