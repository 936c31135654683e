// The deployment plane in the test's own process, on a real API server.
import { createDeploymentPlane, type DeploymentPlaneOptions } from "../../operator/deployment/plane.ts";
import type { Rebalance } from "../../operator/deployment/ports.ts";
import { EventRecorder } from "../../operator/kube/events.ts";
import { Informers } from "../../operator/kube/informers.ts";
import type { Kube } from "../../operator/kube/kube.ts";
import { settings } from "../kit/deployment/deployment.ts";
import { until } from "../kit/processes/process.ts";

const nobody: Rebalance = { update() {}, view: () => undefined, forget() {}, onChange() {}, close: async () => {} };

/** Runs it for a namespace, with nobody behind its other port unless that is given; returns how to stop it. */
export async function startDeploymentPlane(
  kube: Kube,
  namespace: string,
  { system = namespace, ...more }: { system?: string } & Partial<Pick<DeploymentPlaneOptions<Rebalance>, "rebalance" | "now">> = {},
): Promise<() => Promise<void>> {
  const informers = new Informers([namespace], system, { kube });
  const events = new EventRecorder({ kube, reportingInstance: "test" });
  const shared = { kube, informers, events, settings: { ...settings, namespace: system } };
  const plane = createDeploymentPlane<Rebalance>({ ...shared, rebalance: () => nobody, ...more });
  informers.start();
  await until("the informers", () => informers.refresh().then(() => informers.commonTrouble() === undefined || undefined), {
    timeoutMs: 60_000,
  });
  plane.controller.start();
  return async () => {
    await plane.stop();
    await informers.stop();
    await events.flush();
  };
}
