// Which changes of conditions are warnings: none of a healthy start, each of what served before.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import { deploymentStatus } from "./status-kind.ts";

const status = (...conditions: readonly string[]): MoEDeploymentStatus =>
  ({
    conditions: conditions.map((one) =>
      Object.assign({ message: "" }, Object.fromEntries(one.split(" ").map((word, i) => [["type", "status", "reason"][i], word]))),
    ),
  }) as unknown as MoEDeploymentStatus;
const warnings = (...passes: readonly MoEDeploymentStatus[]): string[] =>
  passes
    .slice(1)
    .flatMap((after, i) => deploymentStatus.events(passes[i] as MoEDeploymentStatus, after))
    .flatMap(({ type, reason }) => (type === "Warning" ? [reason] : []));

test("a healthy start has no warning", () => {
  const none = warnings(
    status(),
    status(
      "Ready False Downloading",
      "Available False BelowMinServing",
      "ModelAvailable Unknown NotOpened",
      "TelemetryFresh Unknown NotObserved",
    ),
    status("Ready False WeightServerNotReady", "Available False BelowMinServing", "ModelAvailable False WeightServerNotReady"),
    status(
      "Ready False RanksNotReady",
      "Available False BelowMinServing",
      "ModelAvailable Unknown NotOpened",
      "TelemetryFresh Unknown NoRanks",
    ),
    status("Ready False NoGateway", "Available False NoGateway", "ModelAvailable True Resolved", "TelemetryFresh False Stale"),
    status("Ready True AllReplicasAvailable", "Available True MinimumReplicasAvailable", "TelemetryFresh True Fresh"),
  );
  assert.deepEqual(none, []);
});

test("what served and does no more is a warning, and so is what a start cannot pass", () => {
  assert.deepEqual(warnings(status("Ready True AllReplicasAvailable"), status("Ready False RanksNotReady")), ["RanksNotReady"]);
  assert.deepEqual(warnings(status("Ready False RanksNotReady"), status("Ready False KvPoolTooSmall")), ["KvPoolTooSmall"]);
  assert.deepEqual(warnings(status("ModelAvailable Unknown NotOpened"), status("ModelAvailable False ModelNotFound")), ["ModelNotFound"]);
});
