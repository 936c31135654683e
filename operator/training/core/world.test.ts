// Worlds of a training job: when there is another one, and when the last stands.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { PodWords, TrainingWorld } from "../../../crds/training-world.ts";
import type { PodView } from "./pod-view.ts";
import { type WorldFacts, worldOf } from "./world.ts";

const start = Date.parse("2026-01-01T00:00:00Z");
const pod = (rank: number, change: Partial<PodView> = {}): PodView => ({
  name: `j-train-${rank}-0`,
  uid: `p${rank}`,
  rank,
  attempt: 0,
  hash: "h",
  generation: 1,
  deleting: false,
  running: true,
  ip: `10.0.0.${rank}`,
  node: `node-${rank}`,
  waiting: undefined,
  over: undefined,
  ...change,
});
const says = (uid: string, change: Partial<PodWords> = {}): PodWords => ({
  pod: uid,
  epoch: 0,
  training: 0,
  progress: { curve: [] },
  ...change,
});
const wordsOf = (...all: readonly PodWords[]) => new Map(all.map((one) => [one.pod, one]));
const three = [pod(0), pod(1), pod(2)];
const heard = wordsOf(says("p0"), says("p1"), says("p2"));
const facts = (change: Partial<WorldFacts> = {}): WorldFacts => ({
  ranks: 3,
  known: undefined,
  pods: three,
  words: heard,
  now: new Date(start),
  ...change,
});
const first = worldOf(facts()).world as TrainingWorld;
const later = new Date(start + 60_000);

test("the first world is of all ranks once every pod has answered, in order of rank", () => {
  const waits = worldOf(facts({ words: wordsOf(says("p0"), says("p2")) }));
  assert.deepEqual([waits.world, waits.stands, waits.ready, waits.awaited], [undefined, false, 2, [1]]);
  assert.equal(first.epoch, 1);
  assert.deepEqual(
    worldOf(facts({ pods: three.toReversed() })).world?.ranks.map(({ rank, uid, ip, node }) => `${rank} ${uid} ${ip} ${node}`),
    ["0 p0 10.0.0.0 node-0", "1 p1 10.0.0.1 node-1", "2 p2 10.0.0.2 node-2"],
  );
});

interface Case {
  readonly change: Partial<WorldFacts>;
  /** Epoch, and whether it stands. */
  readonly want: readonly [epoch: number, stands: boolean];
}

const left = { left: { epoch: 1, code: "RankLost", message: "rank 2 is gone" } };
const cases: Record<string, Case> = {
  "a world stands while its pods do": { change: {}, want: [1, true] },
  "a world stands for an operator that has heard nobody yet": { change: { words: new Map() }, want: [1, true] },
  "a world without one of its pods does not stand, and waits": { change: { pods: [pod(0), pod(2)] }, want: [1, false] },
  "a pod that is being deleted has no place in the next": {
    change: { pods: [pod(0), pod(1, { deleting: true }), pod(2)] },
    want: [1, false],
  },
  "a replaced pod makes another world": {
    change: { pods: [pod(0), pod(1, { uid: "q" }), pod(2)], words: wordsOf(says("p0"), says("q"), says("p2")) },
    want: [2, true],
  },
  "another address makes another world": { change: { pods: [pod(0), pod(1, { ip: "10.0.0.9" }), pod(2)] }, want: [2, true] },
  "a smaller job makes another world at once": { change: { ranks: 2 }, want: [2, true] },
  "a larger one trains on until the last of its pods answers": { change: { ranks: 4, pods: [...three, pod(3)] }, want: [1, true] },
  "and then makes another world": {
    change: { ranks: 4, pods: [...three, pod(3)], words: wordsOf(...heard.values(), says("p3")) },
    want: [2, true],
  },
  "a world that a pod left is made again": {
    change: { words: wordsOf(says("p0", left), says("p1"), says("p2")), now: later },
    want: [2, true],
  },
  "but not at once": { change: { words: wordsOf(says("p0", left), says("p1"), says("p2")) }, want: [1, false] },
  "who left since no step is left does not end it": {
    change: { words: wordsOf(says("p0"), says("p1", { left: { epoch: 1, code: "Complete", message: "" } }), says("p2")), now: later },
    want: [1, true],
  },
  "who left an earlier world does not end it": {
    change: { known: { ...first, epoch: 2 }, words: wordsOf(says("p0", left), says("p1"), says("p2")), now: later },
    want: [2, true],
  },
};
for (const [sentence, { change, want }] of Object.entries(cases)) {
  test(sentence, () => {
    const { world, stands } = worldOf(facts({ known: first, ...change }));
    assert.deepEqual([world?.epoch, stands], want);
  });
}

test("an epoch is above all that any pod was told of, whatever became of the status", () => {
  assert.equal(worldOf(facts({ words: wordsOf(says("p0"), says("p1", { epoch: 7 }), says("p2")) })).world?.epoch, 8);
});

test("epochs only rise, and one epoch never has two sets of pods", () => {
  const event = fc.record({
    rank: fc.nat(2),
    ready: fc.boolean(),
    replaced: fc.boolean(),
    leaves: fc.boolean(),
    ranks: fc.integer({ min: 1, max: 3 }),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 30 }), (events) => {
      const pods = [...three];
      let known: TrainingWorld | undefined;
      const seen = new Map<number, string>();
      for (const [i, { rank, ready, replaced, leaves, ranks }] of events.entries()) {
        if (replaced) pods[rank] = pod(rank, { uid: `q${i}` });
        pods[rank] = { ...(pods[rank] as PodView), running: ready };
        const gone = { left: { epoch: known?.epoch ?? 1, code: "RankLost", message: "" } };
        const words = wordsOf(...pods.map(({ uid }, at) => says(uid, leaves && at === rank ? gone : {})));
        const { world, stands } = worldOf({ ranks, known, pods, words, now: new Date(start + i * 10_000) });
        assert.ok((world?.epoch ?? 0) >= (known?.epoch ?? 0));
        const set = JSON.stringify(world?.ranks.map(({ uid, ip }) => [uid, ip]));
        if (world !== undefined) assert.equal(seen.get(world.epoch) ?? set, set);
        if (world !== undefined) seen.set(world.epoch, set);
        if (stands) for (const member of world?.ranks ?? []) assert.ok(pods.some(({ uid, running }) => uid === member.uid && running));
        known = world;
      }
    }),
  );
});
