// Reads one expert from another pod and checks it against the index; a silent source is given up.
import { AppError } from "../../../crds/common.ts";
import type { CodecName } from "../../../crds/names.ts";
import { readLimits } from "../../net/failure-detector.ts";
import { newPart, receive } from "../../net/file-reads.ts";
import { chunkBytesMax } from "../../net/read-host.ts";
import type { ReadLink } from "../../net/read-link.ts";
import { leastShare } from "../../placement/backoff.ts";
import type { ExpertIndex } from "../../weights/store.ts";
import type { TierRequest } from "./tier.ts";
import { pacedMs } from "./transfer-pace.ts";

export interface UnitSource {
  /** Messages show it: "rank 3", "the weight server". */
  readonly name: string;
  readonly reads: Pick<ReadLink, "read">;
  readonly index: Pick<ExpertIndex, "modelDigest" | "codecs">;
  readonly codec: CodecName;
  /** Returns a function that unsubscribes. */
  readonly onGone?: (gone: () => void) => () => void;
}

type UnitRequest = Pick<TierRequest, "layer" | "expert" | "bytesPerSecond" | "rate" | "signal">;

export async function receiveUnit({ name, reads, index, codec, onGone }: UnitSource, request: UnitRequest): Promise<Uint8Array> {
  const { layer, expert, bytesPerSecond, rate, signal } = request;
  const entry = index.codecs[codec]?.units[layer]?.[expert];
  if (entry === undefined) throw new AppError(`expert ${layer}/${expert}: the model has none`, { code: "ExpertNotFound" });
  signal.throwIfAborted();
  const limits = { maxBytesPerSecond: BigInt(Math.floor(rate)), limitBytesPerSecond: BigInt(Math.floor(bytesPerSecond)) };
  const read = reads.read({ case: "unit", value: { modelDigest: index.modelDigest, layer, expert, codec, ...limits } });
  const corrupt = (why: string): AppError =>
    new AppError(`expert ${layer}/${expert} from ${name}: ${why}`, { code: "CorruptShard", operation: "fetching a shard" });
  const abort = () => read.cancel();
  // A chunk that is slow on purpose is no stall.
  const chunkMs = bytesPerSecond > 0 ? pacedMs(Math.min(chunkBytesMax, entry.bytes), bytesPerSecond * leastShare) : 0;
  signal.addEventListener("abort", abort, { once: true });
  const unwatch = onGone?.(abort);
  const unit = new Uint8Array(entry.bytes);
  const part = newPart(entry.bytes);
  try {
    const unfit = () => corrupt("sizes do not match the index");
    await receive(read, part, { stallMs: readLimits.unitMs + chunkMs, unfit, store: (data, at) => unit.set(data, at) });
  } finally {
    unwatch?.();
    signal.removeEventListener("abort", abort);
  }
  if (part.received !== entry.bytes) throw corrupt(`${part.received} of ${entry.bytes} bytes`);
  if (part.hash.digest("hex") !== entry.sha256) throw corrupt("its SHA-256 is not the index's");
  return unit;
}
