// Ranks of the node simulator, many in one process: each is the production worker plane on its own gRPC server and certificate, so that
// plans, memory, membership, telemetry and frames are those of a worker. Replaced are the engine (engine.ts, which computes nothing)
// and the model store, whose units are a few bytes; test/contract/rank.ts holds both kinds of rank to one contract.
import { randomUUID } from "node:crypto";
import type { TelemetryKey } from "../../crds/telemetry-keys.ts";
import type { EngineInfo } from "../../runtime/engine/engine.ts";
import { createServer, grpcNetwork } from "../../runtime/net/grpc.ts";
import type { Identity } from "../../runtime/net/mapping.ts";
import type { Bus } from "../../runtime/net/nats.ts";
import type { TlsSource } from "../../runtime/net/tls.ts";
import { createHealth, type Health } from "../../runtime/observe/health.ts";
import { type Log, silentLog } from "../../runtime/observe/log.ts";
import type { Metrics } from "../../runtime/observe/runtime-metrics.ts";
import { steadyClock } from "../../runtime/observe/steady-clock.ts";
import { tracingOff } from "../../runtime/observe/trace.ts";
import type { ExpertGrid } from "../../runtime/placement/grid.ts";
import { type ModelStore, unitAlignment } from "../../runtime/weights/store.ts";
import { unitReader } from "../../runtime/weights/store-reader.ts";
import { OnDemandSocket } from "../../runtime/worker/experts.ts";
import { createWorkerPlane, type WorkerPlane } from "../../runtime/worker/worker-plane.ts";
import { SimModel } from "../sim/model.ts";
import { BookEngine, type CountersOf } from "./engine.ts";

/** Bytes of a unit as it is stored and sent; what it takes in memory is only counted. */
const storedUnitBytes = 64;
/** Open calls have this long when a rank ends in order. */
const closeMs = 500;
/** Width of a row of frames between ranks. */
const hidden = 8;

interface RankShape extends ExpertGrid {
  /** Resident bytes of an expert, and of all experts that a rank may hold. */
  readonly bytes: number;
  readonly budgetBytes: number;
}

/** The model of a deployment, which all its ranks share. */
export interface RankModel {
  readonly info: EngineInfo;
  readonly store: ModelStore;
  readonly budgetBytes: number;
}

export function rankModel(shape: RankShape, info: Partial<EngineInfo> = {}): RankModel {
  const { layers, experts, layerExperts, bytes, budgetBytes } = shape;
  const model = new SimModel(Object.assign({ storedBytes: storedUnitBytes }, shape));
  const read = async (offset: number): Promise<Uint8Array> => {
    const cell = offset / unitAlignment; // SimModel lays units of up to that size one after another
    return model.content(Math.floor(cell / experts), cell % experts);
  };
  const never = (): never => {
    throw new Error("the store of the node simulator has experts only");
  };
  const empty = { config: {}, denseNames: [], denseForms: [], denseBytes: () => 0, layerShapes: [] };
  return {
    budgetBytes,
    info: {
      ...{ modelDigest: model.index.modelDigest, architecture: "sim", layers, experts, layerExperts, topK: 2, hidden, vocab: 1 },
      ...{ codec: "f32", backend: "simulated", device: "simulated", numerics: "exact: simulated", maxContext: 1024, denseBytes: 1 },
      ...{ kvBytes: 1, kvSlots: 1, kvBlocks: 1, kvBlockTokens: 1, expertResidentBytes: bytes, speed: 1, sharesCores: false },
      ...info,
    },
    store: {
      ...{
        dir: "simulated",
        index: model.index,
        denseInfo: never,
        readDense: never,
        decodeUnit: never,
        unitForms: never,
        close: async () => {},
      },
      ...empty,
      readUnit: unitReader("simulated", model.index, async () => ({ read })),
    },
  };
}

interface RankOptions {
  readonly namespace: string;
  readonly deployment: string;
  readonly deploymentUid: string;
  readonly rank: number;
  readonly podName: string;
  readonly podUid: string;
  /** A loopback address; 0 = any port. */
  readonly host: string;
  readonly grpcPort: number;
  readonly tls: TlsSource;
  readonly model: RankModel;
  /** Where load is published; unset: it is not. Ranks of one process may share a bus. */
  readonly telemetry?: {
    readonly bus: Bus;
    readonly prefix: string;
    readonly windowMs: number;
    readonly signingKey: () => Promise<TelemetryKey | undefined>;
  };
  /** Unset: nothing is routed or served. */
  readonly counters?: CountersOf;
  /** Who is asked for the plan while no operator is there; unset: nobody. */
  readonly peerAddresses?: () => Promise<readonly string[]>;
  /** See PlaneOptions. */
  readonly streamIdleMs?: number;
  readonly metrics?: Metrics<"worker">;
  readonly log?: Log;
}

/** A rank that runs: the process in a pod. */
export interface ScaleRank {
  readonly identity: Identity;
  readonly grpcPort: number;
  readonly health: Health;
  readonly engine: BookEngine;
  readonly plane: WorkerPlane;
  /** What the kubelet asks at /readyz. */
  ready(): boolean;
  /** What SIGTERM does: resolves when the process may end, or must. */
  handOver(graceMs: number): Promise<void>;
  /** Ends in order, as a worker does after `handOver`. */
  close(): Promise<void>;
  /** Ends as SIGKILL does: connections break and nothing is said. */
  kill(): Promise<void>;
}

const noMetrics = { add() {}, set() {}, observe() {}, onCollect() {} } as unknown as Metrics<"worker">;

export async function startRank(options: RankOptions): Promise<ScaleRank> {
  const { namespace, deployment: name, deploymentUid, rank, podName, podUid, tls, model, telemetry } = options;
  const { info, store, budgetBytes } = model;
  const identity: Identity = { deploymentUid, rank, podUid, bootId: randomUUID() };
  const onDemand = new OnDemandSocket();
  const engine = new BookEngine(info, onDemand, options.counters);
  const health = createHealth();
  const plane = createWorkerPlane({
    ...{ identity, namespace, name, podName, network: grpcNetwork, tls, store, engine, info, onDemand, budgetBytes, health },
    ...{ streamIdleMs: options.streamIdleMs, textDigest: "" },
    ...{ clock: steadyClock(), metrics: options.metrics ?? noMetrics, tracing: tracingOff, log: options.log ?? silentLog },
  });
  const server = createServer(tls);
  plane.serve(server);
  const grpcPort = await server.listen(options.host, options.grpcPort);
  await plane.openConnections(options.host, 0);
  const load = telemetry && { machine: undefined, ...telemetry };
  const stop = plane.start({ peerAddresses: options.peerAddresses ?? (async () => []), load });
  const end = async (graceMs: number): Promise<void> => {
    stop();
    await server.close(graceMs);
    plane.close();
    await engine.close();
  };
  return {
    ...{ identity, grpcPort, health, engine, plane },
    ready: () => health.reasons().length === 0,
    handOver: (graceMs) => plane.leaving.handOver(graceMs),
    close: async () => {
      await plane.leaving.drain(true);
      await end(closeMs);
    },
    kill: () => end(0),
  };
}
