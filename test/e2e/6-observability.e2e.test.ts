// Every metric and label that the dashboard and the alerts use is there when the running pods are scraped.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { alerts } from "../../operator/dashboards/alerts.ts";
import { dashboardExpressions, usesOf } from "../../operator/dashboards/expressions.ts";
import { startLoad } from "../harness/load.ts";
import { sleep } from "../harness/process.ts";
import { kubectlOf, root, systemNamespace, type Target } from "../harness/product.ts";
import { type Sample, scrape } from "../harness/scrape.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

let target: Target;
let moe: Deployed;

explainFailures(() => moe);
before(async () => {
  target = await openWorld();
  moe = await deploy(
    target,
    "e2e-metrics",
    smolMoe("observed", {
      rebalancing: { mode: "Auto", interval: "2s", trigger: { imbalancePercent: 101, window: "2s", minTokens: 200 } },
    }),
  );
  const url = await moe.url();
  const load = startLoad({ url: () => url, model: "observed", clients: 4, topic: "code" });
  await sleep(25_000);
  await load.stop();
  assert.equal(load.counts.failed, 0, load.errors[0]);
});
after(async () => {
  if (moe) await remove(moe);
});

function expressions(): string[] {
  const dashboard: unknown = JSON.parse(readFileSync(join(root, "charts/enodia/dashboards/experts.json"), "utf8"));
  return [...dashboardExpressions(dashboard), ...alerts].map(({ expr }) => expr);
}

test("the dashboard and the alerts only use metrics and labels that the pods export", async () => {
  const system = kubectlOf(target, systemNamespace);
  const operators = await system.list("pods", "app.kubernetes.io/component=operator");
  const pods = await moe.kubectl.list("pods", "enodia.dev/deployment=observed");
  const samples: Sample[] = [];
  for (const pod of operators) samples.push(...(await scrape(system, systemNamespace, pod.metadata.name)));
  for (const pod of pods) samples.push(...(await scrape(moe.kubectl, moe.namespace, pod.metadata.name)));
  const missing = expressions()
    .flatMap(usesOf)
    .filter(
      (use) => !samples.some(({ name, labels }) => name === use.sample && use.labels.every((label) => label in labels || label === "le")),
    )
    .map((use) => `${use.sample}{${use.labels.join(",")}}`);
  assert.deepEqual([...new Set(missing)], []);
});
