// Composition root of the runtime images: `node runtime/main.ts worker|gateway|trainer|checker|downloader|weight-server`. It reads
// the environment, starts the role, and on SIGTERM lets it end its work.

import { AppError } from "../crds/common.ts";
import packageJson from "../package.json" with { type: "json" };
import {
  parseCheckerConfig,
  parseDownloaderConfig,
  parseGatewayConfig,
  parseTrainerConfig,
  parseWeightServerConfig,
  parseWorkerConfig,
  parseWorkerLifetime,
} from "./config.ts";

/** The time that a gateway closes in, below its pod's termination grace period of 60 s, so that closing is orderly. */
const gatewayGraceMs = 45_000;
/** What a worker has left to close in when it has handed over, or its time for that is over. */
const workerCloseMs = 2_000;

interface Process {
  /** Of a role whose work has an end: that end, with the exit code where it is a number. */
  readonly ended?: Promise<unknown>;
  close(): Promise<void>;
}

const roles: Readonly<Record<string, () => Promise<Process>>> = {
  worker: async () => {
    const { startWorker } = await import("./worker/worker.ts");
    const graceMs = parseWorkerLifetime(process.env).graceSeconds * 1000;
    const worker = await startWorker({ ...parseWorkerConfig(process.env), version: packageJson.version });
    const close = async () => {
      await worker.handOver(graceMs);
      await worker.close(workerCloseMs);
    };
    return { close };
  },
  gateway: async () => {
    const { startGateway } = await import("./gateway/gateway.ts");
    const gateway = await startGateway({ ...parseGatewayConfig(process.env), version: packageJson.version });
    return { close: () => gateway.close(gatewayGraceMs) };
  },
  trainer: async () => {
    const { startTrainer } = await import("./train/pod/trainer.ts");
    return startTrainer(parseTrainerConfig(process.env));
  },
  checker: async () => {
    const { checkJob } = await import("./train/pod/check-job.ts");
    return { ended: checkJob(parseCheckerConfig(process.env)), close: async () => {} }; // it holds nothing that an end would lose
  },
  downloader: async () => {
    const { startDownloader } = await import("./modelstore/delivery/downloader.ts");
    return startDownloader(parseDownloaderConfig(process.env));
  },
  "weight-server": async () => {
    const { startWeightServer } = await import("./modelstore/weight-server/weight-server.ts");
    return startWeightServer(parseWeightServerConfig(process.env));
  },
};

/** The exit code of a role that was told to stop, where ending well would mean that its work is done. */
const unfinishedCode: Readonly<Record<string, number>> = { downloader: 1 };

/** Returns the exit code. */
async function main(): Promise<number> {
  const role = process.argv[2] ?? "";
  const start = roles[role];
  if (start === undefined) throw new AppError(`usage: node runtime/main.ts ${Object.keys(roles).join("|")}`, { code: "InvalidConfig" });
  const stop = new Promise<void>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve());
  });
  const running = await Promise.race([start(), stop.then(() => undefined)]);
  const unfinished = unfinishedCode[role] ?? 0;
  if (running === undefined) return unfinished; // told to stop before it had started
  const code = await Promise.race([stop.then(() => unfinished), ...(running.ended ? [running.ended] : [])]);
  await running.close();
  return typeof code === "number" ? code : 0;
}

main().then(
  (code) => process.exit(code),
  (caught) => {
    const error = AppError.from(caught);
    process.stderr.write(`${JSON.stringify({ level: "fatal", code: error.code, message: error.message })}\n`);
    process.exit(1);
  },
);
