// The transfer server on loopback: what is more than it serves at once is told so, and two shares of a limit are not multiplied.

import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { createTestCa } from "../../../test/kit/network/certs.ts";
import { within } from "../../../test/kit/wait.ts";
import { createServer } from "../../net/grpc.ts";
import { ReadHost } from "../../net/read-host.ts";
import { connectReads } from "../../net/read-link.ts";
import { serverNames } from "../../net/tls.ts";
import { leastShare } from "../../placement/backoff.ts";
import type { ModelStore } from "../../weights/store.ts";
import { shardSource } from "./shard-server.ts";
import { StoreReads } from "./store-reads.ts";
import { TransferPace } from "./transfer-pace.ts";

const unit = new Uint8Array(1000);
const served = 8; // at once

function sourceOf(ready: Promise<void>, pace: TransferPace) {
  const store = {
    index: { modelDigest: "d", layers: 1, experts: 1, codecs: { f32: { file: "f", units: [[{ offset: 0, bytes: 1000, sha256: "s" }]] } } },
    readUnit: () => ready.then(() => unit),
  } as unknown as ModelStore;
  const reads = new StoreReads(store, "f32");
  const every = { authorize: () => {}, hosts: () => true, onServed: () => {} };
  return shardSource({ store, reads, codec: "f32", pace, ...every });
}

/** A server with one unit that it reads when `ready` allows, and a caller. */
async function serverAndCaller(ready: Promise<void>, pace: TransferPace) {
  const ca = createTestCa();
  const server = createServer(ca.issue("rank-0", "default", "mix"));
  const source = sourceOf(ready, pace);
  server.addReads(new ReadHost({ unit: source }), "uid", () => {});
  const address = `127.0.0.1:${await server.listen("127.0.0.1", 0)}`;
  const self = { deploymentUid: "uid", rank: 1, podUid: "u", bootId: "b" };
  const tls = ca.issue("rank-1", "default", "mix");
  const link = connectReads({ address, serverName: serverNames.rank(0, "default", "mix"), tls, self });
  return {
    async fetch(rates: { maxBytesPerSecond?: bigint; limitBytesPerSecond?: bigint } = {}): Promise<number> {
      let bytes = 0;
      const value = { modelDigest: "d", layer: 0, expert: 0, codec: "f32", ...rates };
      for await (const { data } of link.read({ case: "unit", value })) bytes += data.byteLength;
      return bytes;
    },
    async close(): Promise<void> {
      link.close();
      await server.close(200);
    },
  };
}

test("the transfer above the limit ends at once with Busy, and the others go on", async () => {
  let release = () => {};
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const { fetch, close } = await serverAndCaller(gate, new TransferPace({ onChange: () => {} }));
  try {
    const all = Array.from({ length: served + 1 }, () => fetch());
    const refusals = all.map((one) => one.then(() => assert.fail("all were served"), AppError.from));
    assert.equal((await within(30_000, Promise.any(refusals), "a refusal")).code, "Busy");
    release();
    const ends = await Promise.allSettled(all);
    assert.deepEqual(
      ends.flatMap((end) => (end.status === "fulfilled" ? [end.value] : [])),
      Array(served).fill(unit.byteLength),
    );
    assert.equal(await fetch(), unit.byteLength);
  } finally {
    release();
    await close();
  }
});

test("when both sides have backed off a transfer goes at the smaller share of the limit, not at a share of a share", async () => {
  const backedOff = { begin: () => () => {}, rate: (limit: number) => limit * leastShare } as unknown as TransferPace;
  const { fetch, close } = await serverAndCaller(Promise.resolve(), backedOff);
  const limit = 2 * unit.byteLength; // half a second for a unit at the full rate
  const ms = async (receiverShare: number): Promise<number> => {
    const started = performance.now();
    const most = BigInt(Math.floor(limit * receiverShare * 8));
    assert.equal(await fetch({ maxBytesPerSecond: most, limitBytesPerSecond: BigInt(limit * 8) }), unit.byteLength);
    return performance.now() - started;
  };
  try {
    for (const receiverShare of [1, leastShare]) {
      const took = await ms(receiverShare);
      assert.ok(took >= 475 && took < 2_000, `${took} ms for what takes 500 ms at an eighth, and 4000 ms at a sixty-fourth`);
    }
  } finally {
    await close();
  }
});
