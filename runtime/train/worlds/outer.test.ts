// Meetings of worlds by themselves: a slow world is waited for as long as it says that it makes steps, one that is silent is an error, and
// what another world says of its primaries is not believed unchecked.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { AppError } from "../../../crds/common.ts";
import { WireRanks } from "../../../test/kit/training/wire-ranks.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import type { Hub } from "../../net/collectives/transport.ts";
import { optimizerOf, optimizerSettings } from "../optimizers/index.ts";
import { OptimizerState } from "../optimizers/state.ts";
import { UnitState } from "../ranks/unit-state.ts";
import { having, parseRecipes } from "../recipes/index.ts";
import { contextInWorld } from "./group.ts";
import { Outer, type Share } from "./outer.ts";

const [meeting] = having(parseRecipes({ local: "fedavg:4" }), "meeting");
const localSteps = 4;
const floats = 4;
const frameMs = 1500;

function shareOf(primaries: readonly number[] = [0]): Share {
  const units = [{ expert: undefined, from: 0, to: floats, parameters: [] }];
  const pieces = [{ from: 0, to: floats, owner: 0 }];
  const state = new UnitState(
    { dense: units, denseFloats: floats, pieces, experts: [], expertFloats: 0, slices: 1 },
    0,
    OptimizerState.resident(optimizerOf(optimizerSettings("sgd", {})), floats),
  );
  const all = [{ layer: -1, expert: undefined, from: 0, to: floats, chunk: 0 }];
  return { units: all, primaries, rank: 0, state, spread: async () => {} };
}

function outers(worlds: number, hub: Hub = new Loopback(worlds, frameMs)): Outer[] {
  const all = Array.from({ length: worlds }, (_, world) => world);
  const facts = { node: all, speed: all.map(() => 1) };
  return all.map((world) => {
    const { group } = contextInWorld({ transport: hub.transport(world), world: 1, facts }, worlds);
    return new Outer({ group: group!, meeting: meeting!, epoch: 1, alike: "a" });
  });
}

/** Whether the first world waits through a round that the second makes in three times as long as a frame is waited for. */
async function waits(signs: boolean): Promise<unknown> {
  const [first, second] = outers(2);
  const slow = async (): Promise<void> => {
    for (let step = 1; step < localSteps; step++) {
      await sleep(0.7 * frameMs);
      if (signs) await second!.made(step);
    }
    await second!.meet(localSteps, shareOf());
  };
  const both = await Promise.allSettled([first!.meet(localSteps, shareOf()), slow()]);
  return both[0]!.status === "fulfilled" ? both[0].value : (both[0]!.reason as { code: string }).code;
}

test("a world that says its steps is waited for beyond the time of a frame; one that is silent is an error", async () => {
  assert.deepEqual(await Promise.all([waits(true), waits(false)]), [true, "RankSilent"]);
});

test("of three worlds one that stops ends the round of all, and nothing is changed", async () => {
  const [first, second, third] = outers(3) as [Outer, Outer, Outer];
  const shares = [shareOf(), shareOf()] as const;
  shares[0].state.ownDense("p").fill(1);
  await third.stops(2);
  assert.deepEqual(await Promise.all([first.meet(4, shares[0]), second.meet(4, shares[1])]), [false, false]);
  assert.deepEqual([...shares[0].state.ownDense("p")], [1, 1, 1, 1]);
});

test("the mean is of all worlds, in f64 and rounded once", async () => {
  const all = outers(3);
  const values = [0.1, 0.7, 1e-9].map(Math.fround);
  const shares = values.map((value) => {
    const share = shareOf();
    share.state.ownDense("p").fill(value);
    return share;
  });
  await Promise.all(all.map((outer, world) => outer.meet(4, shares[world]!)));
  const want = Math.fround((values[0]! + values[1]! + values[2]!) / 3);
  for (const { state } of shares) assert.deepEqual([...state.ownDense("p")], new Array(floats).fill(want));
});

test("worlds come to the newest round that all have", async () => {
  const kept = [
    [5, 4, 1, 0],
    [6, 3, 1, 0],
    [4, 1, 0],
  ];
  const newest = (world: number) => (upTo: number) => Math.max(...kept[world]!.filter((round) => round <= upTo));
  const found = await Promise.all(outers(3).map((outer, world) => outer.commonRound(newest(world))));
  assert.deepEqual(found, [1, 1, 1]);
});

test("primaries beyond a world are refused, and more steps than a round has too", async () => {
  const [first, second] = outers(2) as [Outer, Outer];
  const met = await Promise.allSettled([first.meet(4, shareOf()), second.meet(4, shareOf([7]))]);
  assert.equal(met[0]!.status === "rejected" && (met[0].reason as { code: string }).code, "PlanMismatch");
  const [third, fourth] = outers(2) as [Outer, Outer];
  for (let step = 0; step < localSteps; step++) await fourth.made(1);
  await assert.rejects(third.meet(4, shareOf()), { code: "PlanMismatch", message: /more than 4 steps before it meets/ });
});

test("a world that stopped and is gone holds nobody up before the meeting, where it is heard; one that is lost is an error", async () => {
  const hub = await WireRanks.open(2);
  try {
    const [first, second] = outers(2, hub) as [Outer, Outer];
    await first.made(1);
    await second.stops(2);
    await hub.transport(1).close();
    for (const step of [2, 3]) await first.made(step);
    assert.equal(await first.meet(4, shareOf()), false);
    const [third, fourth] = outers(2, hub) as [Outer, Outer];
    await assert.rejects(fourth.made(1), { code: "RankLeft" });
    hub.transport(0).end(new AppError("rank 1 is gone", { code: "RankLost" }));
    await assert.rejects(third.meet(4, shareOf()), { code: "RankLost" });
  } finally {
    await hub.close();
  }
});
