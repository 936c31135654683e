// Scaling to zero: whether nobody asks, whether gateways hold requests, and whether one waits. Pure. Silence is neither idle nor holding.
import type { Autoscale } from "../../../../crds/autoscale.ts";
import { rfc3339 } from "../../../../crds/conditions.ts";
import type { Operation } from "../../../../crds/operation.ts";
import { parseDuration } from "../../../../crds/quantity.ts";
import type { GatewayView, Verdict } from "../../core/world.ts";
import type { ServingRank } from "./metric-values.ts";

export interface ZeroLook {
  readonly spec: Autoscale;
  readonly gateways: readonly GatewayView[];
  readonly serving: readonly ServingRank[];
  /** Unix ms; undefined while the deployment does not serve. */
  readonly availableSince: number | undefined;
  readonly now: number;
}

export type Rest =
  | { readonly type: "unwanted" }
  | { readonly type: "unknown"; readonly why: string }
  | { readonly type: "busy" }
  | { readonly type: "idle"; readonly since: string };

const namesShown = 3;

export function restOf({ spec, gateways, serving, availableSince, now }: ZeroLook): Rest {
  if (!spec.scaleToZero) return { type: "unwanted" };
  const unheard = gateways.filter(({ idleMs }) => idleMs === undefined).map(({ name }) => name);
  if (gateways.length === 0) return { type: "unknown", why: "not to zero: no gateway is heard, and one has to hold requests" };
  if (unheard.length > 0) {
    const more = unheard.length > namesShown ? " and more" : "";
    const who = `${unheard.slice(0, namesShown).join(", ")}${more}`;
    return { type: "unknown", why: `not to zero: gateways ${who} do not say whether anybody asks` };
  }
  // A new rank may have served nobody, and those before it cannot be asked any more.
  if (availableSince === undefined || serving.some(isBusy)) return { type: "busy" };
  const since = Math.max(availableSince, ...gateways.map(({ idleMs = 0 }) => now - idleMs));
  const idleAfterMs = parseDuration(spec.scaleToZero.idleAfter, "spec.elasticity.autoscale.scaleToZero.idleAfter");
  return now - since >= idleAfterMs ? { type: "idle", since: rfc3339(new Date(since)) } : { type: "busy" };
}

/** A silent rank may be computing. */
function isBusy({ signals, activeRequests }: ServingRank): boolean {
  return signals === undefined || signals.spanMs === 0 || signals.queuedTokens > 0 || activeRequests !== 0;
}

/** Every gateway holds requests, so that the last rank may go. */
export const allHold = (gateways: readonly GatewayView[]): boolean => gateways.length > 0 && gateways.every(({ holds }) => holds);

/** A gateway that had a request since the desired ranks became zero. */
export function asking(gateways: readonly GatewayView[], zeroSince: string, now: number): GatewayView | undefined {
  const zeroMs = now - Date.parse(zeroSince);
  // A clock that was set back only delays ranks.
  return gateways.find(({ wantsRanks, unasked, idleMs }) => wantsRanks || (!unasked && idleMs !== undefined && idleMs + reportMs < zeroMs));
}

/** Delay of a report, with the rounding to seconds. */
const reportMs = 3_000;

export const isAtZero = ({ status, reason }: Verdict): boolean => status === "True" && reason === "ScaledToZero";

export interface HoldLook {
  readonly spec: { readonly replicas: number; readonly suspend: boolean };
  readonly autoscale: Autoscale | undefined;
  readonly lastScale: { readonly from: number; readonly to: number } | undefined;
  readonly operation: Operation["type"] | undefined;
  readonly present: number;
  readonly anyActive: boolean;
  /** The autoscaler is about to set 0, or somebody else has. */
  readonly known: "going" | "others" | undefined;
}

/**
 * Milliseconds for which gateways hold requests: on the way to zero, at zero, and until the first rank is back; also at a zero of unknown
 * origin.
 */
export function holdMs({ spec, autoscale, lastScale, operation, present, anyActive, known }: HoldLook): number {
  if (!autoscale?.scaleToZero || spec.suspend) return 0;
  const isBack = lastScale?.from === 0 || lastScale?.to === 0;
  const isWaking = isBack && !anyActive && (operation === "Start" || present === 0);
  const holds = spec.replicas === 0 ? known !== "others" : known === "going" || isWaking;
  return holds ? parseDuration(autoscale.scaleToZero.holdTimeout, "spec.elasticity.autoscale.scaleToZero.holdTimeout") : 0;
}
