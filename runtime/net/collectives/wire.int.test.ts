// Two ranks of training in two processes: payloads go there and back with their bits, and one that is killed is named long before silence.
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import type { WireRankOrder } from "../../../test/kit/training/wire-rank.ts";
import { rankTls } from "../../../test/kit/training/wire-ranks.ts";
import { gaussian } from "../../kernels/random.ts";
import { WireTransport } from "./wire.ts";

const numbers = 3_000_001;

test("payloads go to another process and back, and its death is the error of who waits", async (t) => {
  let port = 0;
  const rank = new WireTransport({
    ...{ job: "j", world: 1, rank: 0, ranks: 2, namespace: "default", name: "train", tls: rankTls(0) },
    address: () => `127.0.0.1:${port}`,
    onProblem: (message) => assert.fail(message),
  });
  t.after(() => rank.close());
  const address = `127.0.0.1:${await rank.listen("127.0.0.1", 0)}`;
  const child = fork(new URL("../../../test/kit/training/wire-rank.ts", import.meta.url));
  t.after(() => child.kill("SIGKILL"));
  const { cert, key, ca } = rankTls(1).current();
  const order: WireRankOrder = { address, tls: { cert: String(cert), key: String(key), ca: String(ca) }, numbers };
  child.send(order);
  [port] = (await once(child, "message")) as [number];
  const back = { what: "back", layer: 0, chunk: 0, piece: 0, length: numbers };
  for (let step = 1; step <= 3; step++) {
    const payload = gaussian(step, numbers);
    await rank.send(1, { world: 1, step, plan: "a" }, { what: "there", layer: 0, chunk: 0, piece: 0 }, payload);
    assert.deepEqual(await rank.receive(1, { world: 1, step, plan: "a" }, back), payload);
  }
  const waits = assert.rejects(rank.receive(1, { world: 1, step: 4, plan: "a" }, back), { code: "RankLost", message: /^rank 1 is gone: / });
  const begun = performance.now();
  child.kill("SIGKILL");
  await waits;
  assert.ok(performance.now() - begun < 5_000);
});
