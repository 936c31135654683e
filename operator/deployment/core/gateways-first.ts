// The order of a stop while another deployment takes over: ranks serve until the gateways have ended, since clients keep connections to
// these. Pure.
import { labels } from "../../../crds/common.ts";
import type { Step } from "../features/pod-actions.ts";
import type { Snapshot } from "./snapshot.ts";

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
