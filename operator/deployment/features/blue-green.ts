// The green deployment of a change of model or codec. After the aim, which detects the change; before the change, which a green deployment
// delays. Pure; the steps are in core/blue-green.ts.

import { labels } from "../../../crds/common.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import { budgetsOf, type GreenStatus } from "../../../crds/rollout.ts";
import { canaryGateways, type GreenInput, greenStep, judgeGreen } from "../core/blue-green.ts";
import type { Comparison } from "../core/canary.ts";
import type { GreenFacts, GreenLook, Sizes } from "../core/green-look.ts";
import { rollsBackOn } from "../core/rollout.ts";
import { compareServed, type Watched } from "../core/served.ts";
import { living, wantedGateways } from "../core/snapshot.ts";
import { greenDeployment, greenName } from "../objects/green.ts";
import { rankModelText } from "../objects/model-place.ts";
import type { GreenSeen, Observed } from "../observed.ts";
import { feature } from "./feature.ts";
import type { Aim, BlueGreen, GreenAction } from "./results.ts";

export function mayBeGreen({ metadata, spec }: MoEDeployment): boolean {
  return metadata.labels?.[labels.greenOf] === undefined && budgetsOf(spec.rolloutStrategy, spec.replicas).surge > 0;
}

export const blueGreen = feature({
  name: "blueGreen",
  needs: ["aim"],
  run: (observed, { aim }) => {
    const { deployment, memory, ticksMs, green } = observed;
    const { spec } = deployment;
    const name = greenName({ deployment, templates: aim.wanted.templates });
    const sameModel = aim.accepted !== undefined && rankModelText(aim.accepted) === rankModelText(spec);
    const noCapacity = sameModel ? undefined : memory.greenNoCapacity;
    const possible = mayBeGreen(deployment) && noCapacity !== name ? name : undefined;
    const bake = compared(observed);
    const child = green && factsOf(green, observed);
    const step = greenStep({ ...inputOf(observed, aim), possible, child, comparison: bake?.comparison });
    const { greenRefused } = memory;
    const refused = step.act === "Create" && greenRefused?.name === possible && ticksMs < (greenRefused?.untilMs ?? 0);
    const lacks = aim.stands === "Accepting" && (refused || (child !== undefined && child.noCapacity !== "" && !step.holds));
    const look = !step.status || refused ? undefined : { ...step, child, templateHash: aim.wanted.templates[0] };
    const remember = { greenNoCapacity: lacks && possible !== undefined ? possible : noCapacity, greenBake: bake?.watched };
    return { look, remember } satisfies BlueGreen;
  },
});

type StepInput = Omit<GreenInput, "possible" | "child" | "comparison">;

function inputOf(observed: Observed, { aim, stands }: Aim): StepInput {
  const { deployment, pods, gateway, front, now } = observed;
  const { spec, status } = deployment;
  const ready = living(pods).filter((pod) => pod.ready && !pod.terminating && !pod.leaving);
  const same = aim ? ready.filter(({ model }) => model === undefined || model === rankModelText(aim)) : [];
  const sizes = sizesOf(observed);
  return {
    now,
    stands,
    wanted: !spec.suspend && spec.replicas > 0,
    own: { serves: ready.length > 0 && gateway.ready > 0, whole: same.length >= spec.replicas && gateway.ready >= sizes.gateways },
    front,
    rollsBack: rollsBackOn(spec.rolloutStrategy),
    analysis: spec.rolloutStrategy.canary?.analysis,
    sizes,
    drainMs: parseDuration(spec.elasticity.drain, "spec.elasticity.drain"),
    last: status.rollout?.green,
  };
}

const sizesOf = ({ deployment, gateway }: Pick<Observed, "deployment" | "gateway">): Sizes => ({
  ranks: deployment.spec.replicas,
  gateways: Math.max(1, wantedGateways({ deployment, gateway })),
});

/** Totals of both sides since the bake began. */
function compared({ deployment, pods, green, view, memory }: Observed): { comparison: Comparison; watched: Watched } | undefined {
  const { green: last } = deployment.status.rollout ?? {};
  if (!green || last?.name !== green.name || last.phase !== "Baking") return undefined;
  return compareServed(memory.greenBake, {
    bake: `${green.name}/${last.since}`,
    canaries: { pods: green.workers, members: green.members },
    others: { pods: living(pods), members: view?.members ?? [] },
  });
}

function factsOf(green: GreenSeen, { deployment, now }: Observed): GreenFacts {
  const { name, uid, terminating, spec, status, generation, createdMs } = green;
  const { conditions = [], gateway, observedGeneration = 0 } = status;
  const holds = (type: string) => conditions.some((one) => one.type === type && one.status === "True");
  const fronts = (gateway?.readyReplicas ?? 0) >= Math.max(1, gateway?.replicas ?? 1);
  const { green: last } = deployment.status.rollout ?? {};
  const startMs = last?.name === name ? startOf(last, { createdMs, nowMs: now.getTime() }) : createdMs;
  const { progressDeadline } = deployment.spec.rolloutStrategy;
  return {
    name,
    uid,
    terminating,
    suspended: spec.suspend === true,
    serves: observedGeneration >= generation && holds("Ready") && holds("Available") && fronts,
    pods: green.pods,
    sizes: { ranks: spec.replicas ?? 0, gateways: spec.gateway?.replicas ?? 1 },
    ...judgeGreen({ startMs, conditions, pods: green.workers }, { progressDeadline, now }),
  };
}

/** Its time to start; a stop, or a wait for more gateways, resets it. */
function startOf({ phase, since }: GreenStatus, { createdMs, nowMs }: { readonly createdMs: number; readonly nowMs: number }): number {
  return phase === "Baking" ? nowMs : Math.max(createdMs, Math.min(nowMs, Date.parse(since)));
}

/** `good`: the spec is not refused, so that a green deployment can be created. */
export function greenActions(observed: Observed, { wanted }: Aim, look: GreenLook | undefined, good: boolean): GreenAction[] {
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
}
