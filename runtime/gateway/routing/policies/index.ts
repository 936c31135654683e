// The policies by their names in `gateway.routing`.
import type { RoutingPolicyName } from "../../../../crds/names.ts";
import { loadAware } from "./load-aware.ts";
import type { RoutingPolicy } from "./policy.ts";
import { prefixAware } from "./prefix-aware.ts";
import { roundRobin } from "./round-robin.ts";

export const policies: Readonly<Record<RoutingPolicyName, RoutingPolicy>> = {
  PrefixAware: prefixAware,
  LoadAware: loadAware,
  RoundRobin: roundRobin,
};
