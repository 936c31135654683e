// The contract of a rank (test/contract/rank.ts) for a real worker with the tiny model.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after } from "node:test";
import { encodeTelemetryKeys } from "../../crds/telemetry-keys.ts";
import { loadEveryMs, place, rankContract } from "../../test/contract/rank.ts";
import { tinyStore } from "../../test/kit/ranks/ranks.ts";
import { telemetryKey } from "../../test/kit/ranks/telemetry-keys.ts";
import { workerSettings } from "../../test/kit/ranks/worker-settings.ts";
import { silentLog } from "../observe/log.ts";
import { startWorker } from "./worker.ts";

const store = await tinyStore();
const telemetryKeys = join(store.dir, "keys");
writeFileSync(telemetryKeys, encodeTelemetryKeys([telemetryKey(1)]));
after(() => store.remove());

rankContract({
  name: "worker",
  open: async ({ tls, bus }) => {
    const ownPorts = { grpcPort: 0, enginePort: 0, metricsPort: 0, probePort: 0, host: "127.0.0.1" };
    const engine = { maxContext: 256, backend: "cpu", codec: "f32", kvPoolBytes: 4 << 20, expertBudgetBytes: 1 << 30, threads: 1 } as const;
    const pod = { rank: 0, podName: "rank-0", podUid: "uid-0", modelDir: store.dir, tlsDir: "", version: "test" };
    const telemetry = { telemetryKeys, natsPrefix: "enodia", telemetryWindowMs: loadEveryMs };
    const worker = await startWorker(
      { ...workerSettings(), ...place, ...pod, ...ownPorts, ...engine, ...telemetry },
      { log: silentLog, tls, bus },
    );
    const { identity, grpcPort } = worker;
    return { identity, grpcPort, hidden: store.index.hidden, close: () => worker.close(0) };
  },
});
