// Changes of fields of spec.rolloutStrategy that a plain deployment shows, by their paths.
export const rolloutChanges: Readonly<Record<string, unknown>> = {
  "rolloutStrategy.type": "OnDelete",
  "rolloutStrategy.maxSurge": 2,
  "rolloutStrategy.maxUnavailable": 1,
  "rolloutStrategy.partition": 2,
  "rolloutStrategy.paused": true,
  "rolloutStrategy.progressDeadline": "20m",
  "rolloutStrategy.onFailure": "Wait",
  "rolloutStrategy.canary.ranks": 2,
  "rolloutStrategy.canary.analysis.bake": "2h",
  "rolloutStrategy.canary.analysis.errorRatePercent": 0,
  "rolloutStrategy.canary.analysis.latencyPercent": 100,
  "rolloutStrategy.canary.analysis.minRequests": 30,
};
