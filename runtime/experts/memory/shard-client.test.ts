// A transfer from a rank that falls silent: the next source is asked as soon as the rank is known to be gone. The wire is replaced.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { grpcNetwork } from "../../net/grpc.ts";
import type { TlsSource } from "../../net/tls.ts";
import { silentLog } from "../../observe/log.ts";
import type { ModelStore } from "../../weights/store.ts";
import { type PeerClients, Peers } from "../peers.ts";
import { type FetchOutcome, PeerTier } from "./shard-client.ts";
import { SharedTime } from "./shared-time.ts";

const unit = new Uint8Array(1000).fill(3);

/** A call that ends with the unit, or says nothing until it is cancelled. */
class Call extends PassThrough {
  constructor(speaks: boolean) {
    super({ objectMode: true });
    if (speaks) this.end({ offset: 0n, data: unit });
  }
  cancel(): void {
    this.destroy(this.readableEnded ? undefined : new AppError("cancelled", { code: "Cancelled" }));
  }
}

class ScriptedPeers extends Peers {
  readonly asked: number[] = [];
  override clients(rank: number): PeerClients | undefined {
    const read = () => {
      this.asked.push(rank);
      return new Call(rank === 2);
    };
    return { reads: { read } } as unknown as PeerClients;
  }
}

test("a source that becomes suspect is left at once for the next, and is not asked again", async () => {
  const self = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  const peers = new ScriptedPeers({ self, namespace: "n", name: "m", tls: {} as TlsSource, network: grpcNetwork, log: silentLog });
  const member = (rank: number) => ({ rank, podName: `p${rank}`, podUid: `u${rank}`, bootId: "b", address: "a", state: "active" as const });
  peers.apply({ version: 1, members: [member(1), member(2)] });
  const sha256 = createHash("sha256").update(unit).digest("hex");
  const units = [[{ offset: 0, bytes: unit.byteLength, sha256 }]];
  const store = { index: { modelDigest: "m", codecs: { f32: { file: "f", units } } } } as unknown as ModelStore;
  const outcomes: FetchOutcome["result"][] = [];
  const time = new SharedTime(() => performance.now());
  const tier = new PeerTier({ peers, store, codec: "f32", time, report: ({ result }) => outcomes.push(result) });
  const request = { layer: 0, expert: 0, sources: [1, 2], bytesPerSecond: 0, rate: 0 } as const;
  const signal = new AbortController().signal;
  const startedAt = performance.now();
  setTimeout(() => peers.suspect(1, new AppError("rank 1 said nothing", { code: "Silent" })), 20);
  const got = await tier.read({ ...request, signal });
  assert.deepEqual([got?.source, got?.unit.byteLength], [2, unit.byteLength]);
  assert.ok(performance.now() - startedAt < 2_000, "not after the patience with a slow transfer");
  assert.deepEqual(outcomes, ["error", "ok"]);
  await tier.read({ ...request, signal });
  assert.deepEqual(peers.asked, [1, 2, 2]);
});
