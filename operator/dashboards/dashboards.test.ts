// Dashboards and alerts ask Prometheus only for what is in the table of metrics; that pods export it is e2e's to see.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import type { MetricDefinition } from "../../crds/metric-definition.ts";
import { metricLabelNames, metricOfSample, metricTable } from "../../crds/metrics.ts";
import { trainingFailures } from "../../crds/names.ts";
import { type Asked, dashboardExpressions, recordedLabels, usesOf } from "../../test/kit/dashboards/expressions.ts";
import { alerts, recordings } from "./alerts.ts";
import { dashboards } from "./dashboards.ts";

const expressions: readonly Asked[] = [
  ...Object.values(dashboards).flatMap((build) => dashboardExpressions(build())),
  ...alerts.map(({ alert, expr }) => ({ where: alert, expr })),
  ...recordings.map(({ record, expr }) => ({ where: record, expr })),
];

/** The faults in the metrics, labels and label values of an expression. */
function unknown(expr: string): string[] {
  return usesOf(expr).flatMap(({ sample, labels, selected }) => {
    if (sample.includes(":")) return unrecorded(sample, labels);
    const name = metricOfSample(sample);
    if (name === undefined) return [`${sample} is no metric`];
    const definition: MetricDefinition = metricTable[name];
    const known = [...metricLabelNames(name), "le"];
    const values = selected.filter(({ label, value }) => {
      const allowed = definition.labels[label];
      return allowed !== undefined && allowed !== "open" && !allowed.includes(value);
    });
    return [
      ...labels.filter((label) => !known.includes(label)).map((label) => `${name} has no label ${label}`),
      ...values.map(({ label, value }) => `${name}: ${label} is never ${value}`),
    ];
  });
}

function unrecorded(sample: string, labels: readonly string[]): string[] {
  const found = recordings.filter(({ record }) => record === sample);
  if (found.length === 0) return [`${sample} is not recorded`];
  const known = new Set(found.flatMap(recordedLabels));
  return labels.filter((label) => !known.has(label)).map((label) => `${sample} has no label ${label}`);
}

test("every metric, label and label value of the dashboards and the alerts is in the table", () => {
  assert.ok(expressions.length > 20);
  assert.deepEqual(
    expressions.flatMap(({ where, expr }) => unknown(expr).map((problem) => `${where}: ${problem}`)),
    [],
  );
  assert.deepEqual(unknown('sum by (rank) (enodia_deployment_ranks{state="gone"}) + enodia_none'), [
    "enodia_deployment_ranks has no label rank",
    "enodia_deployment_ranks: state is never gone",
    "enodia_none is no metric",
  ]);
  assert.deepEqual(unknown("sum by (rank) (deployment:enodia_gateway_requests:rate5m) + deployment:enodia_none:sum"), [
    "deployment:enodia_gateway_requests:rate5m has no label rank",
    "deployment:enodia_none:sum is not recorded",
  ]);
  assert.deepEqual(unknown("max by (type) (enodia_deployment_condition) and max by (plan) (enodia_operator_leader)"), [
    "enodia_operator_leader has no label plan",
  ]);
  assert.deepEqual(unknown('label_values(enodia_deployment_replicas{pod="x"}, node)'), [
    "enodia_deployment_replicas has no label node",
    "enodia_deployment_replicas has no label pod",
  ]);
});

test("variables, annotations and panels of collapsed rows are read as well as panels", () => {
  const places = expressions.map(({ where }) => where);
  for (const where of [
    "variable namespace",
    "variable deployment",
    "annotation Rebalances",
    "Bytes moved",
    "EnodiaNoLeader",
    "variable training_job",
    "Gradient norm",
  ])
    assert.ok(places.includes(where), where);
  const dashboard = {
    panels: [{ title: "row", panels: [{ title: "inner", targets: [{ expr: "a" }, {}] }] }],
    templating: {
      list: [
        { name: "v", type: "query", query: { query: "b" } },
        { name: "c", type: "custom", query: "1,2" },
      ],
    },
    annotations: { list: [{ name: "built in" }, { name: "n", target: { expr: "c" } }] },
  };
  assert.deepEqual(dashboardExpressions(dashboard), [
    { where: "inner", expr: "a" },
    { where: "variable v", expr: "b" },
    { where: "annotation n", expr: "c" },
  ]);
});

test("each dashboard leads to all, with the time and the variables that are chosen", () => {
  for (const build of Object.values(dashboards)) {
    const { tags = [], links = [] } = build();
    const { type, tags: linked = [], includeVars, keepTime } = links[0] ?? {};
    assert.deepEqual([type, includeVars, keepTime, linked.every((tag) => tags.includes(tag))], ["dashboards", true, true, true]);
  }
});

test("every recording is asked for at least twice, under a name that says its level", () => {
  for (const { record } of recordings) {
    assert.match(record, /^deployment(_type)?:enodia_\w+:\w+$/);
    const asked = expressions.filter(({ expr }) => usesOf(expr).some(({ sample }) => sample === record));
    assert.ok(asked.length >= 2, record);
  }
});

test("ranks of different deployments are never one series", () => {
  const merged = expressions.filter(({ expr }) => /by \(rank\)/.test(expr)).map(({ where }) => where);
  assert.deepEqual(merged, []);
});

test("an alert fires when no operator is there to fire the others", () => {
  assert.ok(alerts.some(({ expr, severity }) => expr === "absent(enodia_operator_leader == 1)" && severity === "critical"));
});

test("a dashboard shows every gauge of training jobs, and none is asked for without the job", () => {
  const training = dashboardExpressions(dashboards.training?.()).flatMap(({ expr }) => usesOf(expr));
  const shown = new Set(training.map(({ sample }) => sample));
  const ofJobs = Object.keys(metricTable).filter((name) => name.startsWith("enodia_training_"));
  assert.ok(ofJobs.length > 10);
  const onlyForAlerts = ["enodia_training_created_timestamp_seconds"];
  assert.deepEqual(
    ofJobs.filter((name) => !shown.has(name)),
    onlyForAlerts,
  );
  const series = expressions.filter(({ expr }) => expr.includes("enodia_training_") && / by \(/.test(expr));
  const merged = series.filter(({ expr }) => !/ by \(training_namespace, training_job[,)]/.test(expr)).map(({ where }) => where);
  assert.deepEqual(merged, []);
});

test("each way in which a job fails for good has one alert", () => {
  const asked = alerts.flatMap(({ expr }) => [...expr.matchAll(/enodia_training_failed\{reason(!?=)"(\w+)"\}/g)]);
  for (const failure of trainingFailures) {
    const firing = asked.filter(([, operator, reason]) => (operator === "=") === (reason === failure));
    assert.equal(firing.length, 1, failure);
  }
});

const runbooks = new URL("../../charts/enodia/docs/runbooks/", import.meta.url);

test("every alert has its runbook and every runbook its alert", () => {
  const pages = readdirSync(runbooks).sort();
  assert.deepEqual(pages, alerts.map(({ alert }) => `${alert}.md`).sort());
  for (const page of pages) {
    const text = readFileSync(new URL(page, runbooks), "utf8");
    const headings = [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => heading);
    assert.deepEqual(headings, [page.slice(0, -".md".length), "Meaning", "See", "Do"], page);
  }
});

test("every alert is in the chart's guide and in its values", () => {
  for (const file of ["README.md", "values.yaml"]) {
    const text = readFileSync(new URL(`../../charts/enodia/${file}`, import.meta.url), "utf8");
    const missing = alerts.map(({ alert }) => alert).filter((alert) => !text.includes(alert));
    assert.deepEqual(missing, [], file);
  }
});

const page = readFileSync(new URL("../docs/monitoring.md", import.meta.url), "utf8");
const section = page.slice(page.indexOf("\n### Panels that the page has too"));

/** The names in both columns of a dashboard's row. */
const told = (dashboard: string): string[] =>
  [...section.matchAll(/^\| (\w+) \| (.*) \| (.*) \|$/gm)]
    .filter(([, name = ""]) => name.toLowerCase() === dashboard)
    .flatMap(([, , has = "", hasNot = ""]) => [has, hasNot].flatMap((names) => names.split("; ")))
    .sort();

for (const [name, build] of Object.entries(dashboards))
  test(`the guide tells of each panel of the dashboard ${name} once whether the page has it`, () => {
    const titles = (build().panels ?? []).flatMap(({ type, title }: { type: string; title?: string }) =>
      type === "row" ? [] : (title ?? []),
    );
    assert.ok(titles.length > 10);
    assert.deepEqual(told(name), [...new Set(titles)].sort());
  });
