// This builder makes the settings of a worker as the operator renders them and the process parses them, for suites that start
// workers without a cluster: no NATS, no peers to look up.
import { settingEntries, type WorkerSettings, workerProcess } from "../../../crds/process.ts";
import { type EnvVar, renderEnv } from "../../../crds/variables.ts";
import { parseWorkerConfig } from "../../../runtime/config.ts";
import { deployment, settings } from "../deployment/deployment.ts";

/** Fields of the pod that have a form of their own; the others are texts. */
const podFields: Readonly<Record<string, string>> = { "metadata.labels['enodia.dev/rank']": "0", "status.podIP": "" };

/** The environment as a process gets it: fields of the pod are filled in, and the entries of the ConfigMap of settings that are there. */
export function resolvedEnv(
  env: readonly EnvVar[],
  entries: Readonly<Record<string, string>>,
  field: (path: string) => string,
): Record<string, string> {
  const textOf = (one: EnvVar): string | undefined => {
    if ("value" in one) return one.value;
    return "fieldRef" in one.valueFrom ? field(one.valueFrom.fieldRef.fieldPath) : entries[one.valueFrom.configMapKeyRef.key];
  };
  return Object.fromEntries(
    env.flatMap((one) => {
      const value = textOf(one);
      return value === undefined ? [] : [[one.name, value]];
    }),
  );
}

export function workerSettings(spec: object = {}): WorkerSettings {
  const env = renderEnv(workerProcess, { deployment: deployment(spec), peersDns: "", settingsMap: "settings", modelFolder: "moe" });
  const entries = settingEntries({ ...settings, natsUrl: undefined }, deployment(spec).spec);
  return parseWorkerConfig(resolvedEnv(env, entries, (path) => podFields[path] ?? "pod"));
}
