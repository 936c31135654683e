// The order in which a deployment stops where another serves its clients next: ranks serve on until the gateways have ended, since clients
// keep connections to these and hear of another place with their last answer. Pure.
import { labels } from "../../../crds/common.ts";
import type { Step } from "./pod-actions.ts";
import type { Snapshot } from "./snapshot.ts";

/** Gateways have a minute to end what came to them; ranks wait no longer than this. */
export const gatewaysMs = 75_000;

export interface GatewaysLook {
  /** Gateways that are there. */
  readonly gateways: number;
  readonly sinceMs: number | undefined;
  readonly nowMs: number;
}

/** The step without stops of ranks while gateways of theirs are there, and since when these are waited for. */
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
