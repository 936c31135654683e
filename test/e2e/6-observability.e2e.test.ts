// Every metric and label that the dashboard Experts and the alerts of deployments use is there when the running pods are scraped; those
// of training jobs are 17-training's to see.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { alerts } from "../../operator/dashboards/alerts.ts";
import { dashboardExpressions, type Use, usesOf } from "../../operator/dashboards/expressions.ts";
import { startLoad } from "../harness/load.ts";
import { sleep } from "../harness/process.ts";
import { kubectlOf, root, systemNamespace, type Target } from "../harness/product.ts";
import { type Sample, scrape } from "../harness/scrape.ts";
import { explainFailures } from "./diagnose.ts";
import { type Deployed, deploy, openWorld, remove, smolMoe } from "./world.ts";

/** Three windows of load, a plan, and what is measured after it. */
const seenWithinMs = 90_000;
const lookEveryMs = 3_000;

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
});
after(async () => {
  if (moe) await remove(moe);
});

function expressions(): string[] {
  const dashboard: unknown = JSON.parse(readFileSync(join(root, "charts/enodia/dashboards/experts.json"), "utf8"));
  const asked = [...dashboardExpressions(dashboard), ...alerts].map(({ expr }) => expr);
  return asked.filter((expr) => !expr.includes("enodia_training_"));
}

async function scrapeAll(): Promise<Sample[]> {
  const system = kubectlOf(target, systemNamespace);
  const operators = await system.list("pods", "app.kubernetes.io/component=operator");
  const pods = await moe.kubectl.list("pods", "enodia.dev/deployment=observed");
  const samples: Sample[] = [];
  for (const pod of operators) samples.push(...(await scrape(system, systemNamespace, pod.metadata.name)));
  for (const pod of pods) samples.push(...(await scrape(moe.kubectl, moe.namespace, pod.metadata.name)));
  return samples;
}

const exports = (sample: Sample, use: Use): boolean =>
  sample.name === use.sample && use.labels.every((label) => label in sample.labels || label === "le");

test("the dashboard and the alerts only use metrics and labels that the pods export", async () => {
  const url = await moe.url();
  const load = startLoad({ url: () => url, model: "observed", clients: 4, topic: "code" });
  // Measured values go with each new plan and come with the next window: one look does not see everything.
  let missing = expressions().flatMap(usesOf);
  const end = Date.now() + seenWithinMs;
  while (missing.length > 0 && Date.now() < end) {
    await sleep(lookEveryMs);
    const samples = await scrapeAll();
    missing = missing.filter((use) => !samples.some((sample) => exports(sample, use)));
  }
  await load.stop();
  assert.equal(load.counts.failed, 0, load.errors[0]);
  assert.deepEqual([...new Set(missing.map((use) => `${use.sample}{${use.labels.join(",")}}`))], []);
});
