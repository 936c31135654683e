// The transfer server on loopback: what is more than it serves at once is told so.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createTestCa } from "../../test/support/certs.ts";
import { within } from "../../test/support/ranks.ts";
import type { ModelStore } from "../weights/store.ts";
import { Shards } from "../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { connect, createServer, fromStatus } from "../wire/grpc.ts";
import { serverNames } from "../wire/tls.ts";
import { createShardServer } from "./shard-server.ts";
import { TransferPace } from "./transfer-pace.ts";

const unit = new Uint8Array(1000);
const served = 8; // at once

test("the transfer above the limit ends at once with Busy, and the others go on", async () => {
  const ca = createTestCa();
  let release = () => {};
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  const store = {
    index: { modelDigest: "d", layers: 1, experts: 1, codecs: { f32: { file: "f", units: [[{ offset: 0, bytes: 1000, sha256: "s" }]] } } },
    readUnit: () => gate.then(() => unit),
  } as unknown as ModelStore;
  const server = createServer(ca.issue("rank-0", "default", "mix"));
  server.add(
    Shards,
    createShardServer({
      ...{ store, codec: "f32", pace: new TransferPace({ onChange: () => {} }) },
      ...{ hosts: () => true, authorize: () => {}, onServed: () => {} },
    }),
  );
  const address = `127.0.0.1:${await server.listen("127.0.0.1", 0)}`;
  const client = connect(Shards, { address, serverName: serverNames.rank(0, "default", "mix"), tls: ca.issue("rank-1", "default", "mix") });
  const fetchOne = async (): Promise<number> => {
    let bytes = 0;
    for await (const chunk of client.fetch({ modelDigest: "d", layer: 0, expert: 0, codec: "f32" })) bytes += chunk.data.byteLength;
    return bytes;
  };
  try {
    const running = Array.from({ length: served }, fetchOne);
    const ninth = within(2_000, fetchOne(), "an answer");
    await assert.rejects(ninth, (error) => fromStatus(error, "fetching").code === "Busy");
    release();
    assert.deepEqual(await Promise.all(running), Array(served).fill(unit.byteLength));
    assert.equal(await fetchOne(), unit.byteLength);
  } finally {
    release();
    client.close();
    await server.close(200);
  }
});
