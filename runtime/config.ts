// Parses the environment of runtime processes by the rows in crds/ that the operator renders it from. Nothing else in runtime/ reads the
// environment.
import { type DownloaderSettings, downloaderProcess } from "../crds/download.ts";
import {
  type GatewaySettings,
  gatewayProcess,
  type WorkerLifetime,
  type WorkerSettings,
  workerLifetime,
  workerProcess,
} from "../crds/process.ts";
import { type CheckerSettings, checkerProcess, type TrainerSettings, trainerProcess } from "../crds/training-process.ts";
import { parseEnv } from "../crds/variables.ts";
import { type WeightServerSettings, weightServerProcess } from "../crds/weight-server.ts";

type Environment = Readonly<Record<string, string | undefined>>;

export const parseWorkerConfig = (env: Environment): WorkerSettings => parseEnv(workerProcess, env);
/** Seconds between SIGTERM and the worker's end. */
export const parseWorkerLifetime = (env: Environment): WorkerLifetime => parseEnv(workerLifetime, env);
export const parseGatewayConfig = (env: Environment): GatewaySettings => parseEnv(gatewayProcess, env);
export const parseTrainerConfig = (env: Environment): TrainerSettings => parseEnv(trainerProcess, env);
export const parseDownloaderConfig = (env: Environment): DownloaderSettings => parseEnv(downloaderProcess, env);
export const parseWeightServerConfig = (env: Environment): WeightServerSettings => parseEnv(weightServerProcess, env);
export const parseCheckerConfig = (env: Environment): CheckerSettings => parseEnv(checkerProcess, env);
