// The questions around zero ranks: whether nobody has asked for so long that all may go, whether the gateways know that they are to hold
// what comes, and whether somebody asks now. What is not known is not idle, and no reason to hold either. Pure; decide.ts asks.
import type { Autoscale } from "../../../../crds/autoscale.ts";
import { rfc3339 } from "../../../../crds/conditions.ts";
import type { Operation } from "../../../../crds/operation.ts";
import { parseDuration } from "../../../../crds/quantity.ts";
import type { GatewayView, Verdict } from "../world.ts";
import type { ServingRank } from "./measure.ts";

export interface ZeroLook {
  readonly spec: Autoscale;
  readonly gateways: readonly GatewayView[];
  readonly serving: readonly ServingRank[];
  /** Unix ms since which the deployment serves; undefined while it does not. */
  readonly availableSince: number | undefined;
  /** Unix ms. */
  readonly now: number;
}

export type Rest =
  /** Scaling to zero is not asked for. */
  | { readonly type: "unwanted" }
  /** It is not known whether anybody asks; `why` names who does not say. */
  | { readonly type: "unknown"; readonly why: string }
  | { readonly type: "busy" }
  /** Nobody has asked since then, for as long as the spec says. */
  | { readonly type: "idle"; readonly since: string };

/** Names that a message has. */
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
  // One that has just come may have served nobody, and those before it are not asked any more.
  if (availableSince === undefined || serving.some(isBusy)) return { type: "busy" };
  const since = Math.max(availableSince, ...gateways.map(({ idleMs = 0 }) => now - idleMs));
  const idleAfterMs = parseDuration(spec.scaleToZero.idleAfter, "spec.elasticity.autoscale.scaleToZero.idleAfter");
  return now - since >= idleAfterMs ? { type: "idle", since: rfc3339(new Date(since)) } : { type: "busy" };
}

/** A rank that is not heard may compute something. */
function isBusy({ signals, activeRequests }: ServingRank): boolean {
  return signals === undefined || signals.spanMs === 0 || signals.queuedTokens > 0 || activeRequests !== 0;
}

/** True where every gateway lets requests wait for ranks by now, so that the last rank can go. */
export const allHold = (gateways: readonly GatewayView[]): boolean => gateways.length > 0 && gateways.every(({ holds }) => holds);

/** A gateway by which somebody has asked since there were to be no ranks. */
export function asking(gateways: readonly GatewayView[], zeroSince: string, now: number): GatewayView | undefined {
  const zeroMs = now - Date.parse(zeroSince);
  // A clock that was set back makes zeroMs too small, which brings ranks too seldom, and never where one is needed.
  return gateways.find(({ wantsRanks, idleMs }) => wantsRanks || (idleMs !== undefined && idleMs + reportMs < zeroMs));
}

/** News of a gateway comes so late at most, and the time of a change is told in whole seconds. */
const reportMs = 3_000;

/** True of the autoscaler's word on a deployment that has no ranks because nobody asks. */
export const isAtZero = ({ status, reason }: Verdict): boolean => status === "True" && reason === "ScaledToZero";

export interface HoldLook {
  readonly spec: { readonly replicas: number; readonly suspend: boolean };
  readonly autoscale: Autoscale | undefined;
  readonly lastScale: { readonly from: number; readonly to: number } | undefined;
  readonly operation: Operation["type"] | undefined;
  /** Ranks that are wanted until a changed number takes effect. */
  readonly present: number;
  readonly anyActive: boolean;
  /** Whether the autoscaler is about to set 0, has seen that somebody else has, or knows nothing of either. */
  readonly known: "going" | "others" | undefined;
}

/**
 * Milliseconds that gateways are to let requests wait while no rank serves: on the way to zero, at zero, and until the first rank is
 * back. At a zero of which nobody knows yet whose it is they wait, too: to refuse them could not be made good.
 */
export function holdMs({ spec, autoscale, lastScale, operation, present, anyActive, known }: HoldLook): number {
  if (!autoscale?.scaleToZero || spec.suspend) return 0;
  // The last step may be one that no status tells of yet.
  const isBack = lastScale?.from === 0 || lastScale?.to === 0;
  const isWaking = isBack && !anyActive && (operation === "Start" || present === 0);
  const holds = spec.replicas === 0 ? known !== "others" : known === "going" || isWaking;
  return holds ? parseDuration(autoscale.scaleToZero.holdTimeout, "spec.elasticity.autoscale.scaleToZero.holdTimeout") : 0;
}
