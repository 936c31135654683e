// The chart's dashboards by file name.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { deploymentDashboard } from "./deployment.ts";
import { expertsDashboard } from "./experts-dashboard.ts";
import { fleetDashboard } from "./fleet.ts";
import { trainingDashboard } from "./training.ts";

export const dashboards: Readonly<Record<string, () => Dashboard>> = {
  fleet: fleetDashboard,
  deployment: deploymentDashboard,
  experts: expertsDashboard,
  training: trainingDashboard,
};
