// The environment of the `enodia` command, read here and nowhere else in the CLI: everything that has an option is an option, and
// these belong to the user's machine rather than to one line. kubectl's own KUBECONFIG is read by its client.
import { homedir } from "node:os";
import { join } from "node:path";

const env = process.env;

/** Downloads and default outputs lie here when --cache names no other folder. */
export const cacheFolder = (): string => env.ENODIA_CACHE ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "enodia");

/** Access token for gated and private models; sent to the hub alone. */
export const hubToken = (): string | undefined => env.HF_TOKEN?.trim() || undefined;

/** True when errors are to be shown with their stack traces. */
export const showsTraces = (): boolean => env.ENODIA_LOG_LEVEL === "debug";
