// One and three workers of one deployment over real gRPC and TLS: the text depends neither on their number, nor on where
// experts are, nor on a rank that dies. A stand-in engine computes (engine.int.test.ts has the real one).

import assert from "node:assert/strict";
import { type AddressInfo, connect as connectTo, createServer as createProxy, type Socket } from "node:net";
import { after, before, describe, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { doubleEngine } from "../../test/kit/ranks/double-engine.ts";
import { Ranks, tinyStore } from "../../test/kit/ranks/ranks.ts";
import { until } from "../../test/kit/wait.ts";
import type { Engine } from "../engine/engine.ts";

const prompts = Array.from({ length: 6 }, (_, i) => [i + 1, 7 * i + 3, 11]);
const tokens = 24;
let store: Awaited<ReturnType<typeof tinyStore>>;
let want: number[][];

async function started(count: number, options: { layerMs?: number; budget?: number } = {}): Promise<Ranks> {
  const ranks = new Ranks(store, () => ({
    ...(options.budget === undefined ? {} : { expertBudgetBytes: options.budget }),
    overrides: { createEngine: doubleEngine(store.index, options) },
  }));
  for (let rank = 0; rank < count; rank++) await ranks.launch(rank);
  await ranks.firstPlan();
  return ranks;
}
const texts = (ranks: Ranks, order: (i: number) => number[]) =>
  Promise.all(prompts.map((prompt, i) => ranks.text(order(i), prompt, tokens)));

before(async () => {
  store = await tinyStore();
  const one = await started(1);
  try {
    want = await texts(one, () => [0]);
  } finally {
    await one.close();
  }
});
after(() => store.remove());

test("texts of different prompts differ, so that a wrong text would show", () => {
  assert.equal(new Set(want.map((text) => text.join())).size, prompts.length);
});

describe("three workers", () => {
  test("give the text of one worker, whichever rank serves", async () => {
    const ranks = await started(3);
    try {
      for (const first of [0, 1, 2]) assert.deepEqual(await texts(ranks, () => [first]), want);
      const served = [...ranks.byRank.values()].map(({ worker }) => worker.engine.hosted().flat().length);
      assert.deepEqual(served.sort(), [2, 3, 3], "each hosts its part only");
    } finally {
      await ranks.close();
    }
  });

  test("give the same text while experts move in a loop, and hold only what the plan gives them afterwards", async () => {
    const ranks = await started(3, { layerMs: 1 });
    try {
      let moving = true;
      const mover = (async () => {
        for (let shift = 1; moving && shift < 200; shift++) {
          const layers = [0, 1].map((layer) =>
            ranks.layerPlan(layer, 0, (e) => (shift % 2 ? [(e + layer + shift) % 3, (e + shift + 1) % 3] : [(e + shift) % 3])),
          );
          await ranks.carryOut(
            ranks.nextPlan(
              layers.map((l) => ({
                ...l,
                hosts: l.hosts.map((row) => [...new Set(row)]),
                weights: l.hosts.map((row) => (new Set(row).size === 1 ? [1000] : [500, 500])),
              })),
            ),
          );
        }
      })();
      for (let round = 0; round < 3; round++) assert.deepEqual(await texts(ranks, (i) => [(i + round) % 3]), want);
      moving = false;
      await mover;
      assert.ok((ranks.plan?.epoch ?? 0) > 3, `only ${ranks.plan?.epoch} epochs`);
      for (const { rank, worker } of ranks.byRank.values()) {
        const planned = ranks.plan!.layers.map(({ hosts }) => hosts.flatMap((row, expert) => (row.includes(rank) ? [expert] : [])));
        await until("expert replicas are released", () => JSON.stringify(worker.engine.hosted()) === JSON.stringify(planned));
      }
    } finally {
      await ranks.close();
    }
  });

  test("finish every text when one of them is killed, and its sole expert replicas are loaded on demand", async () => {
    const ranks = await started(3, { layerMs: 1 });
    try {
      let killed: Promise<number> | undefined;
      const all = prompts.map((prompt, i) =>
        ranks.text([i % 3, (i + 1) % 3, (i + 2) % 3], prompt, tokens, (soFar) => {
          if (soFar.length === 5) killed ??= ranks.kill(1);
        }),
      );
      assert.deepEqual(await Promise.all(all), want);
      assert.ok(killed);
      await killed;
      assert.deepEqual(await texts(ranks, (i) => [i % 2 ? 0 : 2]), want, "and new texts need it neither");
    } finally {
      await ranks.close();
    }
  });

  test("serve on when a killed worker comes back empty on its address while the operator is away", async () => {
    const ranks = await started(3);
    try {
      const port = await ranks.kill(1);
      assert.deepEqual(await texts(ranks, () => [0]), want);
      const again = await ranks.launch(1, port);
      assert.deepEqual(await texts(ranks, () => [2]), want);
      assert.notEqual(again.worker.health.reasons().length, 0, "it has no plan yet");
      await until("the others trust it again", () =>
        [0, 2].every((rank) => ranks.byRank.get(rank)!.worker.experts.connections.inFlight === 0),
      );
    } finally {
      await ranks.close();
    }
  });
});

test("a host that falls silent in the middle of a text is given up, and used again when it speaks", async () => {
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index, { layerMs: 2 }) } }));
  let silent = false;
  const sockets = new Set<Socket>();
  const proxy = createProxy((near) => {
    const far = connectTo(ranks.byRank.get(1)!.worker.grpcPort, "127.0.0.1");
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from);
      from.on("data", (bytes) => void (silent || to.write(bytes)));
      from.on("error", () => {});
      from.on("close", () => void (silent || to.destroy()));
    }
  });
  await new Promise<void>((resolve) => void proxy.listen(0, "127.0.0.1", resolve));
  try {
    for (const rank of [0, 1]) await ranks.launch(rank);
    ranks.via.set(1, `127.0.0.1:${(proxy.address() as AddressInfo).port}`);
    await ranks.firstPlan();
    const { connections } = ranks.byRank.get(0)!.worker.experts;
    const got = await ranks.text([0], prompts[0]!, tokens, (soFar) => {
      if (soFar.length === 5) silent = true;
    });
    assert.deepEqual(got, want[0]);
    await until("it is given up", () => ranks.suspects(0).includes(1));
    silent = false;
    for (const socket of sockets) socket.destroy(); // as a healed link does to connections that it starved
    await until("it is trusted again", () => ranks.suspects(0).length === 0);
    assert.deepEqual(await ranks.text([0], prompts[1]!, tokens), want[1]);
    await until("no frame is under way", () => connections.inFlight === 0);
  } finally {
    for (const socket of sockets) socket.destroy();
    proxy.close();
    await ranks.close();
  }
});

test("a worker whose engine ended tells the kubelet and the operator, and is sent no more frames", async () => {
  const gone = () => Promise.reject(new AppError("engine: its thread ended", { code: "EngineStopped", retry: "backoff" }));
  let ended = false;
  const ranks = new Ranks(store, (rank) => ({
    overrides: {
      createEngine: async (options) => {
        const engine = await doubleEngine(store.index)(options);
        const { stats, runExperts } = engine;
        const mortal = { stats: () => (ended ? gone() : stats.call(engine)) };
        const frames: Pick<Engine, "runExperts"> = { runExperts: (frame) => (ended ? gone() : runExperts.call(engine, frame)) };
        return rank === 1 ? Object.assign(engine, mortal, frames) : engine;
      },
    },
  }));
  try {
    for (const rank of [0, 1, 2]) await ranks.launch(rank);
    await ranks.firstPlan();
    ended = true;
    const { health } = ranks.byRank.get(1)!.worker;
    await until("it is dead", () => health.deadReason() !== undefined);
    assert.match(health.reasons().join(), /the engine ended/);
    assert.deepEqual(await ranks.text([0], prompts[0]!, tokens), want[0]);
    await until("it is given up", () => ranks.suspects(0).includes(1));
    await new Promise((resolve) => setTimeout(resolve, 1_200)); // its process still answers the probes
    assert.deepEqual(ranks.suspects(0), [1]);
  } finally {
    await ranks.close();
  }
});

test("a restarted worker gets plan and membership from its peers when no operator is there", async () => {
  let addresses: string[] = [];
  const ranks = new Ranks(store, () => ({ overrides: { createEngine: doubleEngine(store.index), peers: async () => addresses } }));
  try {
    for (const rank of [0, 1, 2]) await ranks.launch(rank);
    await ranks.firstPlan();
    addresses = [ranks.address(0), ranks.address(2)];
    const port = await ranks.kill(1);
    const again = await ranks.launch(1, port);
    await until("it is ready by itself", () => again.worker.health.reasons().length === 0);
    assert.equal(again.worker.experts.state.epoch, 1);
    assert.deepEqual(await ranks.text([1], prompts[0]!, tokens), want[0]);
  } finally {
    await ranks.close();
  }
});

test("a worker without NATS says that it is not connected", async () => {
  const ranks = await started(1);
  try {
    assert.match(await ranks.byRank.get(0)!.worker.metrics.text(), /^enodia_nats_connected(\{[^}]*\})? 0$/m);
  } finally {
    await ranks.close();
  }
});

test("with too little memory for all experts, the staging slot serves the rest in turn", async () => {
  const ranks = await started(2, { budget: 5_000 }); // 4 of 8 experts each, and one slot
  try {
    await ranks.kill(1);
    assert.deepEqual(await ranks.text([0], prompts[0]!, 8), want[0]!.slice(0, 8));
    assert.ok(ranks.byRank.get(0)!.worker.experts.residents.count <= 5);
  } finally {
    await ranks.close();
  }
});
