// The green deployment: an owned MoEDeployment with the new spec, without autoscaler and route, which would reach beyond its pods. Pure;
// the steps are in ../features/blue-green.ts.

import { createHash } from "node:crypto";
import { apiVersion, labels } from "../../../crds/common.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { budgetsOf } from "../../../crds/rollout.ts";
import { makerLabels } from "../../kube/adoption.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { Front } from "../core/green-look.ts";
import { ownerOf, selectorLabels } from "./context.ts";

const hashChars = 8;
/** Characters of a deployment's name. */
const nameMax = 40;

export interface GreenPlan {
  readonly deployment: MoEDeployment;
  /** Template hashes of the new spec. */
  readonly templates: readonly string[];
  /** The ranks' image, since a new deployment would choose its own. */
  readonly image: string;
  /** Initial gateways. */
  readonly gateways: number;
}

export function mayBeGreen({ metadata, spec }: MoEDeployment): boolean {
  return metadata.labels?.[labels.greenOf] === undefined && budgetsOf(spec.rolloutStrategy, spec.replicas).surge > 0;
}

/** The name depends on the templates, not on the number of ranks. */
export function greenName({ deployment, templates }: Pick<GreenPlan, "deployment" | "templates">): string {
  const hash = createHash("sha256").update(JSON.stringify(templates)).digest("hex").slice(0, hashChars);
  return `${deployment.metadata.name.slice(0, nameMax - hashChars - 1)}-${hash}`;
}

/** Labels of the gateways behind the Service; undefined for the deployment's own. */
export function frontSelector(
  front: Front,
  { own, green }: { readonly own: string; readonly green: string },
): Record<string, string> | undefined {
  if (front === "Both") return { [labels.component]: "gateway", [labels.front]: own };
  return front === "Green" ? selectorLabels(green, "gateway") : undefined;
}

export function greenDeployment(plan: GreenPlan): KubeObject {
  const { deployment, image, gateways } = plan;
  const { name, namespace } = deployment.metadata;
  // It has nothing to roll back to, and so no strategy.
  const { model, replicas, suspend: _, rolloutStrategy: __, elasticity, gateway, ...spec } = deployment.spec;
  const { autoscale: ___, ...sizes } = elasticity;
  const { autoscale: ____, httpRoute: _____, ...front } = gateway;
  return {
    apiVersion,
    kind: "MoEDeployment",
    metadata: {
      name: greenName(plan),
      namespace,
      labels: { ...makerLabels, [labels.greenOf]: name },
      ownerReferences: [ownerOf(deployment)],
    },
    spec: {
      ...spec,
      // Clients ask for the model by its known name.
      model: { ...model, servedName: model.servedName ?? name },
      replicas,
      elasticity: sizes,
      runtimeImage: { rollout: "Manual", image },
      gateway: { ...front, replicas: gateways },
    },
  };
}
