// How the deployment takes its spec in this pass: as it stands, held for a green deployment, or stopped until the pods of another model are
// gone. After blue/green and delivery, since both hold a spec back. Pure.
import { gatewaysWait } from "../core/orphans.ts";
import { frontSelector } from "../objects/green.ts";
import { feature } from "./feature.ts";

export const change = feature({
  name: "change",
  needs: ["source", "delivery", "aim", "blueGreen"],
  run: ({ deployment: own, pods, orphans, sourceUnknown }, { source, delivery, aim, blueGreen }) => {
    const green = blueGreen.look;
    // Without a green deployment the weight server has the model first, while the ranks serve on.
    const switches = aim.stands === "Accepting" && !green?.holds;
    const atOnce = switches && source.keeps === undefined;
    const untried = green?.holds === true || (switches && !atOnce);
    // Until the last pod of another model is gone nothing is rendered but what a suspended deployment has.
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
