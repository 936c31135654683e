// A real Prometheus beside the cluster, configured by the chart's own monitors and rules, and the questions of the chart's dashboards as
// Grafana would ask them.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { ensureBinaries } from "../cluster/binaries.ts";
import { type Asked, dashboardExpressions } from "../kit/dashboards/expressions.ts";
import { release, root, systemNamespace, type Target } from "../kit/deployment/product.ts";
import { scrapeConfigs } from "../kit/processes/monitors.ts";
import { execOk } from "../kit/processes/process.ts";
import { type Prometheus, startPrometheus } from "../kit/processes/prometheus.ts";

const interval = "2s";
/** Alerts wait a sixtieth of their time: faults last for seconds here, and operator/dashboards/rules.int.test.ts has the times. */
const hurry = 60;

export async function openPrometheus(target: Target): Promise<Prometheus> {
  const { prometheus } = await ensureBinaries((line) => void process.stderr.write(`# ${line}\n`), { only: ["prometheus"] });
  const on = ["podMonitor", "serviceMonitor", "prometheusRule"].map((each) => `monitoring.${each}.enabled=true`).join(",");
  const chart = ["template", release, join(root, "charts/enodia"), "--namespace", systemNamespace, "--set", on];
  const objects = parseAllDocuments(await execOk(target.helm, chart)).flatMap((document) => document.toJS() ?? []);
  const { spec } = objects.find(({ kind }) => kind === "PrometheusRule");
  const config = {
    global: { scrape_interval: interval, evaluation_interval: interval },
    scrape_configs: scrapeConfigs(objects, { kubeconfig: target.kubeconfig ?? "", interval }),
  };
  return startPrometheus(prometheus, config, { groups: spec.groups.map(hurried) });
}

function hurried(group: { readonly name: string; readonly rules: readonly { readonly for?: string }[] }): object {
  const seconds = (text: string): number => Number.parseInt(text, 10) * (text.endsWith("m") ? 60 : 1);
  return { ...group, rules: group.rules.map((rule) => (rule.for ? { ...rule, for: `${seconds(rule.for) / hurry}s` } : rule)) };
}

/** Every question of a dashboard of the chart, with values in place of Grafana's variables. */
export function questionsOf(dashboard: string, variables: Readonly<Record<string, string>>): Asked[] {
  const json: unknown = JSON.parse(readFileSync(join(root, `charts/enodia/dashboards/${dashboard}.json`), "utf8"));
  return dashboardExpressions(json).map(({ where, expr }) => ({ where: `${dashboard}: ${where}`, expr: asQuery(expr, variables) }));
}

function asQuery(expr: string, variables: Readonly<Record<string, string>>): string {
  const filled = Object.entries({ __rate_interval: "20s", ...variables }).reduce(
    (text, [name, value]) => text.replaceAll(new RegExp(`\\$${name}\\b`, "g"), value),
    expr,
  );
  // A variable's values are those of a label.
  return filled.replace(/^label_values\((.*), (\w+)\)$/, "group by ($2) ($1)");
}

/** The questions that have no answer now, or one that is no number. */
export async function unanswered(prometheus: Prometheus, questions: readonly Asked[]): Promise<Asked[]> {
  const open: Asked[] = [];
  for (const question of questions) {
    const series = await prometheus.query(question.expr);
    if (!series.some(({ value }) => Number.isFinite(value))) open.push(question);
  }
  return open;
}
