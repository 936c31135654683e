// Reviews of rights: whether a user, or whoever asks, may do a thing. What is posted changes nothing, and everybody may post it of
// themselves.
import type { KubeConfig } from "@kubernetes/client-node";
import { bearerTransport, type Transport } from "./transport.ts";

export interface Right {
  readonly group: string;
  readonly resource: string;
  readonly verb: string;
  /** Not given: cluster-wide, or in all namespaces. */
  readonly namespace?: string | undefined;
  readonly name?: string | undefined;
}

/** Of `user`, or of whoever the transport asks as. */
export async function isAllowed(transport: Pick<Transport, "request">, right: Right, user?: string): Promise<boolean> {
  const kind = user === undefined ? "SelfSubjectAccessReview" : "SubjectAccessReview";
  const [resource, subresource] = right.resource.split("/");
  const resourceAttributes = { group: right.group, resource, subresource, verb: right.verb, namespace: right.namespace, name: right.name };
  const spec = user === undefined ? { resourceAttributes } : { user, resourceAttributes };
  const body = JSON.stringify({ apiVersion: "authorization.k8s.io/v1", kind, spec });
  const path = `/apis/authorization.k8s.io/v1/${kind.toLowerCase()}s`;
  const answer = JSON.parse(await transport.request({ method: "POST", path, body })) as { status?: { allowed?: boolean } };
  return answer.status?.allowed === true;
}

/** What the bearer of a token may do, by the server's own word. Throws `Unauthorized` for a token that is none of the cluster's. */
export function bearersRights(config: KubeConfig): (token: string) => (right: Right) => Promise<boolean> {
  return (token) => {
    const transport = bearerTransport(config, token);
    return (right) => isAllowed(transport, right);
  };
}
