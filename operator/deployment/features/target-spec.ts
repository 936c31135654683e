// The spec whose model all pods are to have. After delivery, since a missing model is no target. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { living, type PodFacts } from "../core/snapshot.ts";
import { modelPlace, modelText, rankModelText } from "../objects/model-place.ts";
import type { Observed } from "../observed.ts";
import { delivery } from "./delivery.ts";
import { feature, type ResultOf } from "./feature.ts";
import { holds } from "./model-source.ts";

/** Same: the ranks have the target's model. Otherwise its spec is not accepted yet, or the ranks stop. */
export type ModelStage = "Same" | "Accepting" | "Stopping";

export const targetSpec = feature({
  needs: { delivery },
  run: (observed, { delivery: { pending } }) => {
    const { deployment, pods, gatewayModels, rendered } = observed;
    const found = targetOf(observed, pending !== undefined);
    /** The template hashes of workers and gateways, and the ranks' image, by the spec as written. */
    const wanted = { templates: [rendered.wanted.hash, rendered.gateway.hash] as const, image: rendered.runtimeImage };
    return { ...found, wanted, stage: deployment.spec.suspend ? "Same" : stageOf(found, living(pods), gatewayModels) };
  },
});
export type TargetSpec = ResultOf<typeof targetSpec>;

interface Target {
  /** Undefined where nothing is accepted and the model is missing. */
  readonly spec: MoEDeploymentSpec | undefined;
  readonly accepted: MoEDeploymentSpec | undefined;
}

function targetOf({ deployment, pods, rendered, revisions }: Observed, isPending: boolean): Target {
  const { accepted, stable, rolledBack } = rendered;
  if (rolledBack) return { spec: accepted?.spec, accepted: accepted?.spec };
  const latest = revisions[0]?.accepted.spec;
  // A green deployment that serves has the spec's model, and serves until the ranks have it too.
  const greenServes = deployment.status.rollout?.green?.phase === "Serving";
  const to = isPending && !greenServes ? latest : deployment.spec;
  if (stable && holds(deployment, pods, stable, to)) return { spec: stable.spec, accepted: stable.spec };
  return { spec: to, accepted: latest };
}

/** Pods of another model all stop before the first of the target's is created: `Accepting` while it is not accepted yet, then `Stopping`. */
function stageOf({ spec, accepted }: Target, ranks: readonly PodFacts[], gateways: Observed["gatewayModels"]): ModelStage {
  if (!spec) return "Same";
  const [wanted, front] = [rankModelText(spec), modelText(modelPlace(spec))];
  const others = ranks.some(({ model }) => model !== undefined && model !== wanted);
  if (!others && !gateways.some((model) => model !== undefined && model !== front)) return "Same";
  return accepted && rankModelText(accepted) === wanted ? "Stopping" : "Accepting";
}
