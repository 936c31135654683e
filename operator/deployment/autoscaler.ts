// The autoscaler of ranks: it asks core/autoscale/ what replicas should be, looks at the object itself before it writes, since a cache may
// be behind another writer, and sets the number through /scale under a name of its own. The reconciler runs it at every pass.

import type { AutoscaleStatus } from "../../crds/autoscale.ts";
import { AppError, annotations } from "../../crds/common.ts";
import { rfc3339 } from "../../crds/conditions.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import type { Operation } from "../../crds/operation.ts";
import { hasCode } from "../kube/errors.ts";
import { type Kube, type KubeObject, refOf, resources } from "../kube/kube.ts";
import { managersOf } from "../kube/managed-fields.ts";
import { type AutoscaleInput, type Decision, decide, figures, twoDigits } from "./core/autoscale/decide.ts";
import type { History } from "./core/autoscale/history.ts";
import { autoscaler, type Ownership, ownership } from "./core/autoscale/owner.ts";
import { hasFallen, type Write, whetherToWrite } from "./core/autoscale/write.ts";
import { allHold, holdMs, isAtZero } from "./core/autoscale/zero.ts";
import type { Reckoned } from "./core/capacity.ts";
import { living, type Snapshot } from "./core/snapshot.ts";
import type { RankSignals, Verdict } from "./core/world.ts";
import type { Deployments } from "./ports.ts";

/** A write that somebody else's came before is decided anew after this. */
const conflictMs = 1_000;

export interface Scaling {
  readonly verdict: Verdict;
  readonly status: AutoscaleStatus;
  readonly againInMs: number | undefined;
  readonly failure: AppError | undefined;
}

export interface ScalingLook {
  readonly snapshot: Snapshot;
  readonly floor: Reckoned | undefined;
  readonly operation: Operation["type"] | undefined;
}

interface AutoscalerDeps {
  readonly kube: Kube;
  readonly event: Deployments["event"];
}

const nothingYet: RankSignals = { spanMs: 0, queuedTokens: 0, kvUse: undefined, tokensPerSecond: undefined };
type Last = AutoscaleStatus["lastScale"];

export class Autoscaler {
  readonly #deps: AutoscalerDeps;
  /** By uid of the deployment. */
  readonly #histories = new Map<string, History>();
  /** Deployments of which this process knows whether their number was set by an autoscaler whose status is lost. */
  readonly #looked = new Set<string>();
  /** Deployments that are about to go to zero, and those that somebody else has set to 0. */
  readonly #zero = new Map<string, "going" | "others">();

  constructor({ kube, event }: AutoscalerDeps) {
    this.#deps = { kube, event };
  }

  /**
   * True where the number is below the ranks that are there because nobody gives it any more, and it fell to its default; and while that
   * cannot be told. Asked before a rank is taken away: the number is put back by `run`, and until then no rank is to go by it.
   */
  async hasFallen({ metadata, spec, status }: MoEDeployment): Promise<boolean> {
    const { autoscale } = spec.elasticity;
    if (!autoscale || spec.suspend || spec.replicas === 0 || spec.replicas >= Math.min(presentOf(status), autoscale.max)) return false;
    const { namespace, name, uid } = metadata;
    try {
      const live = await this.#deps.kube.get(resources.moeDeployments, { namespace, name });
      if (live?.metadata.uid !== uid || replicasOf(live) !== spec.replicas) return true; // the next pass knows what it is now
      return hasFallen(ownerOf(live, status), spec.replicas, presentOf(status));
    } catch {
      return true; // `run` asks again, and tells of it
    }
  }

  /** Undefined where the spec asks for no autoscaling. */
  async run(look: ScalingLook): Promise<Scaling | undefined> {
    const { deployment } = look.snapshot;
    const { uid } = deployment.metadata;
    const input = inputOf(look, this.#histories.get(uid) ?? []);
    if (!input) {
      this.forget(uid);
      return undefined;
    }
    const decision = decide(input);
    this.#histories.set(uid, decision.history);
    const last = deployment.status.autoscale?.lastScale;
    if (decision.to !== 0) this.#zero.delete(uid);
    const hasShrunk = input.replicas < presentOf(deployment.status);
    const isKnown = !hasShrunk && (last ? last.to === input.replicas : this.#looked.has(uid) && input.replicas > 0);
    const isQuiet = isOff(deployment) || (isKnown && decision.to === input.replicas);
    const scaling = isQuiet ? scalingOf(decision, last) : await this.#settle(look.snapshot, input, decision);
    this.#announce(deployment, scaling.verdict);
    return scaling;
  }

  /** Milliseconds that gateways are to let requests wait while no rank serves. */
  holdMs({ deployment, view }: Pick<Snapshot, "deployment" | "view">): number {
    const { metadata, spec, status } = deployment;
    const { autoscale } = spec.elasticity;
    const anyActive = view?.members.some(({ active }) => active) ?? false;
    const known = this.#zero.get(metadata.uid);
    const told = { lastScale: status.autoscale?.lastScale, operation: status.operation?.type, present: presentOf(status) };
    return holdMs({ spec, autoscale, ...told, anyActive, known });
  }

  forget(uid: string): void {
    this.#zero.delete(uid);
    this.#histories.delete(uid);
    this.#looked.delete(uid);
  }

  /** Looks at who has the number, and writes where it is ours to write. */
  async #settle({ deployment, now }: Snapshot, input: AutoscaleInput, decision: Decision): Promise<Scaling> {
    const { kube, event } = this.#deps;
    const { namespace, name, uid } = deployment.metadata;
    const last = deployment.status.autoscale?.lastScale;
    try {
      const live = await kube.get(resources.moeDeployments, { namespace, name });
      const replicas = live && replicasOf(live);
      // The next pass sees what has become of it.
      if (live?.metadata.uid !== uid || replicas !== input.replicas) return { ...scalingOf(decision, last), againInMs: conflictMs };
      const owner = ownerOf(live, deployment.status);
      this.#looked.add(uid);
      const present = presentOf(deployment.status);
      // The step counts though its status was lost with the process that made it; the next one is decided by it.
      if (owner.type === "ours" && last?.to !== replicas)
        return { ...scalingOf(decision, untold(present, replicas, now)), againInMs: conflictMs };
      const write: Write = whetherToWrite({ input, decision, owner, present, metadata: deployment.metadata });
      this.#note(uid, write, replicas === 0 && isOthers(owner, last));
      if (write.to === 0 && !allHold(input.gateways))
        return { ...scalingOf({ ...decision, verdict: notYet(write.verdict) }, last), againInMs: conflictMs };
      if (write.to === undefined) return { ...scalingOf(decision, last), verdict: write.verdict };
      await this.#set(live, write.to, owner);
      event(deployment, "Normal", write.to > input.replicas ? "ScaledUp" : "ScaledDown", write.verdict.message);
      const scaled = { time: rfc3339(now), from: input.replicas, to: write.to, message: write.verdict.message.slice(0, messageMax) };
      return { ...scalingOf(decision, scaled), verdict: write.verdict };
    } catch (caught) {
      const error = AppError.from(caught, "scaling");
      const scaling = scalingOf(decision, last);
      if (hasCode(error, "Conflict")) return { ...scaling, againInMs: conflictMs };
      const message = `replicas could not be set to ${decision.to}: ${error.message}`;
      return { ...scaling, verdict: { status: "False", reason: "ScaleFailed", message }, failure: error };
    }
  }

  /** What `holdMs` goes by: the next pass tells the gateways. */
  #note(uid: string, { to }: Write, isOthersZero: boolean): void {
    if (to === 0) this.#zero.set(uid, "going");
    else if (isOthersZero) this.#zero.set(uid, "others");
    else this.#zero.delete(uid);
  }

  /**
   * The API server does not note who sets through /scale what nobody has: neither this write nor anybody's after it would be told from
   * another's; nor who sets 0, which it takes for a field that is left out. A write to the object itself makes the number ours.
   */
  async #set(live: KubeObject, replicas: number, owner: Ownership): Promise<void> {
    const { kube } = this.#deps;
    const { resourceVersion = "" } = live.metadata;
    const by = { manager: autoscaler };
    if (owner.type !== "nobody" && replicas > 0) await kube.scale(resources.moeDeployments, refOf(live), { replicas, resourceVersion }, by);
    else await kube.patch(resources.moeDeployments, refOf(live), { metadata: { resourceVersion }, spec: { replicas } }, by);
  }

  /** An event when it stands still, and when it goes on. */
  #announce({ metadata, status }: MoEDeployment, { status: is, reason, message }: Verdict): void {
    const before = status.conditions?.find(({ type }) => type === "ScalingActive");
    const wasFalse = before?.status === "False";
    if (is === "False" && !(wasFalse && before.reason === reason))
      this.#deps.event({ metadata }, "Warning", reason, `ScalingActive=False: ${message}`);
    if (is === "True" && wasFalse) this.#deps.event({ metadata }, "Normal", reason, `ScalingActive=True: ${message}`);
  }
}

const messageMax = 512;

/** A zero is somebody else's to end, unless the autoscaler has set it, or may have. */
function isOff({ spec, status }: MoEDeployment): boolean {
  const mayBeOurs = spec.elasticity.autoscale?.scaleToZero !== undefined || status.autoscale?.lastScale?.to === 0;
  return spec.suspend || (spec.replicas === 0 && !mayBeOurs);
}

/** True of a zero that somebody has set or applies. */
const isOthers = ({ type }: Ownership, last: Last): boolean =>
  type === "applied" || type === "taken" || (type !== "ours" && last?.to !== 0);

/** Before the last rank goes every gateway has heard that it is to hold what comes. */
function notYet({ message }: Verdict): Verdict {
  return { status: "True", reason: "ScalingToZero", message: `${message}, once every gateway has said that it holds requests` };
}

/** Ranks that are wanted until a changed number takes effect. */
const presentOf = ({ expertParallel }: MoEDeployment["status"]): number => expertParallel?.desiredRanks ?? 0;

function ownerOf(live: KubeObject, { autoscale }: MoEDeployment["status"]): Ownership {
  return ownership({
    managers: managersOf(live, ["spec", "replicas"]),
    lastSet: autoscale?.lastScale?.time,
    resume: live.metadata.annotations?.[annotations.resumeAutoscale],
  });
}

const replicasOf = ({ spec }: KubeObject): number | undefined => (spec as { readonly replicas?: number } | undefined)?.replicas;

/** A number that is ours and in no status: the process that set it ended before it could say so. */
function untold(from: number, to: number, now: Date): NonNullable<Last> {
  return { time: rfc3339(now), from, to, message: "set by an operator that ended before it could say why" };
}

function inputOf({ snapshot, floor, operation }: ScalingLook, history: History): AutoscaleInput | undefined {
  const { deployment, view, now } = snapshot;
  const { spec, status } = deployment;
  const { autoscale } = spec.elasticity;
  if (!autoscale) return undefined;
  const serving = living(snapshot.pods).filter((pod) => pod.ready && !pod.terminating && !pod.leaving);
  const members = new Map(view?.members.map((member) => [member.podUid, member]));
  // A new leader still opens its sessions: what it has not heard yet is not silence.
  const unheard = snapshot.warmingUp ? nothingYet : undefined;
  const served = status.conditions?.find(({ type, status: is }) => type === "Available" && is === "True")?.lastTransitionTime;
  return {
    spec: autoscale,
    replicas: spec.replicas,
    suspended: spec.suspend,
    serving: serving.map(({ rank, uid }) => {
      const { signals = unheard, activeRequests } = members.get(uid) ?? {};
      return { rank, signals, activeRequests };
    }),
    gateways: view?.gateways ?? [],
    availableSince: served === undefined ? undefined : Date.parse(served),
    floor,
    operation,
    lastScale: status.autoscale?.lastScale,
    history,
    now: now.getTime(),
  };
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
