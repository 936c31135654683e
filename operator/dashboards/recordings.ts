// Recording rules, named level:metric:operations. Generated into the chart.
import type { MoEDeploymentConditionType } from "../../crds/moe-deployment-status.ts";

export interface Recording {
  readonly record: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const byDeployment = "namespace, deployment";
/** Two scrapes at intervals up to two minutes. */
const window = "5m";

const quantiles = (histogram: string): Recording[] =>
  ["0.5", "0.99"].map((quantile) => ({
    record: `deployment:${histogram}:quantile_rate${window}`,
    expr: `histogram_quantile(${quantile}, sum by (${byDeployment}, le) (rate(${histogram}_bucket[${window}])))`,
    labels: { quantile },
  }));

/** Conditions that mean trouble while False; the next list while True. */
const troubleWhenFalse: readonly MoEDeploymentConditionType[] = ["Ready", "Available", "SpecAccepted", "ModelAvailable", "TelemetryFresh"];
const troubleWhenTrue: readonly MoEDeploymentConditionType[] = ["Degraded", "FieldConflict"];
const troubled = (types: readonly MoEDeploymentConditionType[], status: "True" | "False"): string =>
  `max by (${byDeployment}, type) (enodia_deployment_condition{type=~"${types.join("|")}", status="${status}"}) == 1`;
/** Neither suspended nor scaled to zero. */
const wantsRanks = `max by (${byDeployment}) (enodia_deployment_replicas{state="desired"}) > 0`;

const requests = `deployment:enodia_gateway_requests:rate${window}`;
const errors = `sum by (${byDeployment}) (rate(enodia_gateway_requests_total{code=~"5.."}[${window}]))`;

export const recordings: readonly Recording[] = [
  { record: requests, expr: `sum by (${byDeployment}) (rate(enodia_gateway_requests_total[${window}]))` },
  {
    record: `deployment:enodia_gateway_errors:ratio_rate${window}`,
    // A deployment without errors has no error series; one without requests has no ratio.
    expr: `(${errors} or 0 * ${requests}) / (${requests} > 0)`,
  },
  {
    record: `deployment:enodia_gateway_tokens:rate${window}`,
    expr: `sum by (${byDeployment}, kind) (rate(enodia_gateway_tokens_total[${window}]))`,
  },
  ...quantiles("enodia_gateway_time_to_first_token_seconds"),
  ...quantiles("enodia_gateway_inter_token_seconds"),
  {
    record: "deployment:enodia_worker_kv_used:ratio",
    expr: `sum by (${byDeployment}) (enodia_worker_kv_blocks{state="used"}) / sum by (${byDeployment}) (enodia_worker_kv_blocks)`,
  },
  {
    record: "deployment_type:enodia_deployment_trouble:bool",
    expr: `(${troubled(troubleWhenFalse, "False")} or ${troubled(troubleWhenTrue, "True")}) and on (${byDeployment}) (${wantsRanks})`,
  },
];

/** Labels of the recorded series. */
export function recordedLabels({ expr, labels = {} }: Recording): string[] {
  const grouped = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list = ""]) => list.split(",").map((label) => label.trim()));
  return [...new Set([...grouped.filter((label) => label !== "le"), ...Object.keys(labels)])].sort();
}
