// What a green deployment needs: to be created, widened, suspended or deleted. After the spec, since a refused one gets none. Pure.
import type { KubeObject } from "../../kube/kube.ts";
import { greenDeployment } from "../objects/green.ts";
import { blueGreen, canaryGateways, sizesOf } from "./blue-green.ts";
import { feature } from "./feature.ts";
import { spec } from "./spec.ts";
import { targetSpec } from "./target-spec.ts";

export type GreenAction =
  | { readonly type: "createGreen"; readonly object: KubeObject; readonly uri: string }
  | { readonly type: "widenGreen"; readonly name: string; readonly uid: string; readonly spec: object }
  | { readonly type: "stopGreen"; readonly name: string; readonly uid: string }
  | { readonly type: "deleteGreen"; readonly name: string; readonly uid: string }
  | { readonly type: "noCapacity"; readonly message: string };

export const greenActions = feature({
  needs: { targetSpec, blueGreen, spec },
  run: (observed, { targetSpec: { wanted }, blueGreen: { look }, spec: { good } }): readonly GreenAction[] => {
    if (!look) return [];
    const { deployment } = observed;
    const { act, child, holds, message, phase } = look;
    const { ranks, gateways } = sizesOf(observed);
    const actions: GreenAction[] = phase === "Creating" && !holds ? [{ type: "noCapacity", message }] : [];
    if (act === "Create" && good) {
      const { templates, image } = wanted;
      const object = greenDeployment({ deployment, templates, image, gateways: canaryGateways(deployment.spec, gateways) });
      actions.push({ type: "createGreen", object, uri: deployment.spec.model.uri });
    }
    if (!child) return actions;
    const { name, uid, sizes } = child;
    const spec = { replicas: Math.max(sizes.ranks, ranks), gateway: { replicas: Math.max(sizes.gateways, gateways) } };
    if (act === "Widen") actions.push({ type: "widenGreen", name, uid, spec });
    if (act === "Suspend") actions.push({ type: "stopGreen", name, uid });
    if (act === "Delete") actions.push({ type: "deleteGreen", name, uid });
    return actions;
  },
});
