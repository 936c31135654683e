// This builder makes the settings of a worker as the operator renders them and the process parses them, for suites that start
// workers without a cluster: no NATS, no peers to look up.
import { type WorkerSettings, workerProcess } from "../../crds/process.ts";
import { renderEnv } from "../../crds/variables.ts";
import { parseWorkerConfig } from "../../runtime/config.ts";
import { deployment, settings } from "./deployment.ts";

/** Fields of the pod that have a form of their own; the others are texts. */
const podFields: Readonly<Record<string, string>> = { "metadata.labels['enodia.dev/rank']": "0", "status.podIP": "" };

export function workerSettings(spec: object = {}): WorkerSettings {
  const facts = { deployment: deployment(spec), settings: { ...settings, natsUrl: undefined }, peersDns: "" };
  const env = renderEnv(workerProcess, facts).map((one) => {
    return [one.name, "value" in one ? one.value : (podFields[one.valueFrom.fieldRef.fieldPath] ?? "pod")] as const;
  });
  return parseWorkerConfig(Object.fromEntries(env));
}
