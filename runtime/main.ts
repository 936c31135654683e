// Entry point of the runtime images: `node runtime/main.ts worker|gateway|trainer|checker|downloader|weight-server`. SIGTERM closes the
// role.

import { writeFileSync } from "node:fs";
import { AppError } from "../crds/common.ts";
import { endFile, processEndText } from "../crds/process-end.ts";
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

/** The pod's termination grace period is 60 s. */
const gatewayGraceMs = 45_000;
const workerCloseMs = 2_000;

interface Process {
  /** Resolves when a role finishes by itself; a number is the exit code. */
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
    return { ended: checkJob(parseCheckerConfig(process.env)), close: async () => {} }; // it has no state to save
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

/** Exit codes of roles that were stopped before they finished. */
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
  if (running === undefined) return unfinished; // stopped before the start
  const code = await Promise.race([stop.then(() => unfinished), ...(running.ended ? [running.ended] : [])]);
  await running.close();
  return typeof code === "number" ? code : 0;
}

/** Roles whose other ends write a termination message of their own. */
const ownEnds: readonly string[] = ["trainer", "checker", "downloader"];

function fail(caught: unknown): never {
  const { code, message } = AppError.from(caught);
  if (caught instanceof Error && !(caught instanceof AppError)) process.stderr.write(`${caught.stack}\n`);
  const text = processEndText({ code, message });
  process.stderr.write(`${text}\n`);
  try {
    // Never made: outside of a pod there is none.
    if (!ownEnds.includes(process.argv[2] ?? "")) writeFileSync(endFile, text, { flag: "r+" });
  } catch {
    // The log has it.
  }
  process.exit(1);
}

process.on("uncaughtException", fail);
main().then((code) => process.exit(code), fail);
