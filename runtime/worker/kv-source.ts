// The source of bulk reads of keys and values: blocks that the engine still has, at the requested pace.
import { createHash } from "node:crypto";
import { AppError, movedKv } from "../../crds/common.ts";
import type { EngineKv, KvBlock } from "../engine/engine.ts";
import { pacedSend } from "../experts/memory/shard-server.ts";
import type { TransferPace } from "../experts/memory/transfer-pace.ts";
import type { KvRead } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Caller } from "../net/grpc.ts";
import { chunkBytesMax, type ReadCall } from "../net/read-host.ts";

const idBytes = 16;
/** A read is one frame of a caller. */
export const kvBlocksMax = 512;
/** A transfer has so many blocks that are read before they are sent, or came and are not written: an engine moves them between its steps. */
export const kvAheadBytes = 16 * 1024 * 1024;

interface KvSourceOptions {
  readonly kv: Pick<EngineKv, "read">;
  readonly pace: Pick<TransferPace, "begin" | "rate">;
  /** Throws AppError for callers that are no ranks. */
  readonly authorize: (call: Caller) => void;
  readonly onServed: (bytes: number) => void;
}

export class KvSource {
  readonly #options: KvSourceOptions;
  #reads = 0;
  #readAt = Number.NEGATIVE_INFINITY;

  constructor(options: KvSourceOptions) {
    this.#options = options;
  }

  /** Monotonic milliseconds: when a block was read last, or now. */
  get readAt(): number {
    return this.#reads > 0 ? performance.now() : this.#readAt;
  }

  readonly serve = async (request: KvRead, call: ReadCall): Promise<void> => {
    const { authorize, pace } = this.#options;
    authorize(call);
    const blocks = blocksOf(request);
    const limit = Number(request.maxBytesPerSecond);
    const end = limit > 0 ? pace.begin(limit) : () => {};
    this.#reads += 1;
    try {
      await this.#send(blocks, call, limit);
    } finally {
      end();
      this.#reads -= 1;
      this.#readAt = performance.now();
    }
  };

  async #send(blocks: readonly Omit<KvBlock, "before">[], call: ReadCall, limit: number): Promise<void> {
    const { kv, pace, onServed } = this.#options;
    const chunk = pacedSend(call, pace, { limit, most: limit });
    const hash = createHash("sha256");
    let offset = 0;
    const send = async (data: Uint8Array): Promise<void> => {
      await chunk(offset, data);
      hash.update(data);
      offset += data.byteLength;
    };
    const waiting = [...blocks];
    const ahead: ReturnType<EngineKv["read"]>[] = [];
    const readNext = (): void => {
      const block = waiting.shift();
      const reading = block && kv.read(block);
      reading?.catch(nothing); // the call may end before
      if (reading) ahead.push(reading);
    };
    for (readNext(); ahead.length > 0; ) {
      const data = await ahead.shift();
      if (data === undefined) return;
      while (waiting.length > 0 && ahead.length * data.byteLength < kvAheadBytes) readNext();
      for (let at = 0; at < data.byteLength; at += chunkBytesMax) await send(data.subarray(at, at + chunkBytesMax));
      await send(hash.copy().digest());
      onServed(data.byteLength);
    }
  }
}

/** Throws `InvalidRequest`. */
function blocksOf({ ids, from, to }: KvRead): readonly Omit<KvBlock, "before">[] {
  const invalid = (what: string): AppError => new AppError(what, { code: "InvalidRequest", operation: "serving keys and values" });
  if (from % movedKv.step !== 0 || to % movedKv.step !== 0 || from >= to) throw invalid(`from: ${from}, to: ${to}`);
  const count = Math.ceil((to - from) / movedKv.tokens);
  if (count > kvBlocksMax || ids.byteLength !== count * idBytes) throw invalid(`ids: ${ids.byteLength} bytes for ${count} blocks`);
  return Array.from({ length: count }, (_, i) => ({
    id: Buffer.from(ids.subarray(i * idBytes, (i + 1) * idBytes)).toString("hex"),
    from: from + i * movedKv.tokens,
    to: Math.min(to, from + (i + 1) * movedKv.tokens),
  }));
}

function nothing(): void {}
