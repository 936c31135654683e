// Shards.Fetch: sends a verified expert in chunks, hash last, at the requested pace.
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { drained } from "../../net/drained.ts";
import type { FetchChunk, FetchRequest, Shards } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { FetchChunkSchema } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { type ServerWritable, toStatus } from "../../net/grpc.ts";
import { create, type HandlersOf } from "../../net/service.ts";
import type { ModelStore } from "../../weights/store.ts";
import type { StoreReads } from "./store-reads.ts";
import type { TransferPace } from "./transfer-pace.ts";

export const chunkBytesMax = 1024 * 1024;
/** More wait at the receiver, which has its own bound. */
const concurrentFetchesMax = 8;
const paceSliceMs = 100;

export interface ShardServerOptions {
  readonly store: Pick<ModelStore, "index">;
  readonly reads: StoreReads;
  readonly codec: CodecName;
  readonly pace: TransferPace;
  readonly hosts: (layer: number, expert: number) => boolean;
  /** Throws AppError for callers that are no members. */
  readonly authorize: (call: ServerWritable<FetchRequest, FetchChunk>) => void;
  readonly onServed: (bytes: number) => void;
}

export function createShardServer(options: ShardServerOptions): HandlersOf<typeof Shards> {
  let active = 0;
  return {
    fetch: (call) => {
      if (active >= concurrentFetchesMax) {
        const full = new AppError("too many transfers at once", { code: "Busy", operation: "serving a shard", retry: "backoff" });
        call.emit("error", toStatus(full)); // destroy would send no status
        return;
      }
      active += 1;
      const { limit } = paceOf(call.request);
      const end = limit > 0 ? options.pace.begin(limit) : () => {};
      send(call, options)
        .then(
          () => call.end(),
          (error) => void call.emit("error", toStatus(error)),
        )
        .finally(() => {
          end();
          active -= 1;
        });
    },
  };
}

async function send(call: ServerWritable<FetchRequest, FetchChunk>, options: ShardServerOptions): Promise<void> {
  const { store, codec, pace } = options;
  options.authorize(call);
  const { request } = call;
  const fault = checkRequest(request, store, codec);
  if (fault !== undefined) throw new AppError(fault, { code: "InvalidRequest", operation: "serving a shard" });
  if (!options.hosts(request.layer, request.expert)) {
    throw new AppError(`expert ${request.layer}/${request.expert} is not hosted here`, { code: "NotHosted", operation: "serving a shard" });
  }
  const left = new AbortController();
  call.on("cancelled", () => left.abort());
  const unit = await options.reads.read(request.layer, request.expert, left.signal);
  const { limit, most } = paceOf(request);
  let dueAt = performance.now();
  for (let offset = 0; offset < unit.byteLength; offset += chunkBytesMax) {
    if (call.cancelled) return;
    const data = unit.subarray(offset, offset + chunkBytesMax);
    const chunk = create(FetchChunkSchema, { offset: BigInt(offset), totalBytes: BigInt(unit.byteLength), data });
    if (!call.write(chunk)) await drained(call);
    options.onServed(data.byteLength);
    if (limit <= 0) continue;
    dueAt += (data.byteLength / Math.min(most, pace.rate(limit))) * 1000;
    await waitUntil(call, dueAt);
  }
}

/** Bytes per second: this rank's share of `limit`, and the receiver's `most`. */
function paceOf(request: FetchRequest): { readonly limit: number; readonly most: number } {
  const most = Number(request.maxBytesPerSecond);
  return { most, limit: Number(request.limitBytesPerSecond) || most };
}

/** It waits in slices, so that a cancelled call ends at once. */
async function waitUntil(call: { readonly cancelled: boolean }, untilMs: number): Promise<void> {
  for (let leftMs = untilMs - performance.now(); leftMs > 1 && !call.cancelled; leftMs = untilMs - performance.now()) {
    await sleep(Math.min(leftMs, paceSliceMs));
  }
}

function checkRequest(request: FetchRequest, store: Pick<ModelStore, "index">, codec: CodecName): string | undefined {
  if (request.modelDigest !== store.index.modelDigest) return `model_digest: ${request.modelDigest} is not the model here`;
  if (request.codec !== codec) return `codec: ${request.codec}, this rank holds ${codec}`;
  if (store.index.codecs[codec]?.units[request.layer]?.[request.expert] === undefined)
    return `layer ${request.layer}, expert ${request.expert}: out of range`;
  return undefined;
}
