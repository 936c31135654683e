// The interface between a worker and its engine: requests in, tokens out, experts in and out, frames of other ranks. Types only.
import type { BackendChoice, CodecName, KvType } from "../../crds/names.ts";
import type { ComputeWork, Phase, StepKind, StepSeconds } from "../../crds/telemetry.ts";
import type { Identity } from "../net/mapping.ts";
import type { ExpertGrid } from "../placement/grid.ts";
import type { EngineLimits, GenerateEvent, Sampling } from "./schedule/request.ts";

export type { FinishReason, GenerateEvent, Sampling } from "./schedule/request.ts";

/** One frame of expert work for another rank: `rows` [n, hidden] and, per (row, expert) pair, which row and which expert. */
export interface RemoteFrame {
  readonly layer: number;
  readonly epoch: number;
  readonly rank: number;
  readonly phase: Phase;
  readonly rows: Float32Array;
  readonly pairRows: Uint32Array;
  readonly pairExperts: Uint32Array;
  /** W3C parent of this frame's span, in the first steps of a traced request. */
  readonly traceparent?: string;
}

/** What a frame is answered: unweighted rows of its pairs, [pairs, hidden], or the sum of them by their gates for each of its rows. Only
 *  engines of the class `tolerance` answer sums, and only each other. */
export type FrameAnswer = Float32Array | RowSums;
interface RowSums {
  readonly sums: Float32Array;
}

/** Lives on the main thread. Answers unweighted rows [pairs, hidden], which the engine takes over, or rejects once no host can be had.
 *  `rank` may be this worker's own (the plan names it but the expert is not loaded yet) or -1 (the layer has no table). */
export interface RemoteExperts {
  dispatch(frame: RemoteFrame): Promise<Float32Array>;
}

export interface EngineOptions {
  readonly storeDir: string;
  readonly backend: BackendChoice;
  readonly codec: CodecName;
  readonly kvPoolBytes: number;
  /** Number type of the attention cache. Unset: the one that the backend is fastest with. */
  readonly kvType?: KvType;
  /** Tokens of one request, prompt and output together; at most the model's own limit. */
  readonly maxContext: number;
  /** Threads that compute, at most. Unset: the processors that are this process's own (thread/processors.ts), else one. */
  readonly threads?: number;
  /** Processors that this process has asked for as its own, where it is known; unset: it is not. */
  readonly wholeCpus?: number;
  /** Devices that share the model's layers; unset = 1. */
  readonly devices?: number;
  /** Tries every op of the backend before the model is opened, which takes 0.2 s of a processor. Unset: no. */
  readonly tryDevice?: boolean;
  readonly remote: RemoteExperts;
  readonly limits?: Partial<EngineLimits>;
}

export interface EngineInfo extends ExpertGrid {
  readonly modelDigest: string;
  readonly architecture: string;
  /** Experts that a token uses; where layers differ, in the layer with most. */
  readonly topK: number;
  readonly hidden: number;
  readonly vocab: number;
  readonly codec: CodecName;
  readonly backend: string;
  readonly device: string;
  /** The numerics class: "exact" or "tolerance", and what the bits of this engine's results depend on. */
  readonly numerics: string;
  /** Tokens of one request that this engine accepts: min(option, model). */
  readonly maxContext: number;
  readonly denseBytes: number;
  readonly kvBytes: number;
  /** Requests that run at once, at most; fewer where their blocks are more than there are. */
  readonly kvSlots: number;
  /** Blocks of KV memory for all of them together, and the positions of each. */
  readonly kvBlocks: number;
  readonly kvBlockTokens: number;
  /** Upper bound of what one resident expert takes, of the largest where layers differ. */
  readonly expertResidentBytes: number;
  /** The same of each layer, 0 for a dense one. Unset: `expertResidentBytes` in all. */
  readonly layerResidentBytes?: readonly number[] | undefined;
  /** Expert rows per second, measured at start; ratios between ranks are what matters. */
  readonly speed: number;
  /** True when it computes on the cores of the machine, which other processes use too. */
  readonly sharesCores: boolean;
}

export interface GenerateRequest {
  readonly prompt: readonly number[] | Uint32Array;
  /** Tokens generated before a failover: fed one by one after the prompt. */
  readonly replay?: readonly number[] | Uint32Array;
  /** Output tokens, replayed ones included. */
  readonly maxTokens: number;
  readonly sampling: Sampling;
  /** Ids that end the text; the id itself is sent as the last token. */
  readonly eos: readonly number[];
  /** Of two requests that wait, the one with the lower number goes first; unset = 0. */
  readonly priority?: number;
  /** No text is wanted but one vector of the prompt: the events are queued, started, embedding, finish. */
  readonly embed?: boolean;
  /** What each token of the prompt but the first is worth is wanted too: events of type `prompt`. */
  readonly promptLogprobs?: boolean;
  readonly signal?: AbortSignal;
  /** W3C parent of the spans of its frames to other ranks; unset = not traced. */
  readonly traceparent?: string;
}

/** hosts[e] = ranks, weights[e] = per mille, as in crds/plan.ts. Layers not named keep what they had. */
export interface RoutingTables {
  readonly rank: number;
  readonly layers: readonly {
    readonly layer: number;
    readonly epoch: number;
    readonly hosts: readonly (readonly number[])[];
    readonly weights: readonly (readonly number[])[];
  }[];
}

/** The counts of one phase since the last call, with a value for each cell of the model's grid (placement/grid.ts): `routed` at the source,
 *  `served` where the rows were computed. */
export interface PhaseCounters {
  readonly routed: Uint32Array;
  readonly served: Uint32Array;
  /** The work that it took to compute the served rows here. */
  readonly compute: Omit<ComputeWork, "machine">;
  /** Time of steps by what it went into; not measured by engines that compute nothing. */
  readonly seconds?: StepSeconds;
}
export type LoadCounters = Readonly<Record<Phase, PhaseCounters>>;

/** Totals since start, and what is in use now. */
export interface EngineStats {
  readonly prefillTokens: number;
  readonly decodeTokens: number;
  readonly cachedTokens: number;
  /** Seconds of each step since the last call, some thousands at most. */
  readonly stepSeconds: Readonly<Record<StepKind, readonly number[]>>;
  /** Seconds of steps with nothing to do but wait for rows of other ranks. */
  readonly waitedSeconds?: Readonly<Record<StepKind, number>>;
  readonly slotsUsed: number;
  /** Slots not in use that hold a prompt which may be reused. */
  readonly slotsKept: number;
  /** Blocks of KV memory that open requests hold, and those that hold what may be reused. */
  readonly blocksUsed: number;
  readonly blocksKept: number;
  /** Requests that gave their KV memory up to others and were computed again. */
  readonly preemptions: number;
  /** Tokens guessed and computed with the one before them, and those of them that came true. */
  readonly drafted: number;
  readonly accepted: number;
  readonly queuedRequests: number;
  readonly hostedExperts: number;
  /** Expert rows computed here, for this rank's tokens and for those of others. */
  readonly rowsFor: Readonly<Record<RowOrigin, number>>;
}

/** A rank as connections know it. `address`: ip:port of its connections, unset while they are not to be used. */
export interface EnginePeer {
  readonly rank: number;
  readonly podUid: string;
  readonly podName: string;
  readonly serverName: string;
  readonly address: string | undefined;
}

export interface PeerView {
  readonly self: Identity;
  /** PEM. */
  readonly tls: { readonly cert: Uint8Array; readonly key: Uint8Array; readonly ca: Uint8Array };
  readonly peers: readonly EnginePeer[];
  /** The lowest epoch that this rank serves in each layer, -1 in one without a plan. */
  readonly serves: readonly number[];
}

export interface PeerOpening {
  readonly host: string;
  /** 0 = any. */
  readonly port: number;
  /** Whose certificates count. */
  readonly namespace: string;
  readonly name: string;
  readonly view: PeerView;
}

/** What connections did since the last time. */
export interface PeerCounts {
  /** Those open to other ranks now, and frames on them that are not answered. */
  readonly connections: number;
  readonly pending: number;
  readonly sent: { readonly frames: number; readonly bytes: number; readonly received: number; readonly seconds: readonly number[] };
  /** Ranks that were sent frames. */
  readonly used: readonly number[];
  readonly served: {
    readonly frames: number;
    readonly touched: readonly { readonly layer: number; readonly experts: readonly number[] }[];
  };
  readonly problems: readonly string[];
}

/** An engine's own connections to other engines, beside `RemoteExperts`. */
export interface EngineConnections {
  /** Takes connections of others from now on; resolves with the port. */
  open(opening: PeerOpening, onCounts: (counts: PeerCounts) => void): Promise<number>;
  set(view: PeerView): Promise<void>;
}

/** Whose tokens rows are of: this rank's, or another's. */
export type RowOrigin = "local" | "remote";

export interface Engine {
  /** Unset: all frames go by `RemoteExperts`. */
  readonly connections?: EngineConnections;
  describe(): EngineInfo;
  /** Throws AppError `Busy` (retry), `ContextOverflow`, `InvalidRequest`, `Draining`, on the first next(). */
  generate(request: GenerateRequest): AsyncIterable<GenerateEvent>;
  /** `unit`: verified stored bytes, which the engine takes over; the expert serves once the promise resolves. */
  loadExpert(layer: number, expert: number, unit: Uint8Array): Promise<void>;
  /** Resolves once nothing computes with it any more and its memory is released. */
  unloadExpert(layer: number, expert: number): Promise<void>;
  /** hosted[layer] = expert ids, ascending. */
  hosted(): readonly (readonly number[])[];
  /** A frame from another rank, or this one's own for experts that had to be loaded. Rejects with AppError `NotHosted` (field `experts`)
   *  when one of them is not here. */
  runExperts(frame: {
    readonly layer: number;
    readonly phase: Phase;
    readonly rows: Float32Array;
    readonly pairRows: Uint32Array;
    readonly pairExperts: Uint32Array;
    /** Whose tokens the rows are of; unset = another rank's. */
    readonly origin?: RowOrigin;
  }): Promise<Float32Array>;
  /** Resolves when no running step uses the older tables any more. */
  setRouting(tables: RoutingTables): Promise<void>;
  /** Ranks that get nothing while other hosts can; replaces the previous set. */
  setDown(ranks: readonly number[]): Promise<void>;
  counters(): Promise<LoadCounters>;
  stats(): Promise<EngineStats>;
  /** Tokens accepted but not yet prefilled, and open requests: for status and for the gateway's choice. */
  load(): { readonly queuedTokens: number; readonly activeRequests: number };
  /** true: open requests finish with `draining`, new ones are refused; false: takes it back. */
  drain(on: boolean): Promise<void>;
  close(): Promise<void>;
}
