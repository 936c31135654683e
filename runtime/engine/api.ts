// The interface between a worker and its engine: requests, tokens, experts and the frames of other ranks.

import type { BackendChoice, CodecName, FrameResult, FrameStallPart, KvType, PredictorName } from "../../crds/names.ts";
import type { RankMemory } from "../../crds/rank-memory.ts";
import type { ComputeWork, Phase, StepKind, StepSeconds } from "../../crds/telemetry.ts";
import type { Identity } from "../net/mapping.ts";
import type { ExpertGrid } from "../placement/grid.ts";
import type { HeldBlock, KvBlock } from "./schedule/kv-slot.ts";
import type { ChangedPrefixes } from "./schedule/prefixes.ts";
import type { EngineLimits, GenerateEvent, Sampling } from "./schedule/request.ts";

export type { HeldBlock, KvBlock } from "./schedule/kv-slot.ts";
export type { ChangedPrefixes } from "./schedule/prefixes.ts";
export type { FinishReason, GenerateEvent, Sampling } from "./schedule/request.ts";

/** One frame of expert work for another rank: `rows` [n, hidden], and per (row, expert) pair its row and its expert. */
export interface RemoteFrame {
  readonly layer: number;
  readonly epoch: number;
  readonly rank: number;
  readonly phase: Phase;
  readonly rows: Float32Array;
  readonly pairRows: Uint32Array;
  readonly pairExperts: Uint32Array;
  /** The W3C parent of its spans; unset = not traced. */
  readonly traceparent?: string;
}

/** The answer to a frame: unweighted rows [pairs, hidden], or gated sums per row. Only engines of the class `tolerance` exchange sums. */
export type FrameAnswer = Float32Array | RowSums;
interface RowSums {
  readonly sums: Float32Array;
}

/**
 * Runs on the main thread: loads the experts of a frame that this rank lacks, and returns unweighted rows [pairs, hidden], which the
 * engine takes over. Rejects with `NotHosted` when memory is full.
 */
export interface OnDemandExperts {
  run(frame: OnDemandFrame): Promise<Float32Array>;
  /** Replaces what was expected before. */
  expect?(expected: ExpectedExperts): void;
}
/** Experts of this rank that later layers are expected to choose, as cells of the grid, the nearest layer's likeliest first. */
export interface ExpectedExperts {
  readonly cells: Int32Array;
  /** That rows of the step choose it, at most 1. */
  readonly chances: Float32Array;
  /** See OnDemandFrame. */
  readonly used?: Int32Array | undefined;
}
export interface OnDemandFrame extends RemoteFrame {
  readonly origin: RowOrigin;
  /** Milliseconds after which nobody waits for the rows; unset = as long as a load may take. */
  readonly leftMs?: number;
  /** What experts computed since this was told last, as cells of the grid, oldest first; unset unless `oversubscribed`. */
  readonly used?: Int32Array;
}

export interface EngineOptions {
  readonly storeDir: string;
  readonly backend: BackendChoice;
  readonly codec: CodecName;
  /** 0 = by itself, as far as `memory` reaches. */
  readonly kvPoolBytes: number;
  /** Unset: unknown. */
  readonly memory?: RankMemory;
  /** Host memory for keys and values that leave the pool; 0 or unset: none. */
  readonly kvOffloadBytes?: number;
  /** The element type of the KV cache. Unset: the backend's fastest. */
  readonly kvType?: KvType;
  /** Experts whose gate is below this percent of their token's largest are left out, which changes texts. Unset: none. */
  readonly minGatePercent?: number;
  /** Ranks that share the heads of a long prompt, this one included. Unset: 1. */
  readonly prefillParallelism?: number | undefined;
  /** Tokens of a prompt from which they do. Unset: 2,048. */
  readonly prefillParallelismFrom?: number | undefined;
  /** Prompt and output together. */
  readonly maxContext: number;
  /** Unset: the processors reserved for this process (thread/client.ts), else one. */
  readonly threads?: number;
  /** Processors that this process requested exclusively; unset when unknown. */
  readonly wholeCpus?: number;
  /** Devices that share the layers; unset = 1. */
  readonly devices?: number;
  /** Bytes of a device's memory for experts, all of which the machine's memory has too. Unset: all are on the device alone. */
  readonly deviceExpertBytes?: number | undefined;
  /** Bytes of devices' memory for the dense part; weights of layers beyond it come from the machine's for each use. Unset: none do. */
  readonly deviceDenseBytes?: number | undefined;
  /** Tests every op of the backend before the model is opened, which takes 0.2 s. Unset: no. */
  readonly tryDevice?: boolean;
  readonly onDemand: OnDemandExperts;
  /** Experts that the plan has here may be on the disk: rows that choose one wait until it is loaded. Unset: no. */
  readonly oversubscribed?: boolean | undefined;
  /** The predictor that names experts to `onDemand.expect`. Unset: none are named. */
  readonly prefetch?: PredictorName | undefined;
  readonly limits?: Partial<EngineLimits>;
}

export interface EngineInfo extends ExpertGrid {
  readonly modelDigest: string;
  readonly architecture: string;
  /** The maximum over the layers. */
  readonly topK: number;
  readonly hidden: number;
  readonly vocab: number;
  readonly codec: CodecName;
  readonly backend: string;
  readonly device: string;
  /** "exact" or "tolerance", and everything that the bits of results depend on. */
  readonly numerics: string;
  /** min(option, model). */
  readonly maxContext: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
  readonly kvSlots: number;
  /** Blocks of KV memory in all, and the positions of each. */
  readonly kvBlocks: number;
  readonly kvBlockTokens: number;
  /** What keys and values of one position take; unset for engines that move none. */
  readonly kvPositionBytes?: number;
  /** An upper bound for one resident expert, the largest. */
  readonly expertResidentBytes: number;
  /** The same for each expert of each layer. Unset: all are alike. */
  readonly unlikeResidentBytes?: readonly (readonly number[])[] | undefined;
  /** Expert rows per second; only ratios between ranks matter. */
  readonly speed: number;
  /** True when it computes on the machine's cores. */
  readonly sharesCores: boolean;
  /** What was asked for and has little or no effect. Unset: nothing. */
  readonly warning?: string | undefined;
}

export interface GenerateRequest {
  readonly prompt: readonly number[] | Uint32Array;
  /** Tokens generated before a failover; they follow the prompt. */
  readonly replay?: readonly number[] | Uint32Array;
  readonly maxTokens: number;
  readonly sampling: Sampling;
  /** The ids that end the text. The id itself is sent as the last token. */
  readonly eos: readonly number[];
  /** Lower goes first; unset = 0. */
  readonly priority?: number;
  /** Only requests with the same one share what was computed for their prompts; unset = "". */
  readonly cacheSalt?: string;
  /** Requests one vector of the prompt instead of text: the events are queued, started, embedding, finish. */
  readonly embed?: boolean;
  /** Requests `prompt` events: the log-probability of each prompt token but the first. */
  readonly promptLogprobs?: boolean;
  /** It counts as open, and is not computed before this has settled. Unset: at once. */
  readonly after?: Promise<void> | undefined;
  readonly signal?: AbortSignal;
  /** The W3C parent of its spans; unset = not traced. */
  readonly traceparent?: string;
}

/** hosts[e] = ranks, weights[e] = per mille, as in crds/plan.ts. Layers that are missing here stay as they are. */
export interface RoutingTables {
  readonly rank: number;
  readonly layers: readonly {
    readonly layer: number;
    readonly epoch: number;
    readonly hosts: readonly (readonly number[])[];
    readonly weights: readonly (readonly number[])[];
  }[];
}

/**
 * Counts since the last call, per cell of the model's grid (placement/grid.ts): `routed` at the source, `served` where the rows were
 * computed.
 */
export interface PhaseCounters {
  readonly routed: Uint32Array;
  readonly served: Uint32Array;
  readonly compute: Omit<ComputeWork, "machine">;
  /** Seconds by cause; unset for engines that compute nothing. */
  readonly seconds?: StepSeconds;
}
export type LoadCounters = Readonly<Record<Phase, PhaseCounters>>;

export interface EngineStats {
  readonly prefillTokens: number;
  readonly decodeTokens: number;
  readonly cachedTokens: number;
  /** The list is bounded. */
  readonly stepSeconds: Readonly<Record<StepKind, readonly number[]>>;
  /** Only waiting for other ranks. */
  readonly waitedSeconds?: Readonly<Record<StepKind, number>>;
  readonly slotsUsed: number;
  readonly slotsKept: number;
  readonly blocksUsed: number;
  readonly blocksKept: number;
  /** Requests that were preempted and computed again. */
  readonly preemptions: number;
  /** Unset without host memory for keys and values. */
  readonly kvHost?: KvTierStats | undefined;
  /** Tokens computed speculatively, and how many of them were accepted. */
  readonly drafted: number;
  readonly accepted: number;
  readonly queuedRequests: number;
  readonly hostedExperts: number;
  /** Runs of experts since the start; unset for engines that compute nothing. */
  readonly expertRuns?: number;
  readonly rowsFor: Readonly<Record<RowOrigin, number>>;
}

/** Blocks of a tier since its start. */
export interface KvTierStats {
  readonly stored: number;
  readonly found: number;
  /** Evicted before they were stored. */
  readonly dropped: number;
  readonly heldBytes: number;
  readonly out: { readonly bytes: number; readonly seconds: number };
  readonly back: { readonly bytes: number; readonly seconds: number };
  /** Positions of preempted requests that came back. */
  readonly swappedTokens: number;
}

/** A rank as seen by connections. `address`: ip:port of its engine; unset while it is unknown or must not be used. */
export interface EnginePeer {
  readonly rank: number;
  readonly podUid: string;
  readonly podName: string;
  readonly serverName: string;
  readonly address: string | undefined;
  /** Neither lost nor suspect. */
  readonly usable: boolean;
  /** It generates, and computes no part of others' prompts. */
  readonly isForDecode?: boolean;
}

export interface PeerView {
  readonly self: Identity;
  readonly tls: { readonly cert: Uint8Array; readonly key: Uint8Array; readonly ca: Uint8Array };
  readonly peers: readonly EnginePeer[];
  /** The lowest epoch that this rank serves per layer, -1 without a plan. */
  readonly serves: readonly number[];
  /** The committed epoch per layer, 0 without a plan. */
  readonly epochs: readonly number[];
}

export interface PeerOpening {
  readonly host: string;
  /** 0 = any. */
  readonly port: number;
  readonly namespace: string;
  readonly name: string;
  readonly view: PeerView;
}

type FrameResults = Readonly<Record<FrameResult, number>>;

/** A span of a traced frame; `traceparent` is its own. */
export interface FrameSpan {
  readonly name: "experts.dispatch" | "experts.serve";
  readonly role: "client" | "server";
  readonly parent: string;
  readonly traceparent: string;
  readonly startUnixMs: number;
  readonly endUnixMs: number;
  readonly attributes: Readonly<Record<string, string | number>>;
  readonly failure?: string | undefined;
}

export interface PeerCounts {
  readonly connections: number;
  readonly pending: number;
  readonly sent: {
    readonly results: FrameResults;
    readonly bytes: number;
    readonly received: number;
    /** The durations of frames that were answered with rows. */
    readonly seconds: readonly number[];
    readonly retries: number;
    readonly stalls: readonly { readonly part: FrameStallPart; readonly seconds: number }[];
  };
  /** Ranks that were sent frames, or that a frame waits for. */
  readonly used: readonly number[];
  readonly served: {
    readonly results: FrameResults;
    readonly touched: readonly { readonly layer: number; readonly experts: readonly number[] }[];
  };
  /** Ranks that serve a newer epoch than this one. */
  readonly newer: readonly number[];
  readonly spans: readonly FrameSpan[];
  readonly problems: readonly string[];
}

export interface EngineConnections {
  /** Starts to accept connections; resolves with the port. */
  open(opening: PeerOpening, onCounts: (counts: PeerCounts) => void): Promise<number>;
  set(view: PeerView): Promise<void>;
}

export interface KvText {
  readonly tokens: Uint32Array;
  /** As of its request. */
  readonly cacheSalt: string;
}

export interface KvLook {
  /** Tokens of the text whose keys and values are here. */
  readonly here: number;
  /** Those behind, without the last token, whose row is computed in any case. */
  readonly blocks: readonly KvBlock[];
  readonly tokenBytes: number;
  /** What a token of a prompt takes to compute; undefined until some were. */
  readonly tokenMs: number | undefined;
}

export interface WrittenBlock {
  readonly block: KvBlock;
  /** Those from `from` to `to`. */
  readonly tokens: Uint32Array;
  /** The engine takes them over. */
  readonly data: Uint8Array;
}

/** Keys and values that move between ranks of one model and class of bits. */
export interface EngineKv {
  look(text: KvText): Promise<KvLook>;
  /** Undefined where the block is not here. */
  read(block: HeldBlock): Promise<Uint8Array | undefined>;
  /** False where there is no room for it, or what comes before is gone. Throws for other sizes than the block's. */
  write(written: WrittenBlock): Promise<boolean>;
  /** The listener is told of each block that host memory takes. */
  onKept?(listener: (block: HeldBlock) => void): void;
}

export type RowOrigin = "local" | "remote";

export interface Engine {
  /** Unset: an engine of a rank alone. */
  readonly connections?: EngineConnections;
  /** Unset: an engine whose keys and values stay. */
  readonly kv?: EngineKv;
  describe(): EngineInfo;
  /** The first next() throws AppError `Busy` (retry), `ContextOverflow`, `InvalidRequest` or `Draining`. */
  generate(request: GenerateRequest): AsyncIterable<GenerateEvent>;
  /** `unit`: verified stored bytes, which the engine takes over. The expert serves once the promise resolves. */
  loadExpert(layer: number, expert: number, unit: Uint8Array): Promise<void>;
  /** Resolves once no step uses the expert and its memory is free. */
  unloadExpert(layer: number, expert: number): Promise<void>;
  /** hosted[layer] = expert ids, ascending. */
  hosted(): readonly (readonly number[])[];
  /** Computes a frame of another rank, or of this one for loaded experts. Rejects with AppError `NotHosted` (field `experts`). */
  runExperts(frame: {
    readonly layer: number;
    readonly phase: Phase;
    readonly rows: Float32Array;
    readonly pairRows: Uint32Array;
    readonly pairExperts: Uint32Array;
    /** Unset = another rank's. */
    readonly origin?: RowOrigin;
  }): Promise<Float32Array>;
  /** Resolves when no running step uses the older tables. */
  setRouting(tables: RoutingTables): Promise<void>;
  /** These ranks receive nothing while other hosts can; replaces the previous set. */
  setDown(ranks: readonly number[]): Promise<void>;
  counters(): Promise<LoadCounters>;
  stats(): Promise<EngineStats>;
  /** Accepted tokens that await prefill, and open requests. */
  load(): { readonly queuedTokens: number; readonly activeRequests: number };
  /** Grows while rows pass its layers, and not while it waits for another rank. */
  passed(): number;
  /** Has the one listener told what the memory of keys and values gains and loses. Unset: an engine that keeps no prefixes. */
  onPrefixes?(tell: (changed: ChangedPrefixes) => void): void;
  /** true: finishes open requests with `draining` and refuses new ones. */
  drain(on: boolean): Promise<void>;
  close(): Promise<void>;
}
