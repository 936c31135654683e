// Checks the telemetry that the operator reports for each deployment.
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { resources } from "../../kube/kube.ts";
import { listed } from "../../views/format.ts";
import { type Check, conditionOf, type Outcome, ok, warn } from "./check.ts";

const namedMax = 4;

export interface TelemetryFacts {
  readonly name: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}

export function judgeTelemetry(facts: readonly TelemetryFacts[]): Outcome[] {
  const fresh = facts.filter(({ status }) => status === "True").length;
  const without = facts.filter(({ reason }) => reason === "NotConfigured");
  const stale = facts.filter(({ status }) => status === "False");
  const byReason = Map.groupBy(stale, ({ reason }) => reason);
  const outcomes = [...byReason].map(([reason, those]) => {
    const names = listed(
      those.map(({ name }) => name),
      namedMax,
    );
    return warn(
      `${reason}: ${names}: ${those[0]?.message}`,
      "serving goes on and nothing is balanced; the message above says what to mend",
    );
  });
  if (without.length > 0) {
    const names = listed(
      without.map(({ name }) => name),
      namedMax,
    );
    outcomes.push(
      warn(
        `no NATS server is named for ${names}: nothing is balanced`,
        "set the chart's nats.enabled or nats.url, or spec.telemetry.nats.url",
      ),
    );
  }
  return outcomes.length > 0 ? outcomes : [ok(`load of ${fresh} of ${facts.length} deployments is heard`)];
}

export const telemetry: Check = {
  name: "telemetry",
  when: "after",
  run: async ({ kube }) => {
    const { items } = await kube.list(resources.moeDeployments);
    return judgeTelemetry(
      items.map((object) => {
        const { namespace, name } = parseMoEDeployment(object).metadata;
        return { name: `${namespace}/${name}`, ...conditionOf(object, "TelemetryFresh") };
      }),
    );
  },
};
