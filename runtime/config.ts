// This file parses the environment of runtime processes, once at their start, by the rows of crds/process.ts from which the
// operator renders it. main.ts calls it; nothing else in runtime/ reads the environment.
import { type GatewaySettings, gatewayProcess, type WorkerSettings, workerProcess } from "../crds/process.ts";
import { parseEnv } from "../crds/variables.ts";

type Environment = Readonly<Record<string, string | undefined>>;

export const parseWorkerConfig = (env: Environment): WorkerSettings => parseEnv(workerProcess, env);
export const parseGatewayConfig = (env: Environment): GatewaySettings => parseEnv(gatewayProcess, env);
