// Executes a decision. All steps may be repeated; the first failure is returned, and none stops the others.
import { AppError, labels } from "../../../crds/common.ts";
import { manager } from "../../kube/adoption.ts";
import { hasCode } from "../../kube/errors.ts";
import type { PodOverlay } from "../../kube/informers.ts";
import { type Kube, resources } from "../../kube/kube.ts";
import type { Identities } from "../../pki/identity.ts";
import { type Scaling, scaleRanks } from "../autoscaler.ts";
import { changePods } from "./change-pods.ts";
import { holdMs } from "../features/autoscale/zero.ts";
import type { Memory, Refused } from "../core/memory.ts";
import { gatewaysWait } from "../core/orphans.ts";
import { freeRanks } from "../features/pod-actions.ts";
import { living } from "../core/snapshot.ts";
import { worldOf } from "../core/world-of.ts";
import type { Decision } from "../decide.ts";
import type { GreenAction } from "../features/results.ts";
import { presentOf } from "../features/scale.ts";
import type { Observed } from "../observed.ts";
import type { Deployments, Rebalance } from "../ports.ts";
import type { TelemetrySecrets } from "../state/telemetry-secret.ts";

/** Pause after an extra pod or a green deployment was refused. */
const retryMs = 30_000;

export interface ExecuteDeps {
  readonly kube: Kube;
  readonly identities: Identities;
  readonly overlay: PodOverlay;
  readonly telemetry: TelemetrySecrets;
  readonly rebalance: Rebalance;
  readonly event: Deployments["event"];
  readonly now: () => Date;
  readonly ticks: () => number;
}

export interface Executed {
  readonly scaling: Scaling | undefined;
  readonly createError: string;
  readonly failure: AppError | undefined;
  readonly remember: Pick<Memory, "greenRefused" | "surgeRefused" | "createError" | "zero" | "ownerSeen">;
}

export async function execute(deps: ExecuteDeps, observed: Observed, decision: Decision): Promise<Executed> {
  const { facts, spec, repair, objects, delivery, ranks, change } = decision;
  const { snapshot } = facts;
  const { deployment } = snapshot;
  const green = await changeGreen(deps, observed, facts.greenActions);
  // The kubelet notices a later Secret only after a minute or two.
  const unsigned = await attempt("writing the telemetry Secret", () => deps.telemetry.ensure(deployment));
  const context = { deployment, settings: observed.settings, gang: objects.gang };
  const pods = await changePods(deps, context, spec, repair.step.actions);
  const orphans = await changePods(deps, context, spec, repair.orphans);
  const running = living(observed.pods).filter((pod) => !pod.terminating);
  const gateways = gatewaysWait(observed.orphans, observed.pods, change.deployment.spec) ? "wait" : "certify";
  const roles = delivery.weightServer ? (["weight-server"] as const) : [];
  const uncertified = await deps.identities.ensureAll(deployment, running, { gateways, roles });
  const world = { desiredRanks: ranks.target.ranks, gateways: observed.gatewayPods, holdMs: holdMsOf(observed, decision) };
  deps.rebalance.update(worldOf(snapshot, world));
  const scaled = await scaleRanks(deps, snapshot, decision.scale);
  // Only an extra pod was refused.
  const beside = pods.createError !== "" && freeRanks(living(observed.pods), ranks.target.ranks).length === 0;
  const { surgeRefused } = observed.memory;
  const untilMs = deps.ticks() + retryMs;
  const known = surgeRefused && deps.ticks() < surgeRefused.untilMs ? surgeRefused : undefined;
  const failures = [
    beside && pods.failure?.message === pods.createError ? undefined : pods.failure,
    ...[orphans.failure, uncertified, unsigned, spec.failure, observed.claimFailure, decision.answers.deliveryFailure, green.failure],
    scaled.scaling?.failure,
  ];
  return {
    scaling: scaled.scaling,
    createError: beside ? "" : pods.createError,
    failure: failures.find((one) => one !== undefined),
    remember: {
      ...scaled.remember,
      greenRefused: green.refused,
      surgeRefused: beside ? { name: "", message: pods.createError, untilMs } : known,
      createError: pods.createError,
    },
  };
}

async function attempt(operation: string, work: () => Promise<void>): Promise<AppError | undefined> {
  try {
    await work();
    return undefined;
  } catch (caught) {
    return AppError.from(caught, operation);
  }
}

function holdMsOf({ view, memory }: Observed, { facts: { snapshot } }: Decision): number {
  const { spec, status } = snapshot.deployment;
  const anyActive = view?.members.some(({ active }) => active) ?? false;
  const { lastScale } = status.autoscale ?? {};
  const { autoscale } = spec.elasticity;
  return holdMs({
    spec,
    autoscale,
    lastScale,
    operation: status.operation?.type,
    present: presentOf(status),
    anyActive,
    known: memory.zero,
  });
}

interface Greened {
  readonly failure: AppError | undefined;
  readonly refused: Refused | undefined;
}

/** Only its sizes and suspension change. */
async function changeGreen(deps: ExecuteDeps, observed: Observed, actions: readonly GreenAction[]): Promise<Greened> {
  const { deployment, memory } = observed;
  let refused = memory.greenRefused && deps.ticks() < memory.greenRefused.untilMs ? memory.greenRefused : undefined;
  try {
    for (const action of actions) {
      if (action.type === "noCapacity") deps.event(deployment, "Warning", "NoCapacityForGreen", action.message);
      else if (action.type === "createGreen") refused = (await createGreen(deps, deployment, action)) ?? refused;
      else await changeOne(deps, deployment, action);
    }
    return { failure: undefined, refused };
  } catch (caught) {
    const gone = hasCode(caught, "NotFound", "Conflict");
    return { failure: gone ? undefined : AppError.from(caught, "changing the green deployment"), refused };
  }
}

async function changeOne(
  { kube, event }: ExecuteDeps,
  deployment: Observed["deployment"],
  action: Exclude<GreenAction, { type: "noCapacity" | "createGreen" }>,
): Promise<void> {
  const { name, uid } = action;
  const ref = { namespace: deployment.metadata.namespace, name };
  if (action.type === "deleteGreen") return void (await kube.delete(resources.moeDeployments, ref, { uid }));
  const spec = action.type === "widenGreen" ? action.spec : { suspend: true };
  await kube.patch(resources.moeDeployments, ref, { metadata: { uid }, spec }, { manager });
  if (action.type === "stopGreen") event(deployment, "Normal", "GreenStops", `green deployment ${name} is not needed any more`);
}

async function createGreen(
  { kube, event, ticks }: ExecuteDeps,
  deployment: Observed["deployment"],
  { object, uri }: Extract<GreenAction, { type: "createGreen" }>,
): Promise<Refused | undefined> {
  const { uid, namespace } = deployment.metadata;
  const labelSelector = `${labels.greenOf}=${deployment.metadata.name}`;
  const { items } = await kube.list(resources.moeDeployments, { namespace, labelSelector });
  if (items.some(({ metadata }) => metadata.ownerReferences?.some((owner) => owner.uid === uid))) return undefined; // not in the cache yet
  const { name } = object.metadata;
  try {
    await kube.create(resources.moeDeployments, object, { manager });
    event(deployment, "Normal", "GreenCreated", `green deployment ${name} starts with ${uri}`);
    return undefined;
  } catch (caught) {
    if (!hasCode(caught, "AlreadyExists", "Invalid", "Forbidden")) throw caught;
    const { message } = AppError.from(caught);
    event(deployment, "Warning", "GreenRefused", `all ranks stop before others start: ${message}`);
    return { name, message, untilMs: ticks() + retryMs };
  }
}
