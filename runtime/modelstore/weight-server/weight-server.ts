// The process of the weight server: it has a whole store, from a claim or downloaded, and gives ranks files and experts (DECISIONS.md 5).
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import type { WeightServerSettings } from "../../../crds/weight-server.ts";
import { createShardServer } from "../../experts/memory/shard-server.ts";
import { StoreReads } from "../../experts/memory/store-reads.ts";
import { TransferPace } from "../../experts/memory/transfer-pace.ts";
import { Shards, StoreFiles } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Caller, callerOf, createServer, type GrpcServer } from "../../net/grpc.ts";
import { folderTls, type TlsSource } from "../../net/tls.ts";
import { createHealth, type Health, serveProbes } from "../../observe/health.ts";
import { createLog, type Log } from "../../observe/log.ts";
import type { ModelStore } from "../../weights/store.ts";
import { openStore } from "../../weights/store-reader.ts";
import { deliver } from "../delivery/deliver.ts";
import { Progress } from "../delivery/download-progress.ts";
import { secretOf } from "../delivery/downloader.ts";
import { serveProgress } from "../delivery/progress-server.ts";
import { createFileServer, listStoreFiles } from "./store-file-server.ts";

/** A download that failed is tried again after this: the source may be back, the Secret right. */
const retryMs = 120_000;
/** What is on its way when the process is told to stop has so long. */
const closeMs = 2_000;

export interface WeightServerProcess {
  /** Of gRPC, once it serves. */
  readonly serving: Promise<number>;
  readonly health: Health;
  readonly progressPort: number;
  /** Rejects with what it cannot go on after. */
  readonly ended: Promise<never>;
  close(): Promise<void>;
}

interface Overrides {
  /** The address to listen on; all when not given. */
  readonly host?: string;
  readonly tls?: TlsSource;
  readonly log?: Log;
}

export async function startWeightServer(settings: WeightServerSettings, overrides: Overrides = {}): Promise<WeightServerProcess> {
  const { namespace, deployment, podUid, tlsDir, progressPort: port, probePort, logLevel, uri } = settings;
  const { host = "0.0.0.0" } = overrides;
  const log = overrides.log ?? createLog({ level: logLevel, name: "weight-server", fields: { namespace, deployment, uri } });
  const health = createHealth({ start: "opening the model" });
  const tls = overrides.tls ?? folderTls(tlsDir);
  const progress = new WeightServerProgress(podUid);
  const probes = await serveProbes({ health, probePort, host, log });
  const progressServer = await serveProgress({ namespace, deployment, tls, host, port, message: () => progress.message() });
  const stop = new AbortController();
  const opened: { store?: ModelStore } = {};
  const server = createServer(tls);
  const parts = { settings, log, health, server, progress, signal: stop.signal, host, opened };
  const serving = serve(parts);
  const ended = serving.then(() => new Promise<never>(() => {}));
  ended.catch(() => {}); // whoever started it hears of it
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

/** What a download says of itself, and why the last try failed. */
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
  /** What is to be closed once nobody is served any more. */
  readonly opened: { store?: ModelStore };
}

/** Returns the port. */
async function serve({ settings, log, health, server, progress, signal, host, opened }: Parts): Promise<number> {
  const { namespace, deployment, deploymentUid, target, codec, grpcPort, sizeLimitBytes } = settings;
  if (sizeLimitBytes !== undefined) await download({ settings, log, health, progress, signal });
  health.notReady("start", `opening ${target}`);
  const store = await openStore(target);
  opened.store = store;
  const { modelDigest, codecs } = store.index;
  if (codecs[codec] === undefined)
    throw new AppError(`${target}: has not the codec ${codec}, it has ${Object.keys(codecs).join(", ")}`, { code: "CodecNotFound" });
  health.notReady("start", "hashing the files that ranks need whole");
  const files = await listStoreFiles(target);
  const authorize = (call: Caller, uid: string | undefined) => {
    const { role } = callerOf(call, namespace, deployment);
    if (role !== "worker") throw new AppError(`a ${role} may not call this`, { code: "Forbidden", operation: "weight-server" });
    if (uid !== deploymentUid)
      throw new AppError("sender.deployment_uid: another deployment", { code: "Forbidden", operation: "weight-server" });
  };
  let servedBytes = 0;
  const onServed = (bytes: number) => {
    servedBytes += bytes;
  };
  const shards = createShardServer({
    store,
    reads: new StoreReads(store, codec),
    codec,
    // It has no tokens to give way to.
    pace: new TransferPace({ onChange: () => {} }),
    hosts: () => true,
    authorize: (call) => authorize(call, call.request.sender?.deploymentUid),
    onServed,
  });
  server.add(Shards, shards);
  server.add(StoreFiles, createFileServer({ dir: target, modelDigest, files, codec, authorize, onServed }));
  const port = await server.listen(host, grpcPort);
  signal.addEventListener("abort", () => log.info({ servedBytes }, "the weight server ends"));
  progress.phase("Done");
  health.ready("start");
  log.info({ target, modelDigest, bytes: files.reduce((sum, { bytes }) => sum + bytes, 0) }, "the weight server serves");
  return port;
}

/** Tries until it succeeds: a Secret or a limit that is mended makes another pod, a source that is back does not. */
async function download({ settings, log, health, progress, signal }: Omit<Parts, "server" | "host" | "opened">): Promise<void> {
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
