// Composition root of the runtime image: `node runtime/main.ts worker|gateway`. Reads the environment, starts the role, and
// on SIGTERM lets it end its work. Knows no details of either role.

import { AppError } from "../crds/common.ts";
import packageJson from "../package.json" with { type: "json" };
import { parseGatewayConfig, parseWorkerConfig } from "./config.ts";

/** The time to close in, below the pod's termination grace period of 60 s, so that closing is orderly. */
const graceMs = 45_000;

interface Process {
  close(graceMs: number): Promise<void>;
}

const roles: Readonly<Record<string, () => Promise<Process>>> = {
  worker: async () => {
    const { startWorker } = await import("./worker/worker.ts");
    return startWorker({ ...parseWorkerConfig(process.env), version: packageJson.version });
  },
  gateway: async () => {
    const { startGateway } = await import("./gateway/gateway.ts");
    return startGateway({ ...parseGatewayConfig(process.env), version: packageJson.version });
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
  await stop;
  await running.close(graceMs);
}

main().then(
  () => process.exit(0),
  (caught) => {
    const error = AppError.from(caught);
    process.stderr.write(`${JSON.stringify({ level: "fatal", code: error.code, message: error.message })}\n`);
    process.exit(1);
  },
);
