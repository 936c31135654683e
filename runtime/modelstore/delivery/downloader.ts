// The process of a download Job, with progress answers and an end message for the kubelet.
import { lstat, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { AppError } from "../../../crds/common.ts";
import { type DownloadEnd, type DownloaderSettings, downloadEndText, hopelessExitCode } from "../../../crds/download.ts";
import type { SourceSecret } from "../../../crds/model.ts";
import { folderTls } from "../../net/tls.ts";
import { createLog, type Log } from "../../observe/log.ts";
import { diskError } from "../download/http.ts";
import { deliver } from "./deliver.ts";
import { Progress } from "./download-progress.ts";
import { serveProgress } from "./progress-server.ts";

export interface Downloader {
  /** Serves progress. */
  readonly port: number;
  /** The exit code, after the end message is written. */
  readonly ended: Promise<number>;
  /** Keeps the work folder for the next run. */
  close(): Promise<void>;
}

/** `host`: default all addresses. */
export async function startDownloader(
  settings: DownloaderSettings,
  { host = "0.0.0.0" }: { readonly host?: string } = {},
): Promise<Downloader> {
  const { namespace, deployment, podUid, tlsDir, progressPort, logLevel, uri } = settings;
  const log = createLog({ level: logLevel, name: "downloader", fields: { namespace, deployment, uri } });
  const progress = new Progress(podUid);
  const tls = folderTls(tlsDir);
  const message = () => progress.message();
  const server = await serveProgress({ namespace, deployment, tls, host, port: progressPort, log, message });
  const stop = new AbortController();
  const ended = run(settings, { progress, log, signal: stop.signal });
  return {
    port: server.port,
    ended,
    close: async () => {
      stop.abort();
      await ended.catch(() => undefined);
      await server.close();
      tls.close();
    },
  };
}

type DownloadSecrets = (key: SourceSecret) => string | undefined;

interface Parts {
  readonly progress: Progress;
  readonly log: Log;
  readonly signal: AbortSignal;
}

async function run(settings: DownloaderSettings, { progress, log, signal }: Parts): Promise<number> {
  const { uri, target, work, workInUse, codec, endFile } = settings;
  try {
    if (workInUse) await removeAbandoned(dirname(work), workInUse, log);
    const secret = await secretOf(settings);
    const { revision, modelDigest } = await deliver({ uri, target, work, codec, secret, events: progress, http: { signal } });
    log.info({ target, revision, modelDigest }, "the model is there");
    await leave(endFile, { reason: "Done", message: modelDigest, ...(revision !== undefined && { revision }) });
    return 0;
  } catch (caught) {
    const error = diskError(caught) ?? AppError.from(caught, "downloading the model");
    log.error({ err: error }, "the model could not be delivered");
    await leave(endFile, { reason: error.code, message: error.message });
    return error.retry === "never" ? hopelessExitCode : 1;
  }
}

/** These override the operator's settings; a CA among them is trusted from now on. */
export async function secretOf({ secretDir, hub }: Pick<DownloaderSettings, "secretDir" | "hub">): Promise<DownloadSecrets> {
  const keys = new Map<string, string>();
  for (const name of secretDir === undefined ? [] : await readdir(secretDir)) {
    // The kubelet's own links and folders begin with two dots.
    if (!name.startsWith("..")) keys.set(name, (await readFile(join(secretDir ?? "", name), "utf8")).trim());
  }
  const ca = keys.get("ca.crt");
  if (ca !== undefined) setDefaultCACertificates([...getCACertificates("default"), ca]);
  if (hub !== undefined && !keys.has("HF_ENDPOINT")) keys.set("HF_ENDPOINT", hub);
  return (key) => keys.get(key) || undefined;
}

const leave = (file: string, end: DownloadEnd): Promise<void> => writeFile(file, downloadEndText(end));

/** Names that only the operator makes. */
const workName = /^\.enodia-[0-9a-f]{16}$/;
/** A live download has written within this time, and a deployment that is missing in the list started within it. */
const idleMs = 24 * 3_600_000;
/** A larger folder is left alone. */
const entriesMax = 100_000;

/** `inUse`: folder names to keep at any age. Never throws: the download proceeds without the space. */
export async function removeAbandoned(claim: string, inUse: readonly string[], log: Pick<Log, "info" | "warn">): Promise<void> {
  try {
    const entries = await readdir(claim, { withFileTypes: true });
    const others = entries.filter((entry) => entry.isDirectory() && workName.test(entry.name) && !inUse.includes(entry.name));
    for (const { name } of others) {
      const folder = join(claim, name);
      const { newestMs, bytes } = await contentOf(folder);
      if (Date.now() - newestMs < idleMs) continue;
      await rm(folder, { recursive: true, force: true });
      log.info({ folder, bytes, lastWritten: new Date(newestMs).toISOString() }, "removed what a download left that no deployment has");
    }
  } catch (caught) {
    log.warn({ err: AppError.from(caught) }, "what former downloads left could not be removed");
  }
}

/** Latest change and size; links are not followed. */
async function contentOf(folder: string): Promise<{ readonly newestMs: number; readonly bytes: number }> {
  const below = await readdir(folder, { recursive: true, withFileTypes: true });
  if (below.length > entriesMax) return { newestMs: Number.POSITIVE_INFINITY, bytes: 0 };
  let newestMs = (await lstat(folder)).mtimeMs;
  let bytes = 0;
  for (const { parentPath, name } of below) {
    const info = await lstat(join(parentPath, name));
    newestMs = Math.max(newestMs, info.mtimeMs);
    if (info.isFile()) bytes += info.size;
  }
  return { newestMs, bytes };
}
