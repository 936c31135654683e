// How this pass takes the spec: as written, held for a green deployment, or stopping until pods of another model are gone. After blue-green
// and delivery, which both hold a spec. Pure.
import { gatewaysWait } from "../core/orphans.ts";
import { frontSelector } from "../objects/green.ts";
import { feature } from "./feature.ts";

export const change = feature({
  name: "change",
  needs: ["source", "delivery", "aim", "blueGreen"],
  run: ({ deployment: own, pods, orphans, sourceUnknown }, { source, delivery, aim, blueGreen }) => {
    const green = blueGreen.look;
    // The weight server gets the model first where no green deployment serves.
    const switches = aim.stands === "Accepting" && !green?.holds;
    const atOnce = switches && source.keeps === undefined;
    const untried = green?.holds === true || (switches && !atOnce);
    // Until the last pod of another model is gone, the deployment renders as suspended.
    const deployment = aim.stands === "Stopping" ? { ...own, spec: { ...own.spec, suspend: true } } : own;
    return {
      deployment,
      gatewaysWait: gatewaysWait(orphans, pods, deployment.spec) || atOnce,
      undelivered: delivery.pending !== undefined || sourceUnknown || untried,
      atOnce,
      switches,
      front: green?.child && frontSelector(green.front, { own: own.metadata.name, green: green.child.name }),
    };
  },
});
