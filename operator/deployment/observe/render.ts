// Renders the spec, and picks the accepted specs in effect. Pure.
import { annotations } from "../../../crds/common.ts";
import type { MoEDeployment } from "../../../crds/moe-deployment.ts";
import type { RolledBack } from "../../../crds/rollout.ts";
import { pinnedImage } from "../core/runtime-image.ts";
import type { PodFacts } from "../core/snapshot.ts";
import type { RenderContext, Settings } from "../objects/context.ts";
import { gatewayTemplate } from "../objects/gateway.ts";
import type { AcceptedRevision } from "../objects/revision.ts";
import { ownImage, type RenderedPod, workerTemplate } from "../objects/worker-pod.ts";
import type { RenderedSpec } from "../observed.ts";

type InUse = Pick<RenderedSpec, "accepted" | "stable" | "offered" | "runtimeImage">;

interface InUseInput {
  readonly revisions: readonly AcceptedRevision[];
  readonly pods: readonly PodFacts[];
  readonly settings: Settings;
}

export function inUse({ spec, status }: MoEDeployment, { revisions, pods, settings }: InUseInput): InUse {
  const { rolledBack, stableTemplateHash } = status.rollout ?? {};
  const accepted = revisions.find((one) => one.accepted.template.hash !== rolledBack?.templateHash)?.accepted;
  const stable = revisions.find((one) => one.accepted.template.hash === stableTemplateHash)?.accepted;
  const { runtimeImage: offered } = settings;
  const runtimeImage = pinnedImage({ spec, status, accepted: accepted?.runtimeImage, pods, offered, own: ownImage(spec) });
  return { accepted, stable, offered, runtimeImage };
}

export function renderSpec(
  deployment: MoEDeployment,
  use: InUse,
  { settings, remoteStore }: { settings: Settings; remoteStore: boolean },
): RenderedSpec {
  const { accepted, runtimeImage } = use;
  const context: RenderContext = {
    deployment,
    settings: { ...settings, runtimeImage },
    weightServer: remoteStore ? { replicas: 1 } : undefined,
  };
  const workers = workerTemplate(context);
  const gateways = gatewayTemplate(context);
  const wanted = asAccepted(workers, accepted?.template);
  const gateway = asAccepted(gateways, accepted?.gateway);
  const back = accepted ? rollbackOf(deployment, wanted.hash) : undefined;
  return { ...use, context, workers, gateways, wanted, gateway, rolledBack: back };
}

function asAccepted<T extends RenderedPod>(rendered: T, accepted: T | undefined): T {
  return accepted?.hash === rendered.hash ? accepted : rendered;
}

/** Until the template changes, or an annotation asks for a retry. */
function rollbackOf({ metadata, status }: MoEDeployment, wantedHash: string): RolledBack | undefined {
  const { rolledBack: back } = status.rollout ?? {};
  const again = metadata.annotations?.[annotations.retryRollout] === back?.id;
  return back?.templateHash === wantedHash && !again ? back : undefined;
}
