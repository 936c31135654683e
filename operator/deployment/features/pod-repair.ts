// The next actions on pods (pod-actions.ts). After the number of ranks; before the progress, which describes these actions. Pure.
import { labels } from "../../../crds/common.ts";
import { refusedPods } from "../core/refused-start.ts";
import type { PodFacts, Snapshot } from "../core/snapshot.ts";
import { facts } from "./facts.ts";
import { feature } from "./feature.ts";
import { type Action, nextStep, type Step } from "./pod-actions.ts";
import { ranks } from "./ranks.ts";
import { type Spec, spec } from "./spec.ts";

export const repair = feature({
  needs: { spec, facts, ranks },
  run: ({ memory, ticksMs, gatewayModels, gangs }, { spec, facts: { snapshot }, ranks: { target } }) => {
    const { surgeRefused, createError, gatewaysSinceMs } = memory;
    const { successor, template } = spec;
    const surgeError = surgeRefused && ticksMs < surgeRefused.untilMs ? surgeRefused.message : "";
    // A gang of one would be scheduled by nobody.
    const ranks = snapshot.refusedStart && !gangs.scheduler ? Math.min(1, target.ranks) : target.ranks;
    const waitMs = (snapshot.refusedStart?.untilMs ?? ticksMs) - ticksMs;
    const asked = { snapshot, ranks, successor, limitBytes: template.limitBytes, surgeError };
    const step = waitMs > 0 ? takenOut(nextStep({ ...asked, successor: "None" }), snapshot, waitMs) : nextStep(asked);
    const held = afterGateways(step, snapshot, { gateways: gatewayModels.length, sinceMs: gatewaysSinceMs, nowMs: ticksMs });
    const orphans = orphanRemovals(snapshot, target.ranks, createError || impossible(spec));
    return { step: held.step, orphans, remember: { gatewaysSinceMs: held.sinceMs, goneAtMs: goneAtMs(snapshot, ticksMs) } };
  },
});

/** No rank of a refused start stays, and none is made before it is time. */
function takenOut(step: Step, snapshot: Snapshot, waitMs: number): Step {
  const why = snapshot.refusedStart?.ends[0]?.message ?? "";
  const done = new Set(step.actions.flatMap((action) => (action.type === "delete" ? action.pod.uid : [])));
  const out = refusedPods(snapshot).filter(({ uid }) => !done.has(uid));
  const actions = out.map((pod): Action => ({ type: "delete", pod, force: false, reason: "StartRefused", why }));
  return { ...step, actions: [...step.actions, ...actions], againInMs: Math.min(waitMs, step.againInMs ?? waitMs) };
}

const goneAtMs = ({ pods }: Snapshot, ticksMs: number): ReadonlyMap<string, number> =>
  new Map(pods.flatMap(({ uid, goneInMs }) => (goneInMs === undefined ? [] : [[uid, ticksMs + goneInMs] as const])));

/** Why no rank can be created; empty when one can. */
export function impossible({ successor, refusals, failure }: Spec): string {
  if (successor !== "None") return "";
  return [...refusals, ...(failure ? [failure] : [])].map(({ message }) => message).join("; ");
}

/** Gateways have a minute to end requests; ranks wait no longer than this. */
export const gatewaysMs = 75_000;

export interface GatewaysLook {
  readonly gateways: number;
  readonly sinceMs: number | undefined;
  readonly nowMs: number;
}

/** Delays stops of ranks while their gateways exist, and reports since when. */
export function afterGateways(
  step: Step,
  { deployment, green }: Pick<Snapshot, "deployment" | "green">,
  { gateways, sinceMs, nowMs }: GatewaysLook,
): { readonly step: Step; readonly sinceMs: number | undefined } {
  const elsewhere = green?.front === "Green" || deployment.metadata.labels?.[labels.greenOf] !== undefined;
  if (!elsewhere || !deployment.spec.suspend || gateways === 0) return { step, sinceMs: undefined };
  const since = sinceMs ?? nowMs;
  const leftMs = since + gatewaysMs - nowMs;
  if (leftMs <= 0) return { step, sinceMs: since };
  const actions = step.actions.filter((action) => action.type !== "mark" || action.reason !== "Stop");
  return { step: { ...step, actions, againInMs: Math.min(leftMs, step.againInMs ?? leftMs) }, sinceMs: since };
}

/** The scheduler's messages about missing capacity, unlike those about pods that fit nowhere. */
const crowded = /\bInsufficient |\bToo many pods/;

/** `createError`: why a rank cannot be created; empty when it can. */
export function orphanRemovals({ orphans, pods, gateway }: Snapshot, ranks: number, createError: string): Action[] {
  const there = orphans.workers.filter((pod) => !pod.terminating);
  if (orphans.gateways === 0) return there.map((pod) => removal(pod, "it serves nobody"));
  if (ranks === 0) return there.map((pod) => removal(pod, "no ranks are wanted"));
  const unplaced = [...pods.map(({ problem }) => problem), gateway.message].find((text) => crowded.test(text));
  const refused = [createError, gateway.createError].find((text) => text.includes("exceeded quota"));
  const noCapacity = unplaced ?? refused;
  const going = orphans.workers.some((pod) => pod.terminating);
  // An unready rank may recover.
  const ended = there.filter((pod) => pod.terminal || pod.lost);
  const next = there.filter((pod) => !ended.includes(pod)).sort((a, b) => Number(a.ready) - Number(b.ready) || b.rank - a.rank)[0];
  const crowding = noCapacity === undefined || going || ended.length > 0 || !next ? [] : [next];
  return [
    ...ended.map((pod) => removal(pod, "it has ended")),
    ...crowding.map((pod) => removal(pod, `there is no capacity for both: ${noCapacity}`)),
  ];
}

function removal(pod: PodFacts, why: string): Action {
  return { type: "delete", pod, force: false, reason: "OrphanRemoved", why: `a deleted MoEDeployment left it; ${why}` };
}
