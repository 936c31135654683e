// The environment of the `enodia` command, read here and nowhere else in the CLI: everything that has an option is an option, and
// these belong to the user's machine rather than to one line. kubectl's own KUBECONFIG is read by its client.
import { homedir } from "node:os";
import { join } from "node:path";
import { type SourceSecret, sourceSecretKeys } from "../../crds/model.ts";

const env = process.env;

/** Downloads and default outputs lie here when --cache names no other folder. */
export const cacheFolder = (): string => env.ENODIA_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "enodia");

/** What downloads of models are authorised by and where from, as the tools of the sources name it; each goes to its source alone. */
export const sourceSecrets = (): Record<SourceSecret, string | undefined> =>
  Object.fromEntries(sourceSecretKeys.map((key) => [key, env[key]?.trim() || undefined])) as Record<SourceSecret, string | undefined>;

/** True when errors are to be shown with their stack traces. */
export const showsTraces = (): boolean => env.ENODIA_LOG_LEVEL === "debug";
