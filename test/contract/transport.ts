// The contract of transports between ranks of training: frames by name in the order in which they were sent, mismatches and silences told
// alike, a backlog that is carried, one rank's end that is everybody's, and bytes that are counted.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import type { Hub, Payload } from "../../runtime/net/collectives/transport.ts";

export interface TransportSubject {
  readonly name: string;
  /** `frameMs`: how long a frame is waited for. */
  open(ranks: number, frameMs?: number): Promise<Hub>;
  /** One rank ends with this error. */
  endOf(hub: Hub, rank: number, error: unknown): void;
  close(hub: Hub): Promise<void>;
}

const stamp = { world: 1, step: 1, plan: "a" };
const mebi = 2 ** 18;
const frame = (layer: number, what = "copies", chunk = 0) => ({ what, layer, chunk, piece: 0 });
const wanted = (layer: number, length: number, what = "copies") => ({ ...frame(layer, what), length });

export function transportContract(subject: TransportSubject): void {
  const over = (what: string, ranks: number, run: (hub: Hub) => Promise<void>, frameMs?: number): void =>
    void test(`${subject.name}: ${what}`, async () => {
      const hub = await subject.open(ranks, frameMs);
      try {
        await run(hub);
      } finally {
        await subject.close(hub);
      }
    });

  over("frames of a name keep their order, whoever is first and whatever is asked for before", 2, async (hub) => {
    const [one, two] = [hub.transport(0), hub.transport(1)];
    const early = one.receive(1, stamp, wanted(0, 1));
    for (const [layer, value] of [
      [0, 1],
      [5, 2],
      [0, 3],
      [5, 4],
      [0, 5],
    ] as const)
      await two.send(0, stamp, frame(layer), Int32Array.of(value));
    const got = [await one.receive(1, stamp, wanted(5, 1)), await early];
    for (const layer of [0, 0, 5]) got.push(await one.receive(1, stamp, wanted(layer, 1)));
    assert.deepEqual(
      got.map(([value]) => value),
      [2, 1, 3, 5, 4],
    );
  });

  over("payloads of each type and size come with their bits, and may be changed once they are sent", 2, async (hub) => {
    const floats = Float32Array.from({ length: 3.5 * mebi + 1 }, (_, i) => Math.fround(Math.sin(i)));
    const view = new Float64Array(1_000).fill(Math.PI).subarray(3, 10);
    const payloads: Payload[] = [floats, view, Int32Array.of(-1, 2 ** 31 - 1), new Float32Array(0), Float32Array.of(Number.NaN, -0)];
    for (const [layer, payload] of payloads.entries()) {
      const copy = payload.slice();
      await hub.transport(0).send(1, stamp, frame(layer), payload);
      payload.fill(7);
      assert.deepEqual(await hub.transport(1).receive(0, stamp, wanted(layer, copy.length)), copy);
    }
  });

  over("a frame of another plan, step, world or length is refused by name, and the next is taken", 2, async (hub) => {
    const [one, two] = [hub.transport(0), hub.transport(1)];
    for (const [field, other] of Object.entries({ world: 2, step: 2, plan: "b" })) {
      await two.send(0, { ...stamp, [field]: other }, frame(3, "counts"), Int32Array.of(1));
      const message = new RegExp(`rank 1 sent counts of layer 3 with ${field} ${other}, this rank has`);
      await assert.rejects(one.receive(1, stamp, wanted(3, 1, "counts")), { code: "PlanMismatch", message });
    }
    await two.send(0, stamp, frame(3, "counts"), Int32Array.of(1, 2));
    const message = /rank 1 sent counts of layer 3 with 2 numbers, this rank waits for 1/;
    await assert.rejects(one.receive(1, stamp, wanted(3, 1, "counts")), { code: "PlanMismatch", message });
    await two.send(0, stamp, frame(3, "counts"), Int32Array.of(9));
    assert.deepEqual(await one.receive(1, stamp, wanted(3, 1, "counts")), Int32Array.of(9));
  });

  const short = 400;
  const late = "a frame that never comes ends the wait by name, and one that comes later is there";
  over(
    late,
    2,
    async (hub) => {
      const message = new RegExp(`rank 1 sent no copies of layer 2 for ${short} ms; see whether it runs`);
      await assert.rejects(hub.transport(0).receive(1, stamp, wanted(2, 1)), { code: "RankSilent", message });
      await hub.transport(1).send(0, stamp, frame(2), Int32Array.of(7));
      assert.deepEqual(await hub.transport(0).receive(1, stamp, wanted(2, 1)), Int32Array.of(7));
    },
    short,
  );

  over("all ranks send before any asks, and each has what was sent", 3, async (hub) => {
    const rounds = 6;
    await Promise.all(
      [0, 1, 2].map(async (rank) => {
        const own = hub.transport(rank);
        const others = [0, 1, 2].filter((other) => other !== rank);
        for (let i = 0; i < rounds; i++) {
          for (const to of others) await own.send(to, stamp, frame(i), new Float32Array(mebi).fill(10 * rank + i));
        }
        for (let i = 0; i < rounds; i++) {
          for (const from of others) assert.equal((await own.receive(from, stamp, wanted(i, mebi)))[mebi - 1], 10 * from + i);
        }
      }),
    );
  });

  over("one rank's end is the error of all that wait, and of all that come to wait", 3, async (hub) => {
    const waits = [0, 2].map((rank) => hub.transport(rank).receive(1, stamp, wanted(0, 1)));
    const told = Promise.all(waits.map((wait) => assert.rejects(wait, { code: "NonFiniteLoss", message: /^step 1: loss NaN/ })));
    await hub.transport(0).send(1, stamp, frame(9), Int32Array.of(1));
    await hub.transport(2).send(1, stamp, frame(9), Int32Array.of(1));
    subject.endOf(hub, 1, new AppError("step 1: loss NaN", { code: "NonFiniteLoss" }));
    await told;
    await assert.rejects(hub.transport(0).send(2, stamp, frame(0), Int32Array.of(1)), { code: "NonFiniteLoss" });
    await assert.rejects(hub.transport(2).receive(0, stamp, wanted(0, 1)), { code: "NonFiniteLoss" });
  });

  over("bytes of payloads are counted by exchange, once", 2, async (hub) => {
    for (const [what, length] of [
      ["copies", 3 * mebi],
      ["sums", 5],
      ["sums", 6],
    ] as const) {
      await hub.transport(0).send(1, stamp, frame(0, what), new Float32Array(length));
      await hub.transport(1).receive(0, stamp, wanted(0, length, what));
    }
    const told = (rank: number) => ["copies", "sums"].map((what) => hub.takeTraffic(rank, what));
    const both = [12 * mebi, 44];
    assert.deepEqual(
      told(0),
      both.map((sent) => ({ sent, received: 0 })),
    );
    assert.deepEqual(
      told(1),
      both.map((received) => ({ sent: 0, received })),
    );
    assert.deepEqual(
      told(0),
      [0, 0].map((sent) => ({ sent, received: 0 })),
    );
  });
}
