// Executes a decision. All steps may be repeated; the first failure is returned, and none stops the others.
import { AppError, labels } from "../../../crds/common.ts";
import { createOwned, isOwned, manager } from "../../kube/adoption.ts";
import { hasCode } from "../../kube/errors.ts";
import type { PodOverlay } from "../../kube/informers.ts";
import { type Kube, resources } from "../../kube/kube.ts";
import type { Identities } from "../../pki/identity.ts";
import type { Refused } from "../core/memory.ts";
import { gatewaysWait } from "../core/orphans.ts";
import { living } from "../core/snapshot.ts";
import type { Decision } from "../features/decide.ts";
import type { GreenAction } from "../features/green-actions.ts";
import { freeRanks } from "../features/pod-actions.ts";
import type { Executed } from "../features/status.ts";
import type { Observed } from "../observed.ts";
import type { Deployments, Rebalance } from "../ports.ts";
import type { TelemetrySecrets } from "../state/telemetry-secret.ts";
import { scaleRanks } from "./autoscaler.ts";
import { changePods } from "./change-pods.ts";

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

export async function execute(deps: ExecuteDeps, observed: Observed, decision: Decision): Promise<Executed> {
  const { spec, repair, objects, delivery, ranks } = decision;
  const { deployment } = decision.facts.snapshot;
  const green = await changeGreen(deps, observed, decision.greenActions);
  // The kubelet notices a later Secret only after a minute or two.
  const { entries, failure: unread } = observed.natsCredentials;
  const unsigned = await attempt("writing the telemetry Secret", () => deps.telemetry.ensure(deployment, entries));
  const context = { deployment, settings: observed.settings, gang: objects.gang };
  const pods = await changePods(deps, context, spec, repair.step.actions);
  const orphans = await changePods(deps, context, spec, repair.orphans);
  const running = living(observed.pods).filter((pod) => !pod.terminating);
  const gateways = gatewaysWait(observed.orphans, observed.pods, deployment.spec) ? "wait" : "certify";
  const downloads = observed.download.jobs.some(({ state, terminating }) => state === "Running" && !terminating);
  const roles = [...(delivery.weightServer ? (["weight-server"] as const) : []), ...(downloads ? (["downloader"] as const) : [])];
  const uncertified = await deps.identities.ensureAll(deployment, running, { gateways, roles });
  deps.rebalance.update(decision.world);
  const scaled = await scaleRanks(deps, { deployment, resourceVersion: observed.resourceVersion }, decision.scale);
  // Only an extra pod was refused.
  const isExtra = pods.createError !== "" && freeRanks(living(observed.pods), ranks.target.ranks).length === 0;
  const { surgeRefused } = observed.memory;
  const untilMs = deps.ticks() + retryMs;
  const known = surgeRefused && deps.ticks() < surgeRefused.untilMs ? surgeRefused : undefined;
  const failures = [
    isExtra && pods.failure?.message === pods.createError ? undefined : pods.failure,
    ...[
      orphans.failure,
      uncertified,
      unread,
      unsigned,
      spec.failure,
      observed.claimFailure,
      decision.answers.deliveryFailure,
      green.failure,
    ],
    scaled.failure,
  ];
  return {
    scaling: scaled.scaling,
    createError: isExtra ? "" : pods.createError,
    failure: failures.find((one) => one !== undefined),
    remember: {
      greenRefused: green.refused,
      surgeRefused: isExtra ? { name: "", message: pods.createError, untilMs } : known,
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

interface GreenResult {
  readonly failure: AppError | undefined;
  readonly refused: Refused | undefined;
}

/** Only its sizes and suspension change. */
async function changeGreen(deps: ExecuteDeps, observed: Observed, actions: readonly GreenAction[]): Promise<GreenResult> {
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
  const { name, namespace } = object.metadata;
  const refused = (message: string): Refused => {
    event(deployment, "Warning", "GreenRefused", `all ranks stop before others start: ${message}`);
    return { name, message, untilMs: ticks() + retryMs };
  };
  try {
    // The cache may lack one of other templates, which would run beside this one unseen.
    const labelSelector = `${labels.greenOf}=${deployment.metadata.name}`;
    const { items } = await kube.list(resources.moeDeployments, { ...(namespace && { namespace }), labelSelector });
    if (items.some((one) => isOwned(one, deployment.metadata.uid))) return undefined;
    const made = await createOwned(kube, resources.moeDeployments, object, deployment.metadata.uid);
    if (made === "foreign") return refused(`MoEDeployment ${name} exists and does not belong to this one; delete or rename it`);
    if (made === "created") event(deployment, "Normal", "GreenCreated", `green deployment ${name} starts with ${uri}`);
    return undefined;
  } catch (caught) {
    if (!hasCode(caught, "Invalid", "Forbidden")) throw caught;
    return refused(AppError.from(caught).message);
  }
}
