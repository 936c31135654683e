// The messages between main thread and engine thread, with errors as plain data.
import { AppError, type Retry } from "../../../crds/common.ts";
import type {
  ChangedPrefixes,
  EngineInfo,
  EngineOptions,
  EngineStats,
  ExpectedExperts,
  HeldBlock,
  KvLook,
  KvText,
  LoadCounters,
  OnDemandFrame,
  PeerCounts,
  PeerOpening,
  PeerView,
  RoutingTables,
  Sampling,
  WrittenBlock,
} from "../api.ts";
import type { AskedBatch } from "../pass/expert-table.ts";
import type { Notice } from "../schedule/step-plan.ts";

export type ThreadOptions = Omit<EngineOptions, "onDemand" | "threads"> & { readonly threads: number };

/** Method -> argument and result. */
export interface Calls {
  loadExpert: { argument: { layer: number; expert: number; unit: Uint8Array }; result: undefined };
  unloadExpert: { argument: { layer: number; expert: number }; result: undefined };
  runExperts: { argument: AskedBatch; result: Float32Array };
  setRouting: { argument: RoutingTables; result: undefined };
  setDown: { argument: readonly number[]; result: undefined };
  openConnections: { argument: PeerOpening; result: number };
  setPeers: { argument: PeerView; result: undefined };
  counters: { argument: undefined; result: LoadCounters };
  stats: { argument: undefined; result: EngineStats };
  drain: { argument: boolean; result: undefined };
  lookKv: { argument: KvText; result: KvLook };
  readKv: { argument: HeldBlock; result: Uint8Array | undefined };
  writeKv: { argument: WrittenBlock; result: boolean };
  close: { argument: undefined; result: undefined };
}
export type Method = keyof Calls;

export type CallMessage = {
  [M in Method]: { readonly type: "call"; readonly id: number; readonly method: M; readonly argument: Calls[M]["argument"] };
}[Method];

export interface GenerateMessage {
  readonly type: "generate";
  readonly id: string;
  readonly prompt: Uint32Array;
  readonly replay: Uint32Array;
  readonly maxTokens: number;
  readonly sampling: Sampling;
  readonly eos: readonly number[];
  readonly priority: number;
  readonly embed: boolean;
  readonly cacheSalt: string;
  readonly promptLogprobs: boolean;
  readonly traceparent?: string;
}

export type ToEngine =
  | CallMessage
  | GenerateMessage
  | { readonly type: "cancel"; readonly id: string }
  | { readonly type: "ranOnDemand"; readonly id: number; readonly rows: Float32Array }
  | { readonly type: "onDemandFailed"; readonly id: number; readonly error: PlainError };

export type FromEngine =
  | { readonly type: "ready"; readonly info: EngineInfo }
  | { readonly type: "refused"; readonly error: PlainError }
  | { readonly type: "answer"; readonly id: number; readonly result: unknown }
  | { readonly type: "failed"; readonly id: number; readonly error: PlainError }
  /** All events of a step, since each message has a fixed cost. */
  | { readonly type: "events"; readonly notices: readonly Notice[] }
  | { readonly type: "requestFailed"; readonly id: string; readonly error: PlainError }
  | { readonly type: "passed" }
  | { readonly type: "prefixes"; readonly changed: ChangedPrefixes }
  | { readonly type: "connections"; readonly counts: PeerCounts }
  | { readonly type: "runOnDemand"; readonly id: number; readonly frame: OnDemandFrame }
  | { readonly type: "expect"; readonly expected: ExpectedExperts }
  | { readonly type: "keptKv"; readonly block: HeldBlock };

export interface PlainError {
  readonly code: string;
  readonly message: string;
  readonly retry: Retry;
  readonly experts?: readonly number[];
}

export function toPlain(caught: unknown): PlainError {
  const error = AppError.from(caught);
  const experts = (error.cause as { experts?: readonly number[] } | undefined)?.experts;
  return { code: error.code, message: error.message, retry: error.retry, ...(experts ? { experts } : {}) };
}

export function fromPlain({ code, message, retry, experts }: PlainError): AppError {
  return new AppError(message, { code, retry, ...(experts ? { cause: { experts } } : {}) });
}
