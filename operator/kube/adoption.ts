// The question whether an object that a deleted deployment, or training job, of the same name left may be taken over. Asked by all that
// write owned objects (apply.ts, identity.ts, telemetry-secret.ts), and only where an owner is missing, so that it costs a request once
// in a long while.
import type { Kube, KubeObject, Ref } from "./kube.ts";
import { type CertifiedKind, certifiedDeployment } from "../pki/certified.ts";
import { isOrphan } from "../deployment/objects/context.ts";

/** What would take it: a deployment where it does not say. */
export interface Adopter extends Ref {
  readonly uid: string;
  readonly of?: Pick<CertifiedKind, "label" | "resource">;
}

/**
 * Asks the API server whether the adopter stands: while it is deleted itself, with --cascade=orphan, the garbage collector takes the
 * references off before the cache has heard of the deletion, and what got ours again would be collected with it.
 */
export async function mayAdopt(kube: Pick<Kube, "get">, object: KubeObject, adopter: Adopter): Promise<boolean> {
  const { namespace, name, uid, of = certifiedDeployment } = adopter;
  if (!isOrphan(object.metadata, name, of.label)) return false;
  const live = await kube.get(of.resource, { namespace, name });
  return live?.metadata.uid === uid && live.metadata.deletionTimestamp === undefined;
}
