// Composition root of the runtime images: `node runtime/main.ts worker|gateway|trainer|checker`. Reads the environment, starts the role,
// and on SIGTERM lets it end its work. Knows no details of any role.

import { AppError } from "../crds/common.ts";
import packageJson from "../package.json" with { type: "json" };
import { parseCheckerConfig, parseGatewayConfig, parseTrainerConfig, parseWorkerConfig, parseWorkerLifetime } from "./config.ts";

/** The time that a gateway closes in, below its pod's termination grace period of 60 s, so that closing is orderly. */
const gatewayGraceMs = 45_000;
/** What a worker has left to close in when it has handed over, or its time for that is over. */
const workerCloseMs = 2_000;

interface Process {
  /** Of a role whose work has an end: that end. */
  readonly ended?: Promise<void>;
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
    const { startTrainer } = await import("./trainer/trainer.ts");
    return startTrainer(parseTrainerConfig(process.env));
  },
  checker: async () => {
    const { checkJob } = await import("./trainer/check.ts");
    return { ended: checkJob(parseCheckerConfig(process.env)), close: async () => {} }; // it holds nothing that an end would lose
  },
};

async function main(): Promise<void> {
  const start = roles[process.argv[2] ?? ""];
  if (start === undefined) throw new AppError(`usage: node runtime/main.ts ${Object.keys(roles).join("|")}`, { code: "InvalidConfig" });
  const stop = new Promise<void>((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => resolve());
  });
  const running = await Promise.race([start(), stop.then(() => undefined)]);
  if (running === undefined) return; // told to stop before it had started
  await Promise.race([stop, ...(running.ended ? [running.ended] : [])]);
  await running.close();
}

main().then(
  () => process.exit(0),
  (caught) => {
    const error = AppError.from(caught);
    process.stderr.write(`${JSON.stringify({ level: "fatal", code: error.code, message: error.message })}\n`);
    process.exit(1);
  },
);
