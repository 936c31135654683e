// Names that users type in spec.rebalancing and on the command line. The registries of operator/planner are typed by
// these arrays, so a name without an implementation does not compile. Nothing here but names.

export const policyNames = ["uniform", "incremental", "hecate", "eplb", "fastermoe", "smartmoe", "moetuner", "exflow", "exact"] as const;
export type PolicyName = (typeof policyNames)[number];
export const defaultPolicy: PolicyName = "incremental";

/** Auto moves experts; Recommend computes and publishes the plan but moves nothing; Off only measures. */
export const rebalancingModes = ["Auto", "Recommend", "Off"] as const;
export type RebalancingMode = (typeof rebalancingModes)[number];
