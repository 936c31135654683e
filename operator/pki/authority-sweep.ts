// The end of a CA: its Secret lies in another namespace than its object, so no owner reference takes it away. It goes when its deployment
// or training job is gone, which only an answer of the API server says that lists the namespace without it: a namespace that is forbidden,
// not watched or not reachable keeps its CAs. It also stays while a leaf of it is left, such as of pods that `--cascade=orphan` left
// behind: by their leaves they can be told to be of that deployment. Looked at again and again, so an operator that was away cleans later.
import { labels } from "../../crds/common.ts";
import type { Informers } from "../kube/informers.ts";
import { type Kube, type KubeObject, resources } from "../kube/kube.ts";
import { certificatesIn, subjectOf, textOf } from "./authorities.ts";
import { isIssuedBy } from "./authority.ts";

/** How often it is looked for CAs that are to go. It costs a list of each namespace in question, and no request while there is none. */
export const sweepMs = 15_000;
/** So many namespaces are listed in one sweep at most; the others have their turn in the next, since what can go is gone by then. */
const namespacesMax = 100;

export interface SweepOptions {
  readonly kube: Pick<Kube, "list" | "delete">;
  readonly informers: Pick<Informers, "get" | "list" | "watches" | "trouble" | "trainingTrouble">;
}

/** Ends with the first error, since what is not answered once is not answered a hundred times: the next sweep begins anew. */
export async function sweepAuthorities(options: SweepOptions): Promise<void> {
  const suspects: KubeObject[] = [];
  for (const secret of options.informers.list("authorities")) if (await isSuspect(secret, options)) suspects.push(secret);
  const byNamespace = [...Map.groupBy(suspects, (secret) => subjectOf(secret)?.ref.namespace ?? "")];
  for (const [namespace, secrets] of byNamespace.slice(0, namespacesMax)) await sweepNamespace(options, namespace, secrets);
}

/** True when the copies have no object for it and no leaf that it signed, and can be relied on. */
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
  // The cache may be behind: an object that was made a moment ago has its CA already.
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
