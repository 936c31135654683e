// The source of bulk reads of experts: verified units in chunks, at the requested pace.
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { UnitRead } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Caller } from "../../net/grpc.ts";
import { chunkBytesMax, type ReadCall, type ReadSources } from "../../net/read-host.ts";
import type { ModelStore } from "../../weights/store.ts";
import type { StoreReads } from "./store-reads.ts";
import { pacedMs, type TransferPace } from "./transfer-pace.ts";

const operation = "serving an expert";

export interface ShardServerOptions {
  readonly store: Pick<ModelStore, "index">;
  readonly reads: StoreReads;
  readonly codec: CodecName;
  readonly pace: TransferPace;
  readonly hosts: (layer: number, expert: number) => boolean;
  /** Throws AppError for callers that are no members. */
  readonly authorize: (call: Caller) => void;
  readonly onServed: (bytes: number) => void;
}

export function shardSource(options: ShardServerOptions): NonNullable<ReadSources["unit"]> {
  return async (request, call) => {
    options.authorize(call);
    const fault = checkRequest(request, options);
    if (fault !== undefined) throw fault;
    const { limit } = paceOf(request);
    const end = limit > 0 ? options.pace.begin(limit) : () => {};
    try {
      await send(request, call, options);
    } finally {
      end();
    }
  };
}

async function send(request: UnitRead, call: ReadCall, options: ShardServerOptions): Promise<void> {
  const unit = await options.reads.read(request.layer, request.expert, call.signal);
  const chunk = pacedSend(call, options.pace, paceOf(request));
  for (let offset = 0; offset < unit.byteLength; offset += chunkBytesMax) {
    const data = unit.subarray(offset, offset + chunkBytesMax);
    await chunk(offset, data);
    options.onServed(data.byteLength);
  }
}

/** Bytes per second: this rank's share of `limit` (0 = unlimited), and the receiver's `most`. */
interface SendPace {
  readonly limit: number;
  readonly most: number;
}

/** Resolves when the next chunk may go. */
export function pacedSend(call: ReadCall, pace: Pick<TransferPace, "rate">, { limit, most }: SendPace): ReadCall["send"] {
  let dueAt = performance.now();
  return async (offset, data) => {
    await call.send(offset, data);
    if (limit <= 0) return;
    dueAt += pacedMs(data.byteLength, Math.min(most || limit, pace.rate(limit)));
    const waitMs = dueAt - performance.now();
    if (waitMs > 1) await sleep(waitMs, undefined, { signal: call.signal });
  };
}

function paceOf(request: UnitRead): SendPace {
  const most = Number(request.maxBytesPerSecond);
  return { most, limit: Number(request.limitBytesPerSecond) || most };
}

function checkRequest({ modelDigest, codec: asked, layer, expert }: UnitRead, options: ShardServerOptions): AppError | undefined {
  const { store, codec, hosts } = options;
  const invalid = (what: string) => new AppError(what, { code: "InvalidRequest", operation });
  if (modelDigest !== store.index.modelDigest) return invalid(`model_digest: ${modelDigest} is not the model here`);
  if (asked !== codec) return invalid(`codec: ${asked}, this rank holds ${codec}`);
  if (store.index.codecs[codec]?.units[layer]?.[expert] === undefined) return invalid(`layer ${layer}, expert ${expert}: out of range`);
  if (!hosts(layer, expert)) return new AppError(`expert ${layer}/${expert} is not hosted here`, { code: "NotHosted", operation });
  return undefined;
}
