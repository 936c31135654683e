// How this pass takes the spec: as written, held for a green deployment, or stopping until pods of another model are gone. After blue-green
// and delivery, which both hold a spec. Pure.
import { gatewaysWait } from "../core/orphans.ts";
import { frontSelector } from "../objects/green.ts";
import { blueGreen } from "./blue-green.ts";
import { delivery } from "./delivery.ts";
import { feature } from "./feature.ts";
import { source } from "./model-source.ts";
import { type TargetSpec, targetSpec } from "./target-spec.ts";

/**
 * Trying: a green deployment tries the model. Delivering: the weight server gets it first. Accepting: this pass accepts the spec, and the
 * next one stops pods of the other model.
 */
export type ModelChange = "None" | "Trying" | "Delivering" | "Accepting" | "Stopping";

export const modelChange = feature({
  needs: { source, delivery, targetSpec, blueGreen },
  run: ({ deployment: own, pods, orphans, sourceUnknown }, { source, delivery, targetSpec, blueGreen }) => {
    const green = blueGreen.look;
    const state = stateOf(targetSpec, green?.holds === true, source.keeps !== undefined);
    // Until the last pod of another model is gone, the deployment renders as suspended.
    const deployment = state === "Stopping" ? { ...own, spec: { ...own.spec, suspend: true } } : own;
    return {
      state,
      deployment,
      gatewaysWait: gatewaysWait(orphans, pods, deployment.spec) || state === "Accepting",
      /** The spec is checked but not accepted. */
      modelMissing: delivery.pending !== undefined || sourceUnknown || state === "Trying" || state === "Delivering",
      front: green?.child && frontSelector(green.front, { own: own.metadata.name, green: green.child.name }),
    };
  },
});

function stateOf({ stage }: TargetSpec, isTried: boolean, keepsModel: boolean): ModelChange {
  if (isTried) return "Trying";
  if (stage === "Accepting") return keepsModel ? "Delivering" : "Accepting";
  return stage === "Stopping" ? "Stopping" : "None";
}
