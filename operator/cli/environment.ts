// The CLI's environment variables. kubectl's KUBECONFIG is read by its client.
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";
import { type SourceSecret, sourceSecretKeys } from "../../crds/model.ts";

const env = process.env;
/** The threads that round matrices, hash and read files, unless they are set; libuv makes them when they are asked for first. */
env.UV_THREADPOOL_SIZE ??= String(Math.max(4, availableParallelism()));

/** Default folder of downloads and outputs. */
export const cacheFolder = (): string => env.ENODIA_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "enodia");

export const sourceSecrets = (): Record<SourceSecret, string | undefined> =>
  Object.fromEntries(sourceSecretKeys.map((key) => [key, env[key]?.trim() || undefined])) as Record<SourceSecret, string | undefined>;

export const showsTraces = (): boolean => env.ENODIA_LOG_LEVEL === "debug";

/** COLUMNS, as of a program that pipes this one, counts before the terminal; undefined where neither is known. */
export const columnsOf = (): number | undefined => Number(env.COLUMNS) || process.stdout.columns;
