import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { VirtualClock } from "../../../test/sim/clock.ts";
import { type PaceClock, pacedMs, TransferPace } from "./transfer-pace.ts";

const MB = 1_000_000;
const never = new AbortController().signal;

function virtual() {
  const time = new VirtualClock();
  const clock: PaceClock = {
    now: () => time.now(),
    wait: async (ms, signal) => {
      await time.sleep(ms);
      if (signal?.aborted) throw signal.reason;
    },
    every: (ms, run) => {
      let stopped = false;
      const again = (): void => {
        if (stopped) return;
        run();
        time.after(ms, again);
      };
      time.after(ms, again);
      return () => {
        stopped = true;
      };
    },
  };
  const changes: string[] = [];
  const pace = new TransferPace({ clock, onChange: ({ share, reason }) => changes.push(`${reason} ${share}`) });
  return { time, pace, changes };
}

/** Starts units of one size at once; `at` fills with the seconds at which each had its turn. */
function receiveAll(world: ReturnType<typeof virtual>, units: number, limit: number, bytes = MB): number[] {
  const at: number[] = [];
  const start = world.time.now();
  for (let i = 0; i < units; i++)
    void world.pace.receive({ bytes, limit, signal: never }, async () => {
      at.push((world.time.now() - start) / 1000);
    });
  return at;
}

test("units that come from everywhere at once are taken one after the other, at the limit", async () => {
  const world = virtual();
  const at = receiveAll(world, 9, 4 * MB);
  await world.time.run(10_000);
  assert.equal(at.length, 9);
  at.forEach((seconds, i) => {
    assert.ok(Math.abs(seconds - i * 0.25) < 0.02, `unit ${i} at ${seconds} s`);
  });
});

test("what is unlimited does not wait, nor does it hold others up", async () => {
  const world = virtual();
  receiveAll(world, 1, MB);
  const urgent = receiveAll(world, 5, 0);
  await world.time.run(1);
  assert.deepEqual(urgent, [0, 0, 0, 0, 0]);
  const next = receiveAll(world, 1, MB);
  await world.time.run(5_000);
  assert.ok(Math.abs((next[0] ?? 0) - 1) < 0.02, `the next limited one at ${next[0]} s`);
});

test("time without transfers is not saved up", async () => {
  const world = virtual();
  receiveAll(world, 1, MB);
  await world.time.run(60_000);
  const at = receiveAll(world, 3, MB);
  await world.time.run(10_000);
  assert.deepEqual(at.map(Math.round), [0, 1, 2]);
});

test("an abort ends the wait and takes nothing from the others", async () => {
  const world = virtual();
  receiveAll(world, 1, MB);
  const abort = new AbortController();
  const gone = world.pace.receive({ bytes: 50 * MB, limit: MB, signal: abort.signal }, async () => "received");
  const refused = assert.rejects(gone, /stop/);
  await world.time.run(300);
  abort.abort(new AppError("stop", { code: "Aborted" }));
  const at = receiveAll(world, 1, MB);
  await world.time.run(5_000);
  await refused;
  assert.ok(Math.abs((at[0] ?? 0) - 0.7) < 0.02, `the next one at ${at[0]} s`);
});

/** Tokens every 10 ms of virtual time, each so long after the one before it. */
function tokens(world: ReturnType<typeof virtual>, gapMs: () => number): void {
  world.time.after(10, () => {
    world.pace.token(gapMs());
    tokens(world, gapMs);
  });
}

test("a move that slows the tokens down is slowed down itself within seconds, and goes on faster when they recover", async () => {
  const world = virtual();
  let slowed = 1;
  tokens(world, () => 20 * (world.pace.effectiveRate > 0 ? slowed : 1));
  await world.time.run(10_000);
  assert.equal(world.pace.effectiveRate, 0);
  slowed = 2;
  const end = world.pace.begin(8 * MB);
  await world.time.run(3_100);
  assert.deepEqual(world.changes, ["LatencyRisen 0.5", "LatencyRisen 0.25", "LatencyRisen 0.125"]);
  assert.equal(world.pace.effectiveRate, MB);
  slowed = 1.1;
  await world.time.run(16_000);
  assert.equal(world.changes.length, 17);
  assert.equal(world.pace.effectiveRate, 8 * MB);
  end();
  assert.equal(world.pace.effectiveRate, 0);
});

test("a receiver that waits for its turn follows a change of the rate at once", async () => {
  const world = virtual();
  let slow = false;
  tokens(world, () => (slow ? 50 : 20));
  await world.time.run(10_000);
  const at = receiveAll(world, 4, MB);
  slow = true;
  await world.time.run(15_000);
  const gaps = at.slice(1).map((seconds, i) => seconds - (at[i] ?? 0));
  assert.ok(Math.abs((gaps[0] ?? 0) - 1) < 0.2, `first gap ${gaps[0]} s`);
  assert.ok((gaps.at(-1) ?? 0) > 7.5, `at an eighth of the rate a unit takes 8 s, not ${gaps.at(-1)}`);
});

test("latency that stays when almost nothing is transferred is the traffic's own, and the move goes on", async () => {
  const world = virtual();
  let traffic = 1;
  tokens(world, () => 20 * traffic * (world.pace.effectiveRate > 4 * MB ? 1.5 : 1));
  await world.time.run(10_000);
  traffic = 2;
  world.pace.begin(8 * MB);
  await world.time.run(15_000);
  assert.equal(world.pace.effectiveRate, MB);
  await world.time.run(60_000);
  assert.ok(world.pace.effectiveRate >= 2 * MB && world.pace.effectiveRate <= 4.5 * MB, `${world.pace.effectiveRate} bytes a second`);
  assert.ok(world.changes.slice(4).includes("LatencyRisen 0.28125"), "what the move itself costs still slows it down");
});

test("without traffic a move has the whole limit", async () => {
  const world = virtual();
  world.pace.begin(MB);
  await world.time.run(20_000);
  assert.equal(world.pace.effectiveRate, MB);
  assert.deepEqual(world.changes, []);
});

test("a chunk goes at the pace that its receiver asks for, and a pace of a byte a second holds no place for ever", () => {
  assert.equal(pacedMs(1_000_000, 250_000), 4_000);
  assert.equal(pacedMs(1_000_000, 1), 60_000);
});
