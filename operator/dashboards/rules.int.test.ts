// The chart's rules as Prometheus reads them: promtool checks them and evaluates them on series of a healthy fleet and of every fault
// that an alert is for. The chart is rendered by Helm, so that what is judged is what is installed.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parse, parseAllDocuments, stringify } from "yaml";
import { type Binaries, ensureBinaries } from "../../test/cluster/binaries.ts";
import { type Fault, faults, healthy } from "../../test/kit/dashboards/alert-faults.ts";
import { root } from "../../test/kit/deployment/product.ts";
import { exec, execOk } from "../../test/kit/processes/process.ts";
import { alerts } from "./alerts.ts";

const chart = join(root, "charts/enodia");
let binaries: Binaries;
let folder: string;
/** The rules of the chart, by Helm. */
let rules: { groups: { name: string; rules: any[] }[] };

before(
  async () => {
    const only = ["helm", "promtool"] as const;
    binaries = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only });
    folder = mkdtempSync(join(tmpdir(), "enodia-rules-"));
    const set = "monitoring.prometheusRule.enabled=true";
    const text = await execOk(binaries.helm, ["template", "enodia", chart, "--set", set]);
    rules = parseAllDocuments(text)
      .map((document) => document.toJS())
      .find((object) => object?.kind === "PrometheusRule").spec;
    writeFileSync(join(folder, "rules.yml"), stringify(rules));
  },
  { timeout: 1_200_000 },
);
after(() => rmSync(folder, { recursive: true, force: true }));

test("promtool finds nothing wrong with the rules, and the plain file has the same", async () => {
  await execOk(binaries.promtool, ["check", "rules", "--lint=all", "--lint-fatal", join(folder, "rules.yml")]);
  assert.deepEqual(parse(readFileSync(join(chart, "rules/enodia.yaml"), "utf8")), rules);
});

const severities = new Map(alerts.map(({ alert, severity }) => [alert, severity]));
const labelsText = (labels: Readonly<Record<string, string>>): string =>
  Object.entries(labels)
    .map(([label, value]) => `${label}="${value}"`)
    .join(", ");

/** A fault as one of promtool's tests. All alerts that fire are compared, not those alone that should. */
function unitTest([what, series, firing, values = {}]: Fault): object {
  const all = Object.entries({ ...healthy, ...series } satisfies Record<string, string | undefined>);
  const present = all.filter((one): one is [string, string] => one[1] !== undefined);
  const fired = Object.entries(firing).map(([at, those]) => ({
    expr: 'ALERTS{alertstate="firing"}',
    eval_time: at,
    exp_samples: Object.entries(those).map(([alertname, labels]) => ({
      labels: `ALERTS{${labelsText({ alertname, alertstate: "firing", severity: severities.get(alertname) ?? "", ...labels })}}`,
      value: 1,
    })),
  }));
  const worth = Object.entries(values).map(([expr, { at, value }]) => ({
    // The value alone: rounded, since rates are extrapolated.
    expr: `round(max(${expr}), 0.0001)`,
    eval_time: at,
    exp_samples: [{ labels: "{}", value }],
  }));
  return {
    name: what,
    interval: "1m",
    input_series: present.map(([selector, points]) => ({ series: selector, values: points })),
    promql_expr_test: [...fired, ...worth],
  };
}

async function evaluate(tests: readonly Fault[]): Promise<{ code: number; output: string }> {
  const file = join(folder, "faults.yml");
  writeFileSync(file, stringify({ rule_files: ["rules.yml"], evaluation_interval: "1m", tests: tests.map(unitTest) }));
  const { code, stdout, stderr } = await exec(binaries.promtool, ["test", "rules", file], { timeoutMs: 120_000 });
  return { code, output: `${stdout}${stderr}` };
}

test("every alert fires in its fault after its time, with its labels, and in no other", { timeout: 150_000 }, async () => {
  const { code, output } = await evaluate(faults);
  assert.equal(code, 0, output);
  const fired = new Set(faults.flatMap(([, , firing]) => Object.values(firing).flatMap((those) => Object.keys(those))));
  assert.deepEqual([...fired].sort(), alerts.map(({ alert }) => alert).sort());
});

test("an alert that should fire and does not, and one that should not and does, are found", async () => {
  const silent = await evaluate([["silent", {}, { "30m": { EnodiaNoLeader: {} } }]]);
  assert.notEqual(silent.code, 0);
  assert.match(silent.output, /EnodiaNoLeader/);
  const loud = await evaluate([["loud", { 'enodia_operator_leader{pod="operator-0"}': undefined }, { "30m": {} }]]);
  assert.notEqual(loud.code, 0);
  assert.match(loud.output, /EnodiaNoLeader/);
});
