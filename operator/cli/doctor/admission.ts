// Checks admission by a dry run of a pod as restricted as the operator's.
import { AppError } from "../../../crds/common.ts";
import { resources } from "../../kube/kube.ts";
import { type Check, fail, type Outcome, ok, skip } from "./check.ts";

const enforced = "pod-security.kubernetes.io/enforce";

/** Refusals that say nothing about our pods -> why. */
const notTried: Readonly<Record<string, string>> = {
  'cannot create resource "pods"': "you may not make any, so it was not tried",
  "error looking up service account": "the namespace is so new that it has no service account yet; ask again",
};

const pod = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { generateName: "enodia-doctor-", labels: { "app.kubernetes.io/name": "enodia" } },
  spec: {
    automountServiceAccountToken: false,
    securityContext: {
      runAsNonRoot: true,
      runAsUser: 65532,
      runAsGroup: 65532,
      fsGroup: 65532,
      seccompProfile: { type: "RuntimeDefault" },
    },
    containers: [
      {
        name: "runtime",
        image: "enodia/runtime",
        resources: { requests: { cpu: "100m", memory: "256Mi" }, limits: { memory: "256Mi" } },
        securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } },
      },
    ],
  },
};

export const admission: Check = {
  name: "admission of pods",
  when: "always",
  run: async ({ kube, transport, namespace }) => {
    const found = await kube.get(resources.namespaces, { namespace: "", name: namespace });
    if (!found) return [skip(`namespace ${namespace}`, "it is not there yet; name the one of your deployments with -n")];
    const level = found.metadata.labels?.[enforced] ?? "none of its own";
    return [await dryRun(transport, namespace, level)];
  },
};

async function dryRun(transport: Parameters<Check["run"]>[0]["transport"], namespace: string, level: string): Promise<Outcome> {
  try {
    const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods?dryRun=All`;
    await transport.request({ method: "POST", path, body: JSON.stringify(pod) });
    return ok(`${namespace} takes pods like those of the operator (Pod Security level: ${level})`);
  } catch (caught) {
    const { code, message } = AppError.from(caught);
    const skipped = Object.entries(notTried).find(([pattern]) => message.includes(pattern));
    if (skipped) return skip(`pods in ${namespace}`, skipped[1]);
    return fail(
      `${namespace} refuses a pod like those of the operator (${code}): ${message}`,
      `kubectl describe namespace ${namespace}   # quotas, limits, Pod Security; then admission webhooks`,
    );
  }
}
