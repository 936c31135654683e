// The spec whose model all pods are to have. After delivery, since a missing model is no aim. Pure.
import { living, type PodFacts } from "../core/snapshot.ts";
import { modelPlace, modelText, rankModelText } from "../objects/model-place.ts";
import type { Observed } from "../observed.ts";
import { feature } from "./feature.ts";
import { holds } from "./model-source.ts";
import type { Aim, Delivery } from "./results.ts";

export const aim = feature({
  name: "aim",
  needs: ["delivery"],
  run: (observed, { delivery }) => {
    const { deployment, pods, gatewayModels } = observed;
    const found = aimOf(observed, delivery);
    return { ...found, stands: deployment.spec.suspend ? "Same" : standsOf(found, living(pods), gatewayModels) };
  },
});

function aimOf({ deployment, pods, rendered, revisions }: Observed, { pending }: Delivery): Omit<Aim, "stands"> {
  const { accepted, stable, back, wanted: workers, gateway, runtimeImage: image } = rendered;
  const wanted = { templates: [workers.hash, gateway.hash] as const, image };
  if (back) return { aim: accepted?.spec, accepted: accepted?.spec, wanted };
  const latest = revisions[0]?.accepted.spec;
  const to = pending ? latest : deployment.spec;
  if (stable && holds(deployment, pods, stable, to)) return { aim: stable.spec, accepted: stable.spec, wanted };
  return { aim: to, accepted: latest, wanted };
}

/** Pods of another model all stop before the first of the aim's is created: `Accepting` while the aim is not accepted yet, then `Stopping`. */
function standsOf(
  { aim: to, accepted }: Omit<Aim, "stands">,
  ranks: readonly PodFacts[],
  gateways: Observed["gatewayModels"],
): Aim["stands"] {
  if (!to) return "Same";
  const [wanted, front] = [rankModelText(to), modelText(modelPlace(to))];
  const others = ranks.some(({ model }) => model !== undefined && model !== wanted);
  if (!others && !gateways.some((model) => model !== undefined && model !== front)) return "Same";
  return accepted && rankModelText(accepted) === wanted ? "Stopping" : "Accepting";
}
