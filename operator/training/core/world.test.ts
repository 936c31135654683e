// Worlds of a training job: when there is another one, and when the last stands.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { PodReport, TrainingWorld } from "../../../crds/training-world.ts";
import { rankPod as pod, start } from "../../../test/kit/training/training-decisions.ts";
import type { PodView } from "./pod-view.ts";
import { type WorldFacts, worldOf } from "./world.ts";

const says = (uid: string, change: Partial<PodReport> = {}): PodReport => ({
  pod: uid,
  epoch: 0,
  training: 0,
  progress: { curve: [] },
  ...change,
});
const reportsOf = (...all: readonly PodReport[]) => new Map(all.map((one) => [one.pod, one]));
const three = [pod(0), pod(1), pod(2)];
const heard = reportsOf(says("p0"), says("p1"), says("p2"));
const facts = (change: Partial<WorldFacts> = {}): WorldFacts => ({
  ranks: 3,
  minRanks: 1,
  known: undefined,
  pods: three,
  reports: heard,
  now: new Date(start),
  ...change,
});
const first = worldOf(facts()).world as TrainingWorld;
const later = new Date(start + 60_000);

test("the first world is of all ranks once every pod has answered, in order of rank", () => {
  const waits = worldOf(facts({ reports: reportsOf(says("p0"), says("p2")) }));
  assert.deepEqual([waits.world, waits.stands, waits.ready, waits.awaited], [undefined, false, 2, [1]]);
  assert.equal(first.epoch, 1);
  assert.deepEqual(
    worldOf(facts({ pods: three.toReversed() })).world?.ranks.map(({ rank, uid, ip, node }) => `${rank} ${uid} ${ip} ${node}`),
    ["0 p0 10.0.0.0 node-0", "1 p1 10.0.0.1 node-1", "2 p2 10.0.0.2 node-2"],
  );
});

const left = { left: { epoch: 1, code: "RankLost", message: "rank 2 is gone" } };
const allLeft = reportsOf(says("p0", left), says("p1", left), says("p2", left));
/** What differs, and the epoch of the world and whether it stands. */
const cases: Record<string, readonly [change: Partial<WorldFacts>, epoch: number, stands: boolean]> = {
  "a world stands while its pods do": [{}, 1, true],
  "a world stands for an operator that has heard nobody yet": [{ reports: new Map() }, 1, true],
  "a world without one of its pods does not stand, and waits": [{ pods: [pod(0), pod(2)] }, 1, false],
  "a pod that is being deleted has no place in the next": [{ pods: [pod(0), pod(1, { deleting: true }), pod(2)] }, 1, false],
  "a replaced pod makes another world": [
    { pods: [pod(0), pod(1, { uid: "q" }), pod(2)], reports: reportsOf(says("p0"), says("q"), says("p2")) },
    2,
    true,
  ],
  "another address makes another world": [{ pods: [pod(0), pod(1, { ip: "10.0.0.9" }), pod(2)] }, 2, true],
  "a smaller job makes another world at once": [{ ranks: 2 }, 2, true],
  "a larger one trains on until the last of its pods answers": [{ ranks: 4, pods: [...three, pod(3)] }, 1, true],
  "and then makes another world": [{ ranks: 4, pods: [...three, pod(3)], reports: reportsOf(...heard.values(), says("p3")) }, 2, true],
  "a world that a pod left is made again": [{ reports: allLeft, now: later }, 2, true],
  "but not at once": [{ reports: allLeft }, 1, false],
  "who left since no step is left does not end it": [
    { reports: reportsOf(says("p0"), says("p1", { left: { epoch: 1, code: "Complete", message: "" } }), says("p2")), now: later },
    1,
    true,
  ],
  "who left an earlier world does not end it": [
    { known: { ...first, epoch: 2 }, reports: reportsOf(says("p0", left), says("p1"), says("p2")), now: later },
    2,
    true,
  ],
};
for (const [sentence, [change, epoch, stands]] of Object.entries(cases)) {
  test(sentence, () => {
    const view = worldOf(facts({ known: first, ...change }));
    assert.deepEqual([view.world?.epoch, view.stands], [epoch, stands]);
  });
}

const leaving = ({ world }: { readonly world: TrainingWorld | undefined }) => world?.leaving?.map(({ uid }) => uid);
const members = ({ world }: { readonly world: TrainingWorld | undefined }) => world?.ranks.map(({ uid }) => uid);
/** All that is said, by pods that know that one of them would be enough. */
const enough = (...changes: readonly Partial<PodReport>[]) =>
  reportsOf(...three.map(({ uid }, i) => says(uid, { epoch: 1, training: 1, leastRanks: 1, ...changes[i] })));
const gone = { training: 0, left: { epoch: 1, code: "RankLost", message: "rank 1 is gone" } };

const killed = [pod(0), pod(2)];
const drained = [pod(0), pod(1, { deleting: true }), pod(2)];
/** What differs, the epoch and pods of the world, those that leave it and those that end with a checkpoint, and why it waits. */
const fewer: Record<string, readonly [change: Partial<WorldFacts>, want: string, tooFew?: RegExp]> = {
  "the others train on at once without a pod that is lost": [{ pods: killed, reports: enough() }, "2: p0 p2"],
  "the first one too": [{ pods: [pod(1), pod(2)], reports: enough() }, "2: p1 p2"],
  "a pod that is to end hands on what it has": [{ pods: drained, reports: enough() }, "2: p0 p2; p1 leave"],
  "as does one that says so, before its deletion is seen": [{ reports: enough({}, { leaving: true }) }, "2: p0 p2; p1 leave"],
  "a smaller job has the others hand on": [{ ranks: 2, reports: enough() }, "2: p0 p1; p2 leave"],
  "of two that are to end both hand on": [
    { pods: [pod(0), pod(1, { deleting: true }), pod(2, { deleting: true })], reports: enough() },
    "2: p0; p1 p2 leave",
  ],
  "one that does not answer has nothing to hand on": [
    { pods: [pod(0), pod(1, { deleting: true, silent: true }), pod(2)], reports: enough() },
    "2: p0 p2; p1 end",
  ],
  "fewer ranks than are allowed wait, and one that is to end leaves a checkpoint": [
    { pods: drained, reports: enough(), minRanks: 3 },
    "1: p0 p1 p2; p1 end",
    /elasticity\.minReplicas is 3/,
  ],
  "ranks whose memory is too small wait": [
    { pods: killed, reports: enough({ leastRanks: 3 }) },
    "1: p0 p1 p2",
    /their memory is enough for 3 ranks or more, by memoryPerRank/,
  ],
  "ranks of whose memory nothing is known wait": [{ pods: killed }, "1: p0 p1 p2", /not known to be enough/],
  "where all are to end nobody waits for a world": [
    { pods: three.map((one) => ({ ...one, deleting: true })), reports: enough() },
    "1: p0 p1 p2; p0 p1 p2 end",
  ],
  "an operator that has just begun first hears who is there": [
    { pods: drained, reports: reportsOf(says("p0", { leastRanks: 1 })) },
    "1: p0 p1 p2",
  ],
  "after a loss it is waited for what each of the pods says": [{ reports: enough(gone), now: later }, "1: p0 p1 p2"],
  "one that does not answer then is the one that is lost": [
    { pods: [pod(0), pod(1, { silent: true }), pod(2)], reports: enough(gone, {}, gone), now: later },
    "2: p0 p2",
  ],
  "one that is silent in a world that stands changes nothing": [
    { pods: [pod(0), pod(1, { silent: true }), pod(2)], reports: enough() },
    "1: p0 p1 p2",
  ],
};
for (const [sentence, [change, want, tooFew]] of Object.entries(fewer)) {
  test(sentence, () => {
    const view = worldOf(facts({ known: first, ...change }));
    const all = { leave: leaving(view) ?? [], end: [...view.stops] };
    const others = Object.entries(all).flatMap(([what, uids]) => (uids.length > 0 ? [`; ${uids.join(" ")} ${what}`] : []));
    assert.equal(`${view.world?.epoch}: ${members(view)?.join(" ")}${others.join("")}`, want);
    assert.equal(tooFew?.test(view.tooFew ?? "") ?? view.tooFew === undefined, true, view.tooFew);
  });
}

test("a world that lost the pod that was to leave it is made again at once, and the same one in peace", () => {
  const second = worldOf(facts({ known: first, pods: drained, reports: enough() })).world as TrainingWorld;
  const lost = { epoch: 2, training: 0, left: { epoch: 2, code: "RankLost", message: "rank 2 is gone" } };
  const without = worldOf(facts({ known: second, pods: killed, reports: enough(lost, {}, lost) }));
  assert.deepEqual([without.world?.epoch, members(without), leaving(without)], [3, ["p0", "p2"], undefined]);
  assert.equal(worldOf(facts({ known: second, pods: drained, reports: enough(lost, {}, lost) })).world?.epoch, 2);
  const again = worldOf(facts({ known: second, pods: drained, reports: enough(lost, {}, lost), now: later }));
  assert.deepEqual([again.world?.epoch, leaving(again)], [3, ["p1"]]);
});

test("pods wait a minute for the others, then begin, or join those that train; where nothing was lost none hurries", () => {
  const two = { pods: [pod(0), pod(1)], reports: enough() };
  const soon = new Date(start + 59_000);
  assert.equal(worldOf(facts({ ...two, now: soon })).world, undefined);
  assert.deepEqual(members(worldOf(facts({ ...two, now: later }))), ["p0", "p1"]);
  const small = { ...first, ranks: first.ranks.slice(0, 1) };
  assert.equal(worldOf(facts({ ...two, known: small, now: soon })).world?.epoch, 1);
  assert.deepEqual(members(worldOf(facts({ ...two, known: small, now: later }))), ["p0", "p1"]);
  const resumed = { known: first, pods: [pod(0, { uid: "q" })], reports: reportsOf(says("q", { leastRanks: 1 })) };
  assert.equal(worldOf(facts({ ...resumed, now: soon })).world?.epoch, 1);
  assert.equal(worldOf(facts({ ...resumed, now: later })).world?.epoch, 2);
});

test("an epoch is above all that any pod was told of, whatever became of the status", () => {
  assert.equal(worldOf(facts({ reports: reportsOf(says("p0"), says("p1", { epoch: 7 }), says("p2")) })).world?.epoch, 8);
});

test("epochs only rise, and one epoch never has two sets of pods", () => {
  const event = fc.record({
    rank: fc.nat(2),
    ready: fc.boolean(),
    replaced: fc.boolean(),
    leaves: fc.boolean(),
    ranks: fc.integer({ min: 1, max: 3 }),
    deleting: fc.boolean(),
    silent: fc.boolean(),
    leastRanks: fc.integer({ min: 1, max: 3 }),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 30 }), (events) => {
      const pods = [...three];
      let known: TrainingWorld | undefined;
      const seen = new Map<number, string>();
      for (const [i, { rank, ready, replaced, leaves, ranks, leastRanks, ...change }] of events.entries()) {
        if (replaced) pods[rank] = pod(rank, { uid: `q${i}` });
        pods[rank] = { ...(pods[rank] as PodView), running: ready, ...change };
        const gone = { left: { epoch: known?.epoch ?? 1, code: "RankLost", message: "" } };
        const reports = reportsOf(...pods.map(({ uid }, at) => says(uid, { leastRanks, ...(leaves && at === rank && gone) })));
        const { world, stands, stops } = worldOf({ ranks, minRanks: 1, known, pods, reports, now: new Date(start + i * 10_000) });
        assert.ok((world?.epoch ?? 0) >= (known?.epoch ?? 0));
        const all = [...(world?.ranks ?? []), ...(world?.leaving ?? [])];
        assert.equal(new Set(all.map((member) => member.rank)).size, all.length, "one pod a rank");
        if (world !== known) assert.ok((world?.ranks.length ?? 0) >= Math.min(ranks, leastRanks), "never too few");
        for (const { uid } of world?.leaving ?? []) assert.ok(!stops.has(uid), "who hands on is not told to end");
        const set = JSON.stringify(all.map(({ uid, ip }) => [uid, ip]));
        if (world !== undefined) assert.equal(seen.get(world.epoch) ?? set, set);
        if (world !== undefined) seen.set(world.epoch, set);
        if (stands) for (const member of world?.ranks ?? []) assert.ok(pods.some(({ uid, running }) => uid === member.uid && running));
        known = world;
      }
    }),
  );
});
