// A real Prometheus scrapes a gateway's port as OpenMetrics: it takes every line, stores the exemplars, and has the same values as the
// older text has.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ensureBinaries } from "../../test/cluster/binaries.ts";
import { parse } from "../../test/kit/kube/scrape.ts";
import { until } from "../../test/kit/processes/process.ts";
import { type Prometheus, startPrometheus } from "../../test/kit/processes/prometheus.ts";
import { createHealth, type HealthServer, serveHealth } from "./health.ts";
import { silentLog } from "./log.ts";
import { createMetrics } from "./runtime-metrics.ts";

const traceId = "0af7651916cd43dd8448eb211c80319c";
const metrics = createMetrics({ process: "gateway", version: "0", constants: { namespace: "a", deployment: "b" } });
let server: HealthServer;
let prometheus: Prometheus;

before(
  async () => {
    const only = ["prometheus"] as const;
    const binaries = await ensureBinaries((line) => process.stderr.write(`${line}\n`), { only });
    server = await serveHealth({ health: createHealth(), metrics, probePort: 0, metricsPort: 0, host: "127.0.0.1", log: silentLog });
    const scraped = { job_name: "gateway", honor_labels: true, static_configs: [{ targets: [`127.0.0.1:${server.metricsPort}`] }] };
    const config = { global: { scrape_interval: "1s", scrape_timeout: "1s" }, scrape_configs: [scraped] };
    prometheus = await startPrometheus(binaries.prometheus, config, { groups: [] });
  },
  { timeout: 1_200_000 },
);
after(async () => {
  await prometheus?.stop();
  await server?.close();
  await metrics.close();
});

test("exemplars lead from a latency to its trace, and no series is lost on the way", { timeout: 60_000 }, async () => {
  metrics.add("enodia_gateway_tokens_total", 5, { kind: "output" });
  metrics.observeTraced(`00-${traceId}-b7ad6b7169203331-01`, "enodia_gateway_time_to_first_token_seconds", 0.3);
  metrics.observeTraced(`00-1${traceId.slice(1)}-b7ad6b7169203331-00`, "enodia_gateway_time_to_first_token_seconds", 4);
  const name = "enodia_gateway_time_to_first_token_seconds_bucket";
  const found = await until(
    "an exemplar",
    async () => ((await prometheus.exemplars(name)).length > 0 ? prometheus.exemplars(name) : undefined),
    { timeoutMs: 30_000 },
  );
  assert.deepEqual(
    found.map(({ seriesLabels, exemplars }) => [seriesLabels.le, exemplars.map(({ labels }) => labels.trace_id)]),
    [["0.5", [traceId]]],
  );
  const [target] = await prometheus.targets();
  assert.deepEqual([target?.health, target?.lastError], ["up", ""]);
  const names = new Set((await prometheus.query('{__name__=~"enodia_.+"}')).map(({ metric }) => metric.__name__));
  const missing = parse(await metrics.text()).filter((sample) => !names.has(sample.name));
  assert.deepEqual([...new Set(missing.map((sample) => sample.name))], []);
  const value = async (query: string) => (await prometheus.query(query))[0]?.value;
  assert.equal(await value('enodia_gateway_tokens_total{kind="output", namespace="a", deployment="b"}'), 5);
  assert.equal(await value("enodia_gateway_time_to_first_token_seconds_count"), 2);
});
