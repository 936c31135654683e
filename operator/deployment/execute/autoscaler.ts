// Sets replicas under the autoscaler's own field manager, by the version of the object that the decision saw (DECISIONS.md 10).
import { AppError } from "../../../crds/common.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import { hasCode } from "../../kube/errors.ts";
import { type Kube, resources } from "../../kube/kube.ts";
import { autoscaler } from "../core/replicas-owner.ts";
import type { Verdict } from "../core/world.ts";
import { reported, type Scale, type Scaling } from "../features/scale.ts";
import type { Deployments } from "../ports.ts";

const conflictMs = 1_000;

interface ScaleDeps {
  readonly kube: Kube;
  readonly event: Deployments["event"];
}

interface Scaled {
  /** What is reported; undefined without an autoscaler. */
  readonly scaling?: Scaling;
  readonly failure?: AppError;
}

export async function scaleRanks(
  deps: ScaleDeps,
  { deployment, resourceVersion }: { readonly deployment: MoEDeployment; readonly resourceVersion: string },
  { scaling, write }: Pick<Scale, "scaling" | "write">,
): Promise<Scaled> {
  if (!scaling) return {};
  const done = write ? await tryWrite(deps, { deployment, resourceVersion }, { scaling, write }) : { scaling };
  announce(deps, deployment, done.scaling.verdict);
  return done;
}

async function tryWrite(
  { kube, event }: ScaleDeps,
  { deployment, resourceVersion }: { readonly deployment: MoEDeployment; readonly resourceVersion: string },
  { scaling, write }: { readonly scaling: Scaling; readonly write: NonNullable<Scale["write"]> },
): Promise<Scaled & { readonly scaling: Scaling }> {
  const { from, to, message, subresource, done } = write;
  const { namespace, name } = deployment.metadata;
  const by = { manager: autoscaler };
  try {
    if (subresource) await kube.scale(resources.moeDeployments, { namespace, name }, { replicas: to, resourceVersion }, by);
    else await kube.patch(resources.moeDeployments, { namespace, name }, { metadata: { resourceVersion }, spec: { replicas: to } }, by);
    event(deployment, "Normal", to > from ? "ScaledUp" : "ScaledDown", message);
    return { scaling: done };
  } catch (caught) {
    const failure = AppError.from(caught, "scaling");
    // The copy was old, or the deployment is gone: nothing was made, so nothing new is reported.
    if (hasCode(failure, "Conflict", "NotFound"))
      return { scaling: { ...scaling, verdict: reported(deployment) ?? scaling.verdict, againInMs: conflictMs } };
    const why = `replicas could not be set to ${to}: ${failure.message}`;
    return { scaling: { ...scaling, verdict: { status: "False", reason: "ScaleFailed", message: why } }, failure };
  }
}

function announce({ event }: ScaleDeps, { metadata, status }: MoEDeployment, { status: is, reason, message }: Verdict): void {
  const before = status.conditions?.find(({ type }) => type === "ScalingActive");
  const wasFalse = before?.status === "False";
  if (is === "False" && !(wasFalse && before.reason === reason)) event({ metadata }, "Warning", reason, `ScalingActive=False: ${message}`);
  if (is === "True" && wasFalse) event({ metadata }, "Normal", reason, `ScalingActive=True: ${message}`);
}
