// The environment of the `enodia` command, read nowhere else in the CLI. kubectl's KUBECONFIG is read by its client.
import { homedir } from "node:os";
import { join } from "node:path";
import { type SourceSecret, sourceSecretKeys } from "../../crds/model.ts";

const env = process.env;

/** Downloads and default outputs lie here when --cache names no other folder. */
export const cacheFolder = (): string => env.ENODIA_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "enodia");

/** Credentials and endpoints of downloads, by the source that gets them. */
export const sourceSecrets = (): Record<SourceSecret, string | undefined> =>
  Object.fromEntries(sourceSecretKeys.map((key) => [key, env[key]?.trim() || undefined])) as Record<SourceSecret, string | undefined>;

/** True when errors are to be shown with their stack traces. */
export const showsTraces = (): boolean => env.ENODIA_LOG_LEVEL === "debug";
