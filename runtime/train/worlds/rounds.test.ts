// Rounds of worlds: what counts as met, and that worlds which stopped or were killed anywhere find a round that all have.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../kernels/random.ts";
import { type Kept, keptIn, meetingOf, newestRound, roundOf, sparedBefore } from "./rounds.ts";

test("a state at the end of a round has met, unless it says that it has not", () => {
  assert.deepEqual(
    [0, 1, 19, 20, 21, 40].map((step) => roundOf({ step, unmet: false }, 20)),
    [0, 0, 0, 1, 1, 2],
  );
  assert.equal(roundOf({ step: 20, unmet: true }, 20), 0);
  assert.deepEqual(
    [1, 20, 21].map((step) => meetingOf(step, 20)),
    [20, 20, 40],
  );
});

test("of a round the newest state is gone on from, and a round is the newest up to one", () => {
  const kept: readonly Kept[] = [
    { step: 20, unmet: false },
    { step: 33, unmet: false },
    { step: 40, unmet: true },
    { step: 60, unmet: false },
  ];
  assert.deepEqual(keptIn(1, kept, 20), { step: 40, unmet: true });
  assert.deepEqual(keptIn(0, kept, 20), undefined);
  assert.deepEqual(
    [0, 1, 2, 3, 9].map((round) => newestRound(round, kept, 20)),
    [0, 1, 1, 3, 3],
  );
});

const [localSteps, everySteps, worlds] = [2, 6, 2];

/** What a world keeps: one checkpoint, what is spared where that is asked for, and one state that is unmet. */
class World {
  kept: readonly Kept[] = [];
  readonly #spares: boolean;

  constructor(spares: boolean) {
    this.#spares = spares;
  }

  save(step: number, unmet = false): void {
    const spared = this.#spares ? sparedBefore(step, everySteps) : -1;
    const stays = (each: Kept): boolean => each.unmet !== unmet || each.step > step || (!unmet && each.step === spared);
    this.kept = [...this.kept.filter(stays), { step, unmet }];
  }
}

function commonRound(all: readonly World[]): number {
  for (let upTo = 1000; ; ) {
    const rounds = all.map(({ kept }) => newestRound(upTo, kept, localSteps));
    upTo = Math.min(...rounds);
    if (rounds.every((round) => round === upTo)) return upTo;
  }
}

/** Forty lives that end by stops and kills anywhere; false once worlds have to begin anew after all had a checkpoint. */
function survives(seed: number, spares: boolean): boolean {
  const draw = uniform(seed);
  const all = Array.from({ length: worlds }, () => new World(spares));
  let named = false;
  for (let life = 0; life < 40; life++) {
    const begin = commonRound(all);
    const from = all.map(({ kept }) => keptIn(begin, kept, localSteps)?.step);
    if (named && from.includes(undefined)) return false;
    for (let [round, ends] = [begin, false]; !ends; round++) {
      const meeting = (round + 1) * localSteps;
      const fate = draw();
      const due = meeting % everySteps === 0;
      for (const [number, world] of all.entries()) {
        const killed = draw() < 0.5;
        const first = (round === begin ? from[number] : undefined) ?? round * localSteps;
        const at = first + Math.floor(draw() * (meeting - first + 1));
        if (fate < 0.3) {
          if (!killed) world.save(at, at === meeting); // stopped in the round, or while it waits at its end
        } else if (fate < 0.5) {
          if (!killed) world.save(meeting); // met, and stopped or killed before all have what is due
        } else if (due) world.save(meeting);
      }
      ends = fate < 0.5;
      named ||= due && !ends;
    }
  }
  return true;
}

test("whatever stops or kills worlds, they go on from a round that all have, since the last one that all wrote is spared", () => {
  const seeds = Array.from({ length: 300 }, (_, seed) => seed + 1);
  assert.deepEqual(
    seeds.filter((seed) => !survives(seed, true)),
    [],
  );
  assert.ok(seeds.filter((seed) => !survives(seed, false)).length > 10, "without it some begin anew");
});
