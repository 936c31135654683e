// What dashboard and alerts ask Prometheus for is in the table of metrics; that pods export it is e2e's to see.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type MetricDefinition, metricLabelNames, metricOfSample, metricTable } from "../../crds/metrics.ts";
import { alerts } from "./alerts.ts";
import { expertsDashboard } from "./experts.ts";

interface Panel {
  readonly title: string;
  readonly targets: readonly { readonly expr: string }[];
}

const panels = expertsDashboard().panels as unknown as readonly Panel[];
const expressions: readonly (readonly [where: string, expr: string])[] = [
  ...panels.flatMap(({ title, targets }) => targets.map(({ expr }) => [title, expr] as const)),
  ...alerts.map(({ alert, expr }) => [alert, expr] as const),
];

/** What is wrong with the metrics, labels and label values of an expression. */
function unknown(expr: string): string[] {
  const by = [...expr.matchAll(/by \(([^)]*)\)/g)].flatMap((match) => (match[1] ?? "").split(",").map((label) => label.trim()));
  return [...expr.matchAll(/(enodia_\w+)(?:\{([^}]*)\})?/g)].flatMap(([, sample = "", selector = ""]) => {
    const name = metricOfSample(sample);
    if (name === undefined) return [`${sample} is no metric`];
    const definition: MetricDefinition = metricTable[name];
    const known = [...metricLabelNames(name), "le"];
    const selected = [...selector.matchAll(/(\w+)=~?"([^"]*)"/g)].map(([, label = "", value = ""]) => ({ label, value }));
    const labels = [...by, ...selected.map(({ label }) => label)].filter((label) => !known.includes(label));
    const values = selected.filter(({ label, value }) => {
      const allowed = definition.labels[label];
      return allowed !== undefined && allowed !== "open" && !allowed.includes(value);
    });
    return [
      ...labels.map((label) => `${name} has no label ${label}`),
      ...values.map(({ label, value }) => `${name}: ${label} is never ${value}`),
    ];
  });
}

test("every metric, label and label value of the dashboard and the alerts is in the table", () => {
  assert.ok(expressions.length > 20);
  assert.deepEqual(
    expressions.flatMap(([where, expr]) => unknown(expr).map((problem) => `${where}: ${problem}`)),
    [],
  );
  assert.deepEqual(unknown('sum by (rank) (enodia_deployment_ranks{state="gone"}) + enodia_none'), [
    "enodia_deployment_ranks has no label rank",
    "enodia_deployment_ranks: state is never gone",
    "enodia_none is no metric",
  ]);
});

test("ranks of different deployments are never one series", () => {
  const merged = expressions.filter(([, expr]) => /by \(rank\)/.test(expr)).map(([where]) => where);
  assert.deepEqual(merged, []);
});

test("an alert fires when no operator is there to fire the others", () => {
  assert.ok(alerts.some(({ expr, severity }) => expr === "absent(enodia_operator_leader == 1)" && severity === "critical"));
});
