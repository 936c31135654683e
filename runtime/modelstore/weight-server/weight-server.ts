// The weight server: serves a store's files and experts to ranks (DECISIONS.md 5).
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import type { WeightServerSettings } from "../../../crds/weight-server.ts";
import { shardSource } from "../../experts/memory/shard-server.ts";
import { StoreReads } from "../../experts/memory/store-reads.ts";
import { TransferPace } from "../../experts/memory/transfer-pace.ts";
import { refusalReport } from "../../net/connections.ts";
import { storeFiles } from "../../net/file-lists.ts";
import { fileSources, hashFiles } from "../../net/file-reads.ts";
import { type Caller, callerOf, createServer, type GrpcServer } from "../../net/grpc.ts";
import { ReadHost } from "../../net/read-host.ts";
import { folderTls, type TlsSource } from "../../net/tls.ts";
import { createHealth, type Health, serveProbes } from "../../observe/health.ts";
import { createLog, type Log } from "../../observe/log.ts";
import type { ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import { deliver } from "../delivery/deliver.ts";
import { Progress } from "../delivery/download-progress.ts";
import { secretOf } from "../delivery/downloader.ts";
import { serveProgress } from "../delivery/progress-server.ts";

/** Retry delay of a failed download. */
const retryMs = 120_000;
const closeMs = 2_000;

export interface WeightServerProcess {
  /** Resolves to the port. */
  readonly serving: Promise<number>;
  readonly health: Health;
  readonly progressPort: number;
  /** Rejects with a fatal error. */
  readonly ended: Promise<never>;
  close(): Promise<void>;
}

interface Overrides {
  /** Default: all addresses. */
  readonly host?: string;
  readonly tls?: TlsSource;
  readonly log?: Log;
}

export async function startWeightServer(settings: WeightServerSettings, overrides: Overrides = {}): Promise<WeightServerProcess> {
  const { namespace, deployment, podUid, tlsDir, progressPort: port, probePort, logLevel, uri } = settings;
  const { host = "0.0.0.0" } = overrides;
  const log = overrides.log ?? createLog({ level: logLevel, name: "weight-server", fields: { namespace, deployment, uri } });
  const health = createHealth({ start: "opening the model", members: "the operator has yet to say which pods are members" });
  const tls = overrides.tls ?? folderTls(tlsDir);
  const progress = new WeightServerProgress(podUid);
  const probes = await serveProbes({ health, probePort, host, log });
  const opened: { store?: ModelStore } = {};
  const members = new Set<string>();
  const onMembers = (podUids: readonly string[]) => {
    members.clear();
    for (const uid of podUids) members.add(uid);
    health.ready("members");
  };
  const message = () => progress.message();
  const progressServer = await serveProgress({ namespace, deployment, tls, host, port, log, message, onMembers });
  const stop = new AbortController();
  const server = createServer(tls, refusalReport("weights", { log }));
  const parts = { settings, log, health, server, progress, signal: stop.signal, host, opened, members };
  const serving = serve(parts);
  const ended = serving.then(() => new Promise<never>(() => {}));
  ended.catch(() => {}); // the caller handles it
  const close = async () => {
    stop.abort();
    health.notReady("stopping", "the process was told to stop");
    await server.close(closeMs);
    await opened.store?.close();
    await Promise.all([probes.close(), progressServer.close()]);
    tls.close();
  };
  return { serving, health, progressPort: progressServer.port, ended, close };
}

class WeightServerProgress extends Progress {
  #failure: { readonly reason: string; readonly message: string } | undefined;

  failed(failure: { readonly reason: string; readonly message: string } | undefined): void {
    this.#failure = failure;
  }
  override message(): ReturnType<Progress["message"]> {
    return { ...super.message(), ...this.#failure };
  }
}

interface Parts {
  readonly settings: WeightServerSettings;
  readonly log: Log;
  readonly health: Health;
  readonly server: GrpcServer;
  readonly progress: WeightServerProgress;
  readonly signal: AbortSignal;
  readonly host: string;
  readonly opened: { store?: ModelStore };
  /** Uids of pods; nobody is served before the operator has told them (DECISIONS.md 5). */
  readonly members: ReadonlySet<string>;
}

/** Returns the port. */
async function serve({ settings, log, health, server, progress, signal, host, opened, members }: Parts): Promise<number> {
  const { namespace, deployment, deploymentUid, target, codec, grpcPort, sizeLimitBytes } = settings;
  if (sizeLimitBytes !== undefined) await download({ settings, log, health, progress, signal });
  health.notReady("start", `opening ${target}`);
  const store = await openStore(target);
  opened.store = store;
  const { modelDigest, codecs } = store.index;
  if (codecs[codec] === undefined)
    throw new AppError(`${target}: has not the codec ${codec}, it has ${Object.keys(codecs).join(", ")}`, { code: "CodecNotFound" });
  health.notReady("start", "hashing the files that ranks need whole");
  const files = await hashFiles(target, storeFiles);
  const authorize = (call: Caller) => {
    const { role, podName, podUid } = callerOf(call, namespace, deployment);
    if (role !== "worker") throw new AppError(`a ${role} may not call this`, { code: "Forbidden", operation: "weight-server" });
    if (!podUid || !members.has(podUid))
      throw new AppError(`pod ${podName} is not a member, or not yet`, { code: "Forbidden", operation: "weight-server", retry: "backoff" });
  };
  let servedBytes = 0;
  const onServed = (bytes: number) => {
    servedBytes += bytes;
  };
  const unit = shardSource({
    store,
    reads: new StoreReads(store, codec),
    codec,
    // It has no token traffic to yield to.
    pace: new TransferPace({ onChange: () => {} }),
    hosts: () => true,
    authorize,
    onServed,
  });
  const folder = { dir: target, digest: modelDigest, files };
  server.addReads(new ReadHost({ unit, ...fileSources({ folder, codec, authorize, onServed }) }), deploymentUid, authorize);
  const port = await server.listen(host, grpcPort);
  signal.addEventListener("abort", () => log.info({ servedBytes }, "the weight server ends"));
  progress.phase("Done");
  health.ready("start");
  log.info({ target, modelDigest, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) }, "the weight server serves");
  return port;
}

/** A source may recover; a corrected Secret or limit comes with a new pod. */
async function download({ settings, log, health, progress, signal }: Omit<Parts, "server" | "host" | "opened" | "members">): Promise<void> {
  const { uri, target, work, codec, sizeLimitBytes } = settings;
  health.notReady("start", "downloading the model");
  for (;;) {
    try {
      const secret = await secretOf(settings);
      const { revision, modelDigest } = await deliver({
        uri,
        target,
        work,
        codec,
        secret,
        capacityBytes: sizeLimitBytes,
        events: progress,
        http: { signal },
      });
      log.info({ target, revision, modelDigest }, "the model is there");
      return;
    } catch (caught) {
      signal.throwIfAborted();
      const { code, message } = AppError.from(caught, "downloading the model");
      log.error({ err: caught }, "the model could not be delivered");
      progress.failed({ reason: code, message: `${message.slice(0, 900)}; it is tried again ${retryMs / 1000} s after that` });
      await sleep(retryMs, undefined, { signal });
      progress.failed(undefined);
    }
  }
}
