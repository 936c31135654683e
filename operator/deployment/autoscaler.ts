// Sets replicas through /scale under its own field manager, after a look at the live object (DECISIONS.md 10).
import type { AutoscaleStatus } from "../../crds/autoscale.ts";
import { AppError, annotations } from "../../crds/common.ts";
import { rfc3339 } from "../../crds/conditions.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { hasCode } from "../kube/errors.ts";
import { type Kube, type KubeObject, refOf, resources } from "../kube/kube.ts";
import { managersOf } from "../kube/managed-fields.ts";
import { type AutoscaleInput, type Decision, figures, twoDigits } from "./features/autoscale/decide.ts";
import { autoscaler, type Ownership, ownership } from "./core/replicas-owner.ts";
import { hasFallen, whetherToWrite } from "./core/autoscale/write.ts";
import { allHold, isAtZero } from "./features/autoscale/zero.ts";
import type { Memory } from "./core/memory.ts";
import type { Verdict } from "./core/world.ts";
import type { Scale } from "./features/results.ts";
import { presentOf } from "./features/scale.ts";
import type { Deployments } from "./ports.ts";

const conflictMs = 1_000;

export interface Scaling {
  readonly verdict: Verdict;
  readonly status: AutoscaleStatus;
  readonly againInMs: number | undefined;
  readonly failure: AppError | undefined;
}

export interface Scaled {
  readonly scaling: Scaling | undefined;
  readonly remember: Pick<Memory, "zero" | "ownerSeen">;
}

interface ScaleDeps {
  readonly kube: Kube;
  readonly event: Deployments["event"];
}

type Last = AutoscaleStatus["lastScale"];

/** Replicas fell to their default since nobody sets them, or that is unknown; `scaleRanks` restores them before any rank goes. */
export async function numberHasFallen(kube: Pick<Kube, "get">, { metadata, spec, status }: MoEDeployment): Promise<boolean> {
  const { autoscale } = spec.elasticity;
  if (!autoscale || spec.suspend || spec.replicas === 0 || spec.replicas >= Math.min(presentOf(status), autoscale.max)) return false;
  const { namespace, name, uid } = metadata;
  try {
    const live = await kube.get(resources.moeDeployments, { namespace, name });
    if (live?.metadata.uid !== uid || replicasOf(live) !== spec.replicas) return true;
    return hasFallen(ownerOf(live, status), spec.replicas, presentOf(status));
  } catch {
    return true;
  }
}

export async function scaleRanks(
  deps: ScaleDeps,
  { deployment, now }: { readonly deployment: MoEDeployment; readonly now: Date },
  { input, decision, quiet, remember }: Scale,
): Promise<Scaled> {
  if (!input || !decision) return { scaling: undefined, remember };
  const last = deployment.status.autoscale?.lastScale;
  const scaled = quiet
    ? { scaling: scalingOf(decision, last), remember }
    : await settle(deps, { deployment, now, input, decision, remember });
  announce(deps, deployment, scaled.scaling.verdict);
  return scaled;
}

interface Settling extends Pick<Scale, "remember"> {
  readonly deployment: MoEDeployment;
  readonly now: Date;
  readonly input: AutoscaleInput;
  readonly decision: Decision;
}

type Settled = Scaled & { readonly scaling: Scaling };

async function settle(deps: ScaleDeps, { deployment, now, input, decision, remember }: Settling): Promise<Settled> {
  const { kube, event } = deps;
  const { namespace, name, uid } = deployment.metadata;
  const last = deployment.status.autoscale?.lastScale;
  const present = presentOf(deployment.status);
  let known: Scaled["remember"] = remember;
  const result = (scaling: Scaling): Settled => ({ scaling, remember: known });
  try {
    const live = await kube.get(resources.moeDeployments, { namespace, name });
    const replicas = live && replicasOf(live);
    if (live?.metadata.uid !== uid || replicas !== input.replicas) return result({ ...scalingOf(decision, last), againInMs: conflictMs });
    const owner = ownerOf(live, deployment.status);
    known = { ...known, ownerSeen: true };
    // The step counts although its status was lost with the process that made it.
    if (owner.type === "ours" && last?.to !== replicas)
      return result({ ...scalingOf(decision, unreported(present, replicas, now)), againInMs: conflictMs });
    const write = whetherToWrite({ input, decision, owner, present, metadata: deployment.metadata });
    known = { ...known, zero: write.to === 0 ? "going" : replicas === 0 && isOthers(owner, last) ? "others" : undefined };
    if (write.to === 0 && !allHold(input.gateways))
      return result({ ...scalingOf({ ...decision, verdict: notYet(write.verdict) }, last), againInMs: conflictMs });
    if (write.to === undefined) return result({ ...scalingOf(decision, last), verdict: write.verdict });
    await setReplicas(kube, live, write.to, owner);
    event(deployment, "Normal", write.to > input.replicas ? "ScaledUp" : "ScaledDown", write.verdict.message);
    const scaled = { time: rfc3339(now), from: input.replicas, to: write.to, message: write.verdict.message.slice(0, messageMax) };
    return result({ ...scalingOf(decision, scaled), verdict: write.verdict });
  } catch (caught) {
    const error = AppError.from(caught, "scaling");
    const scaling = scalingOf(decision, last);
    if (hasCode(error, "Conflict")) return result({ ...scaling, againInMs: conflictMs });
    const message = `replicas could not be set to ${decision.to}: ${error.message}`;
    return result({ ...scaling, verdict: { status: "False", reason: "ScaleFailed", message }, failure: error });
  }
}

/** /scale records no manager for a field without one, nor for 0; a write to the object does. */
async function setReplicas(kube: Kube, live: KubeObject, replicas: number, owner: Ownership): Promise<void> {
  const { resourceVersion = "" } = live.metadata;
  const by = { manager: autoscaler };
  if (owner.type !== "nobody" && replicas > 0) await kube.scale(resources.moeDeployments, refOf(live), { replicas, resourceVersion }, by);
  else await kube.patch(resources.moeDeployments, refOf(live), { metadata: { resourceVersion }, spec: { replicas } }, by);
}

function announce({ event }: ScaleDeps, { metadata, status }: MoEDeployment, { status: is, reason, message }: Verdict): void {
  const before = status.conditions?.find(({ type }) => type === "ScalingActive");
  const wasFalse = before?.status === "False";
  if (is === "False" && !(wasFalse && before.reason === reason)) event({ metadata }, "Warning", reason, `ScalingActive=False: ${message}`);
  if (is === "True" && wasFalse) event({ metadata }, "Normal", reason, `ScalingActive=True: ${message}`);
}

const messageMax = 512;

/** Somebody else set or applied this zero. */
const isOthers = ({ type }: Ownership, last: Last): boolean =>
  type === "applied" || type === "taken" || (type !== "ours" && last?.to !== 0);

/** The last rank stays until every gateway knows that it is to hold requests. */
function notYet({ message }: Verdict): Verdict {
  return { status: "True", reason: "ScalingToZero", message: `${message}, once every gateway has said that it holds requests` };
}

function ownerOf(live: KubeObject, { autoscale }: MoEDeployment["status"]): Ownership {
  return ownership({
    managers: managersOf(live, ["spec", "replicas"]),
    lastSet: autoscale?.lastScale?.time,
    resume: live.metadata.annotations?.[annotations.resumeAutoscale],
  });
}

const replicasOf = ({ spec }: KubeObject): number | undefined => (spec as { readonly replicas?: number } | undefined)?.replicas;

/** Our own number without a status: the process that set it ended before it wrote one. */
function unreported(from: number, to: number, now: Date): NonNullable<Last> {
  return { time: rfc3339(now), from, to, message: "set by an operator that ended before it could say why" };
}

function scalingOf({ verdict, measured, againInMs }: Decision, lastScale: Last): Scaling {
  const shown = measured.map(({ name, value, target, ranks }) => ({ name, value: twoDigits(value), target, ranks }));
  const status: AutoscaleStatus = {
    ...(measured.length > 0 && { metrics: shown, progress: figures(measured) }),
    ...(isAtZero(verdict) && { progress: `at zero since ${lastScale?.time}` }),
    ...(lastScale && { lastScale }),
  };
  return { verdict, status, againInMs, failure: undefined };
}
