// Access reviews, which change nothing: whether a user or the caller has a right.
import type { KubeConfig } from "@kubernetes/client-node";
import { bearerTransport, type Transport } from "./transport.ts";

export interface Right {
  readonly group: string;
  readonly resource: string;
  readonly verb: string;
  /** Unset: cluster-wide, or all namespaces. */
  readonly namespace?: string | undefined;
  readonly name?: string | undefined;
}

/** `user` undefined: the caller. */
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

/** The rights of a bearer. Throws `Unauthorized` for an unknown token. */
export function bearersRights(config: KubeConfig): (token: string) => (right: Right) => Promise<boolean> {
  return (token) => {
    const transport = bearerTransport(config, token);
    return (right) => isAllowed(transport, right);
  };
}
