// Findings from silence: a spec that no operator observed, and a plan past its deadline.
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { ago, span } from "../format.ts";
import type { Finding, Observed, SeenDeployment } from "./finding.ts";

/** An operator observes a change within seconds. */
const unseenMs = 30_000;
/** The operator ends a plan soon after its deadline. */
const overdueMs = 60_000;

const finding = ({ metadata }: MoEDeployment, of: Omit<Finding, "kind" | "namespace" | "name">): Finding => ({
  kind: "moed",
  namespace: metadata.namespace,
  name: metadata.name,
  ...of,
});

export function unseenFindings({ deployments, now }: Observed): Finding[] {
  return deployments.flatMap(({ deployment, changedAt }) => {
    const { generation } = deployment.metadata;
    const seen = deployment.status.observedGeneration;
    if (seen === generation || changedAt === undefined || now.getTime() - changedAt.getTime() < unseenMs) return [];
    const known = seen === undefined ? "no operator has ever looked at it" : `the operator has looked at generation ${seen} last`;
    return finding(deployment, {
      severity: "critical",
      code: "NotObserved",
      role: "cause",
      what: "nobody acts on its spec",
      why: `generation ${generation} is there since ${span(now.getTime() - changedAt.getTime())}, and ${known}: none leads, or none watches the namespace`,
      remedy: "enodia doctor",
    });
  });
}

export function overdueFindings({ deployments, now }: Observed): Finding[] {
  return deployments.flatMap((seen) => overdue(seen, now));
}

function overdue({ deployment, placement }: SeenDeployment, now: Date): Finding[] {
  const { phase, deadline } = placement?.status ?? {};
  if (deadline === undefined || (phase !== "Preparing" && phase !== "Committing" && phase !== "Releasing")) return [];
  const late = now.getTime() - Date.parse(deadline);
  if (late < overdueMs) return [];
  const { name, namespace } = deployment.metadata;
  return [
    finding(deployment, {
      severity: "warning",
      code: "PlanOverdue",
      role: "aside",
      what: `plan ${placement?.spec.epoch} is past its deadline`,
      why: `it is ${phase}, and should have been committed or rolled back ${ago(new Date(deadline), now)}`,
      remedy: `enodia plan explain ${name} -n ${namespace}`,
    }),
  ];
}
