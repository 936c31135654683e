// The green deployment of a deployment that changes its model or codec: a MoEDeployment of its own with the new spec, which the same operator
// turns into ranks and gateways. It has no autoscaler and no route, which would reach beyond its pods. Pure; steps: ../core/green deployment.ts.

import { createHash } from "node:crypto";
import { apiVersion, labels } from "../../../crds/common.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { makerLabels } from "../../kube/adoption.ts";
import type { KubeObject } from "../../kube/kube.ts";
import type { Front } from "../core/green-look.ts";
import { ownerOf, selectorLabels } from "./context.ts";

const hashChars = 8;
/** Of names of deployments. */
const nameMax = 40;

export interface GreenPlan {
  readonly deployment: MoEDeployment;
  /** Hashes of the templates that the new spec has. */
  readonly templates: readonly string[];
  /** The image of the ranks, which a new deployment would have chosen anew. */
  readonly image: string;
  /** Gateways that it begins with. */
  readonly gateways: number;
}

/** Another template is another green deployment; a changed number of ranks is not. */
export function greenName({ deployment, templates }: Pick<GreenPlan, "deployment" | "templates">): string {
  const hash = createHash("sha256").update(JSON.stringify(templates)).digest("hex").slice(0, hashChars);
  return `${deployment.metadata.name.slice(0, nameMax - hashChars - 1)}-${hash}`;
}

/** The gateways that the Service leads to; undefined where they are the deployment's own. */
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
  // Its own roll has no strategy, since it has nothing to go back to.
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
      // Clients ask for the model by the name that they know.
      model: { ...model, servedName: model.servedName ?? name },
      replicas,
      elasticity: sizes,
      runtimeImage: { rollout: "Manual", image },
      gateway: { ...front, replicas: gateways },
    },
  };
}
