// A run whose ranks are lost and come, as a trainer goes on from world to world: what is kept is handed on in the rank context, no checkpoint is
// read, and the result is one rank's to the byte, biases that a recipe moves among it.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { balancedRun } from "../../../test/kit/training/training.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import { train } from "../loop/run.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { RankState } from "./rank-state.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-handed-on-"));
after(() => rmSync(folder, { recursive: true }));
const settings: Omit<TrainSettings, "out"> = {
  ...(await balancedRun(folder)),
  checkpoint: { everySteps: 6, keep: 2 },
};

interface Loss {
  readonly rank: number;
  /** After which it is lost. */
  readonly step: number;
}

/** One world, in which a rank may be lost. Returns the step that each went on from. */
async function world(out: string, members: readonly RankState[], lost?: Loss, shadow = true) {
  const hub = new Loopback(members.length, 60_000);
  const facts = { node: [...members.keys()], speed: members.map(() => 1) };
  const from: number[] = [];
  const ends = members.map(async (rankState, rank) => {
    const context = { transport: hub.transport(rank), world: 1, facts, rankState };
    const onStep = ({ step }: { readonly step: number }): void => {
      if (lost?.rank === rank && lost.step === step) throw new Error("lost");
    };
    const ports = {
      now: () => 0,
      stopped: () => false,
      onStart: (start: { step: number }) => void from.push(start.step),
      onStep,
      onValidation() {},
    };
    try {
      await train({ ...settings, shadow, out: join(folder, out) }, ports, context);
    } catch (caught) {
      hub.end(caught);
      if (lost === undefined) throw caught;
    }
  });
  await Promise.all(ends);
  return from;
}

const sha = (out: string): string =>
  createHash("sha256")
    .update(readFileSync(join(folder, out, "huggingface/model.safetensors")))
    .digest("hex");

test("3 ranks, one lost, one more, one lost, another: no step is read again, and the result is one rank's", async () => {
  await world("one", [new RankState()]);
  const [a, b, c, d, e] = Array.from({ length: 5 }, () => new RankState()) as [RankState, RankState, RankState, RankState, RankState];
  assert.deepEqual(await world("many", [a, b, c], { rank: 1, step: 2 }), [0, 0, 0]);
  assert.deepEqual(await world("many", [a, c, d], { rank: 0, step: 4 }), [2, 2, 2]);
  assert.deepEqual(await world("many", [e, d, c]), [4, 4, 4]);
  assert.equal(sha("many"), sha("one"));
});

test("without shadows what the lost rank had is nowhere, and the run goes on from its checkpoint", async () => {
  const [a, b, c] = [new RankState(), new RankState(), new RankState()];
  await world("cold", [a, b, c], { rank: 1, step: 2 }, false);
  assert.deepEqual(await world("cold", [a, c], { rank: 0, step: 1 }, false), [0, 0]);
});

test("who comes back with state from before the newest checkpoint does not lead the others back to it", async () => {
  const [late, lost, alone] = [new RankState(), new RankState(), new RankState()];
  await world("late", [late, lost], { rank: 1, step: 2 });
  assert.equal(late.commitState.applied, 2);
  assert.deepEqual(await world("late", [alone]), [0], "the others went on without it");
  assert.deepEqual(await world("late", [late, new RankState()]), [6, 6]);
  assert.equal(sha("late"), sha("one"));
});

test("what a world left is no more once the next one has its own", async () => {
  const kept = new RankState();
  await world("freed", [kept, new RankState()], { rank: 1, step: 2 });
  const bytes = kept.stateBytes;
  assert.ok(bytes > 0);
  await world("freed", [kept, new RankState()]);
  assert.equal(kept.stateBytes, bytes);
  kept.drop();
  assert.equal(kept.stateBytes, 0);
});

test("a world that begins where a checkpoint is leaves it as it is", async () => {
  const [out, rankState] = [join(folder, "there"), new RankState()];
  const own = { ...settings, out, checkpoint: { everySteps: 2, keep: 1 } };
  const until = async (world: number, steps: number): Promise<number> => {
    let made = 0;
    const onStep = (): void => {
      made += 1;
    };
    const ports = { now: () => 0, stopped: () => made === steps, onStart() {}, onStep, onValidation() {} };
    const context = { transport: new Loopback(1).transport(0), world, facts: { node: [0], speed: [1] }, rankState };
    return (await train(own, ports, context)).step;
  };
  assert.equal(await until(1, 2), 2);
  const manifest = join(out, "checkpoints/step-00000002/manifest.json");
  const written = statSync(manifest, { bigint: true }).mtimeNs;
  assert.equal(await until(2, 0), 2);
  assert.equal(statSync(manifest, { bigint: true }).mtimeNs, written);
  assert.equal(await until(3, 1), 3);
});
