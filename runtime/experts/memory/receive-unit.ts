// Receives one expert unit over Shards.Fetch and checks it against the index; a silent sender is given up.
import { createHash } from "node:crypto";
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import type { Shards } from "../../net/gen/enodia/runtime/v1/runtime_pb.js";
import { type Identity, toSender } from "../../net/mapping.ts";
import type { ServiceClient } from "../../net/service.ts";
import { leastShare } from "../../placement/backoff.ts";
import type { ExpertIndex } from "../../weights/store.ts";
import { chunkBytesMax } from "./shard-server.ts";
import type { TierRequest } from "./tier.ts";

/** Milliseconds without a byte. */
const stallMs = 5_000;

export interface UnitSource {
  /** Messages show it: "rank 3", "the weight server". */
  readonly name: string;
  readonly shards: Pick<ServiceClient<(typeof Shards)["method"]>, "fetch">;
  readonly self: Identity;
  readonly index: Pick<ExpertIndex, "modelDigest" | "codecs">;
  readonly codec: CodecName;
  /** Returns a function that unsubscribes. */
  readonly onGone?: (gone: () => void) => () => void;
}

type UnitRequest = Pick<TierRequest, "layer" | "expert" | "bytesPerSecond" | "rate" | "signal">;

export async function receiveUnit(source: UnitSource, request: UnitRequest): Promise<Uint8Array> {
  const { name, shards, self, index, codec, onGone } = source;
  const { layer, expert, bytesPerSecond, rate, signal } = request;
  const entry = index.codecs[codec]?.units[layer]?.[expert];
  if (entry === undefined) throw new AppError(`expert ${layer}/${expert}: the model has none`, { code: "ExpertNotFound" });
  const call = shards.fetch({
    sender: toSender(self),
    modelDigest: index.modelDigest,
    layer,
    expert,
    codec,
    maxBytesPerSecond: BigInt(Math.floor(rate)),
    limitBytesPerSecond: BigInt(Math.floor(bytesPerSecond)),
  });
  const corrupt = (why: string): AppError =>
    new AppError(`expert ${layer}/${expert} from ${name}: ${why}`, { code: "CorruptShard", operation: "fetching a shard" });
  const abort = () => call.cancel();
  // A chunk that is slow on purpose is no stall.
  const chunkMs = bytesPerSecond > 0 ? (Math.min(chunkBytesMax, entry.bytes) / (bytesPerSecond * leastShare)) * 1000 : 0;
  const patienceMs = stallMs + chunkMs;
  let stall = setTimeout(abort, patienceMs);
  signal.addEventListener("abort", abort, { once: true });
  const unwatch = onGone?.(abort);
  const unit = new Uint8Array(entry.bytes);
  const hash = createHash("sha256");
  let received = 0;
  try {
    for await (const chunk of call as AsyncIterable<{ offset: bigint; totalBytes: bigint; data: Uint8Array }>) {
      clearTimeout(stall);
      stall = setTimeout(abort, patienceMs);
      const bad =
        Number(chunk.totalBytes) !== entry.bytes || Number(chunk.offset) !== received || received + chunk.data.byteLength > entry.bytes;
      if (bad) throw corrupt("sizes do not match the index");
      unit.set(chunk.data, received);
      hash.update(chunk.data);
      received += chunk.data.byteLength;
    }
  } finally {
    clearTimeout(stall);
    unwatch?.();
    signal.removeEventListener("abort", abort);
    call.cancel();
  }
  if (received !== entry.bytes) throw corrupt(`${received} of ${entry.bytes} bytes`);
  if (hash.digest("hex") !== entry.sha256) throw corrupt("its SHA-256 is not the index's");
  return unit;
}
