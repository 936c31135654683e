// A worker in a process of its own, as a pod has it, told by messages instead of an environment. Entry of that process; processes.ts
// starts it.
import { silentLog } from "../../../runtime/observe/log.ts";
import { fixedTls, type TlsMaterial } from "../../../runtime/wire/tls.ts";
import { startWorker, type WorkerOptions } from "../../../runtime/worker/worker.ts";

export interface Start {
  readonly options: WorkerOptions;
  readonly tls: TlsMaterial;
}

process.once("message", async ({ options, tls: { cert, key, ca } }: Start) => {
  const tls = fixedTls({ cert: Buffer.from(cert), key: Buffer.from(key), ca: Buffer.from(ca) });
  const { grpcPort, metricsPort, identity } = await startWorker(options, { log: silentLog, tls });
  process.on("message", () => {
    const { user, system } = process.cpuUsage();
    process.send?.({ cpuMicroseconds: user + system });
  });
  process.send?.({ grpcPort, metricsPort, identity });
});
process.on("disconnect", () => process.exit(0));
