// The dashboards of the chart, by the name of their file.
import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { expertsDashboard } from "./experts.ts";
import { trainingDashboard } from "./training.ts";

export const dashboards: Readonly<Record<string, () => Dashboard>> = {
  experts: expertsDashboard,
  training: trainingDashboard,
};
