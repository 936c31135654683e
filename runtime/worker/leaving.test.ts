// A worker that is told to end: how long it stays, what it refuses, and when requests are cut.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Membership } from "../net/mapping.ts";
import { silentLog } from "../observe/log.ts";
import { Leaving, type LeavingOptions } from "./leaving.ts";

/** A worker in a time of its own, in which `script` says what happens when. */
function worker(script: (ms: number, world: World) => void = () => {}) {
  const world: World = {
    ...{ active: 0, hosts: false, watched: true, othersLeave: false, dead: undefined, others: "active", cuts: [], kvReadAt: undefined },
  };
  let now = 0;
  const options: LeavingOptions = {
    engine: {
      load: () => ({ queuedTokens: 0, activeRequests: world.active }),
      drain: async (on) => {
        if (!on) return;
        world.cuts.push(now);
        world.active = 0;
      },
    },
    peers: {
      self: { deploymentUid: "d", rank: 0, podUid: "p", bootId: "b" },
      get membership() {
        const members = [0, 1].map((rank) => ({ rank, state: rank === 0 ? "active" : world.others }));
        return { version: 1, members } as unknown as Membership;
      },
    },
    hosts: () => world.hosts,
    operatorWatches: () => world.watched,
    othersLeave: async () => world.othersLeave,
    kvReadAt: () => world.kvReadAt,
    dead: () => world.dead,
    onChange: () => {},
    log: silentLog,
    time: {
      now: () => now,
      sleep: async (ms) => {
        now += ms;
        script(now, world);
      },
    },
  };
  const leaving = new Leaving(options);
  return {
    world,
    leaving,
    /** Milliseconds until it may end. */
    ended: async (graceMs = 75_000) => {
      const started = now;
      await leaving.handOver(graceMs);
      return now - started;
    },
  };
}
interface World {
  active: number;
  hosts: boolean;
  watched: boolean;
  othersLeave: boolean;
  dead: string | undefined;
  others: "active" | "draining";
  kvReadAt: number | undefined;
  readonly cuts: number[];
}

test("with nothing to do it ends at once", async () => {
  assert.equal(await worker().ended(), 0);
});

test("it serves its experts until a plan has moved them away, and lets requests run to their end", async () => {
  const { world, ended } = worker((ms, now) => {
    if (ms >= 4_000) now.hosts = false;
    if (ms >= 20_000) now.active = 0;
  });
  Object.assign(world, { hosts: true, active: 3 });
  assert.equal(await ended(), 20_000);
  assert.deepEqual(world.cuts, []);
});

test("what still runs is cut ten seconds before the end, and experts are served until three seconds before it", async () => {
  const { world, ended } = worker();
  Object.assign(world, { hosts: true, active: 1 });
  assert.equal(await ended(), 72_000);
  assert.deepEqual(world.cuts, [65_000]);
});

test("requests that were cut can be read from: until nobody has read for a while, and not for ever", async () => {
  const reading = (until: number) =>
    worker((ms, now) => {
      if (ms <= until) now.kvReadAt = ms;
    });
  for (const [until, want] of [
    [0, 500],
    [3_000, 3_500],
    [60_000, 15_000],
  ] as const) {
    const { world, leaving, ended } = reading(until);
    Object.assign(world, { active: 1, kvReadAt: Number.NEGATIVE_INFINITY });
    await leaving.drain(true);
    assert.equal(await ended(), want);
  }
  const { world, leaving, ended } = reading(0);
  Object.assign(world, { kvReadAt: Number.NEGATIVE_INFINITY });
  await leaving.drain(true);
  assert.equal(await ended(), 0, "nothing was cut");
});

test("requests that ended by themselves can be read from, also those that ended before", async () => {
  const reading = (from: number) =>
    worker((ms, now) => {
      if (ms >= 1_000) now.active = 0;
      if (ms >= from && ms <= 3_000) now.kvReadAt = ms;
    });
  for (const [from, active, readAt, want] of [
    [1_100, 1, Number.NEGATIVE_INFINITY, 3_500],
    [60_000, 1, Number.NEGATIVE_INFINITY, 1_450],
    [0, 0, 0, 3_500],
    [0, 0, -500, 0],
  ] as const) {
    const { world, ended } = reading(from);
    Object.assign(world, { active, kvReadAt: readAt });
    assert.equal(await ended(), want);
  }
});

test("a grace period that is too short for anything is kept", async () => {
  const { world, ended } = worker();
  Object.assign(world, { hosts: true, active: 1 });
  assert.ok((await ended(5_000)) <= 2_000);
  assert.deepEqual(world.cuts, [0]);
});

test("what the operator has emptied waits for requests alone", async () => {
  const { world, leaving, ended } = worker((ms, now) => {
    if (ms >= 1_000) now.active = 0;
  });
  Object.assign(world, { hosts: true, active: 1 });
  await leaving.drain(true, 60_000);
  assert.equal(await ended(), 1_000);
  await leaving.drain(false);
});

test("without an operator it is not waited for longer than another takes to lead", async () => {
  const { world, ended } = worker((ms, now) => {
    now.watched = ms > 10_000 && ms < 12_000;
  });
  world.hosts = true;
  const waited = await ended();
  assert.ok(waited > 26_000 && waited < 27_500, `${waited} ms`);
});

test("when all ranks go at once and nobody plans, none waits for another", async () => {
  const { world, ended } = worker((ms, now) => {
    now.watched = ms < 2_000;
    now.othersLeave = ms >= 2_500;
  });
  world.hosts = true;
  assert.ok((await ended()) <= 3_500);
});

test("a worker that can compute nothing any more does not wait", async () => {
  const { world, ended } = worker((_, now) => {
    now.dead = "the engine ended";
  });
  Object.assign(world, { hosts: true, active: 1 });
  assert.ok((await ended()) < 1_000);
});

test("it refuses new requests when it ends, unless no other rank would take them; emptied, it takes none", async () => {
  const { world, leaving, ended } = worker();
  assert.equal(leaving.refuses(), false);
  await ended();
  assert.equal(leaving.refuses(), true);
  world.others = "draining";
  assert.equal(leaving.refuses(), false);
  await leaving.drain(true);
  assert.equal(leaving.refuses(), true);
});

test("a drain lets requests run on for the time that it names, and can be taken back", async () => {
  const { world, leaving } = worker();
  world.active = 1;
  await leaving.drain(true, 60_000);
  assert.deepEqual([leaving.draining, world.cuts.length], [true, 0]);
  await leaving.drain(true, 5);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(world.cuts.length, 1, "the newest word holds");
  world.active = 1;
  await leaving.drain(true);
  assert.equal(world.cuts.length, 2, "without a time they are cut at once");
  await leaving.drain(false);
  assert.equal(leaving.refuses(), false);
});
