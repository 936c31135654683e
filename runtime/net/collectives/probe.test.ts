// The way to the next rank: a slow link shows as time in which nobody is busy, larger experts take longer, and one rank has no way.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Loopback } from "./loopback.ts";
import { measureWay } from "./probe.ts";
import type { Transport } from "./transport.ts";

const stamp = { world: 1, step: 1, plan: "a" };

/** Ranks whose frames take so long to be sent. */
function slowed(transport: Transport, ms: number): Transport {
  const { rank, ranks } = transport;
  return {
    rank,
    ranks,
    receive: (from, of, wanted) => transport.receive(from, of, wanted),
    async send(to, of, name, payload) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      await transport.send(to, of, name, payload);
    },
  };
}

test("waiting for a link is told apart from being busy", async () => {
  const hub = new Loopback(3);
  const ways = await Promise.all([0, 1, 2].map((rank) => measureWay(slowed(hub.transport(rank), 200), stamp, 1000)));
  for (const { seconds, busy } of ways) {
    assert.ok(seconds >= 0.19, `${seconds} s`);
    assert.ok(busy < seconds, `${busy} of ${seconds} s busy`);
  }
});

test("a rank that comes late is no time on the way of any", async () => {
  const hub = new Loopback(3);
  const ways = await Promise.all(
    [0, 1, 2].map(async (rank) => {
      if (rank === 2) await new Promise((resolve) => setTimeout(resolve, 400));
      return measureWay(hub.transport(rank), stamp, 1000);
    }),
  );
  for (const { seconds } of ways) assert.ok(seconds < 0.2, `${seconds} s`);
});

test("what is larger than a probe takes as much longer, and one rank alone has no way", async () => {
  const hub = new Loopback(2);
  const floats = 2 ** 24;
  const ways = await Promise.all([0, 1].map((rank) => measureWay(slowed(hub.transport(rank), 50), stamp, floats)));
  for (const { seconds } of ways) assert.ok(seconds >= 16 * 0.049, `${seconds} s for 16 probes' floats`);
  for (const rank of [0, 1]) assert.equal(hub.takeTraffic(rank, "way").received, 2 * 2 ** 22);
  assert.deepEqual(await measureWay(new Loopback(1).transport(0), stamp, floats), { seconds: 0, busy: 0 });
});
