// How a rank divides its memory between dense part, KV pool and experts. Shared by worker and operator. Pure.
import { AppError } from "./common.ts";
import { formatBytes } from "./quantity.ts";

/** Beside dense part, KV pool and experts; up to 256 MiB are queued frames (runtime/net/engine-host.ts). */
export const processBytes = 400 * 1000 * 1000;
/** Free fraction of the memory: slack of the allocator, and buffers of requests and transfers. */
export const headroom = 0.15;
/** Fraction for the KV pool where experts take what it leaves, or others use the same memory. */
const sharedPart = 0.25;
/** Bytes of the pool where the memory is unknown. */
const poolDefault = 256 * 2 ** 20;

export interface RankMemory {
  readonly bytes: number;
  /** Such as "the memory limit of the container runtime". */
  readonly of: string;
  /** Nobody else takes of it. */
  readonly own: boolean;
  /** experts.memoryPerRank; 0 = what is left. */
  readonly expertBytes: number;
  /** The field that says so; unset = experts.memoryPerRank. */
  readonly field?: string;
  /** The field by which less of the dense part lies there, if there is one. */
  readonly dense?: string;
  /** runtime.kvOffload.memory; unset = none. */
  readonly offloadBytes?: number;
}

export interface KvNeeds {
  /** spec.runtime.kvPool; 0 = by itself. */
  readonly askedBytes: number;
  /** Bytes that one request of maxContext takes, and as many as a rank runs. */
  readonly requestBytes: number;
  readonly mostBytes: number;
  readonly maxContext: number;
  readonly denseBytes: number;
  /** Undefined while unknown. */
  readonly memory: RankMemory | undefined;
}

const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)}Mi`;

/** Throws AppError `KvPoolTooSmall` or `InsufficientMemory`, whose messages name fields and numbers. */
export function kvPoolBytes(needs: KvNeeds): number {
  const { askedBytes, requestBytes, mostBytes, maxContext, denseBytes, memory } = needs;
  if (askedBytes > 0 && askedBytes < requestBytes) {
    const remedy = `raise it to at least ${mebibytes(requestBytes)}, leave it out, or lower runtime.maxContext`;
    const message = `spec.runtime.kvPool ${formatBytes(askedBytes)} holds no request of maxContext ${maxContext} tokens: ${remedy}`;
    throw new AppError(message, { code: "KvPoolTooSmall", operation: "sizing the KV pool" });
  }
  const pool =
    askedBytes > 0 ? askedBytes : Math.max(requestBytes, Math.min(mostBytes, memory ? shareOf(memory, denseBytes) : poolDefault));
  if (memory) checkRoom(memory, denseBytes, Math.min(pool, mostBytes));
  return pool;
}

function shareOf({ bytes, own, expertBytes, offloadBytes = 0 }: RankMemory, denseBytes: number): number {
  const left = bytes - Math.max(bytes * headroom, processBytes) - denseBytes - expertBytes - offloadBytes;
  return own && expertBytes > 0 ? left : left * sharedPart;
}

/**
 * Only what can never work: the operator's check of the limit counts the process too, and on a node without a limit memoryPerRank is a
 * ceiling that a small model never reaches.
 */
function checkRoom(
  { bytes, of, own, expertBytes: most, field = "experts.memoryPerRank", dense, offloadBytes: kept = 0 }: RankMemory,
  denseBytes: number,
  pool: number,
): void {
  const [expertBytes, offloadBytes] = own ? [most, kept] : [0, 0];
  const need = denseBytes + pool + expertBytes + offloadBytes;
  if (need <= bytes) return;
  const parts = [
    `dense part ${formatBytes(denseBytes)}`,
    `kvPool ${formatBytes(pool)}`,
    ...(expertBytes > 0 ? [`${field} ${formatBytes(expertBytes)}`] : []),
    ...(offloadBytes > 0 ? [`runtime.kvOffload.memory ${formatBytes(offloadBytes)}`] : []),
  ];
  const kvOffload = offloadBytes > 0 ? ", runtime.kvOffload.memory" : "";
  const streamed = dense === undefined ? "" : `, or set ${dense} lower`;
  const remedy = `raise it to ${mebibytes(need + processBytes)}, or lower ${field}, runtime.kvPool${kvOffload} or runtime.maxContext${streamed}`;
  const message = `${parts.join(" + ")} = ${mebibytes(need)} is above ${of}, ${mebibytes(bytes)}: ${remedy}`;
  throw new AppError(message, { code: "InsufficientMemory", operation: "sizing the KV pool" });
}
