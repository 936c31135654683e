// The question whether an object that a deleted deployment of the same name left may be taken over. Asked by all that write owned objects
// (apply.ts, identity.ts, telemetry-secret.ts), and only where an owner is missing, so that it costs a request once in a long while.
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import { isOrphan } from "./objects/context.ts";

/** The deployment that would take it. */
export interface Adopter extends Ref {
  readonly uid: string;
}

/**
 * Asks the API server whether the adopter stands: while it is deleted itself, with --cascade=orphan, the garbage collector takes the
 * references off before the cache has heard of the deletion, and what got ours again would be collected with it.
 */
export async function mayAdopt(kube: Pick<Kube, "get">, object: KubeObject, { namespace, name, uid }: Adopter): Promise<boolean> {
  if (!isOrphan(object.metadata, name)) return false;
  const live = await kube.get(resources.moeDeployments, { namespace, name });
  return live?.metadata.uid === uid && live.metadata.deletionTimestamp === undefined;
}
