// The decisions of a job of several ranks, some of which fail, end or are not wanted any more while the others train.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { PodReport } from "../../../crds/training-world.ts";
import { conditions, job, observed, over, pod, start } from "../../../test/kit/training/training-decisions.ts";
import { decide } from "./decide.ts";
import type { Observed } from "./observed.ts";

/** Three pods in a world, one of which would be enough. */
const triple = job({ replicas: 3, elasticity: { maxReplicas: 4 } });
const trio = [0, 1, 2].map((rank) => pod({ name: `j-train-${rank}-0`, uid: `p${rank}`, rank }));
const trioSays = (...changes: readonly Partial<PodReport>[]) =>
  new Map(trio.map(({ uid }, i) => [uid, { pod: uid, epoch: 0, training: 0, leastRanks: 1, progress: { curve: [] }, ...changes[i] }]));
const together = decide(observed({ job: triple, pods: trio, reports: trioSays() })).status;
const looks = (change: Partial<Observed>) =>
  decide(observed({ job: triple, status: together, pods: trio, reports: trioSays(), ...change }));
const worldIn = ({ status: { world } }: ReturnType<typeof decide>) => [
  world?.epoch,
  world?.ranks.map(({ uid }) => uid).join(" "),
  world?.leaving?.map(({ uid }) => uid).join(" ") ?? "",
];
const deletions = ({ actions }: ReturnType<typeof decide>) => actions.map((action) => (action.kind === "delete" ? action.name : "create"));

test("a pod that fails among others is counted and replaced, and the others train on in the same look", () => {
  const ends = trio.map((one) => (one.rank === 1 ? { ...one, over: over(undefined, { reason: "OOMKilled" }) } : one));
  const look = looks({ pods: ends });
  assert.deepEqual(worldIn(look), [2, "p0 p2", ""]);
  assert.deepEqual(deletions(look), ["j-train-1-0"]);
  assert.deepEqual([look.status.restarts, look.status.attempts, look.restless], [1, [0, 1], false]);
  assert.equal(conditions(look.status).Running, "True FewerRanks");
  const message = look.status.conditions?.find(({ type }) => type === "Running")?.message ?? "";
  assert.match(message, /on 2 ranks, until 3 are ready: BackOff: OOMKilled: exit code 1; the next try is in 5 s/);
  const after = decide(
    observed({ job: triple, status: look.status, pods: [trio[0]!, trio[2]!], reports: trioSays(), now: new Date(start + 5_000) }),
  );
  assert.deepEqual(after.actions, [{ kind: "create", rank: 1, attempt: 1 }]);
  assert.equal(conditions(after.status).Running, "True FewerRanks");
});

test("two pods that end at once are both counted before the others go on", () => {
  const look = looks({ pods: trio.map((one) => (one.rank > 0 ? { ...one, over: over(undefined) } : one)) });
  assert.deepEqual(worldIn(look), [2, "p0", ""]);
  assert.deepEqual([look.status.restarts, look.status.attempts], [2, [0, 1, 1]]);
});

test("pods that end of one cause wait as one does, whether seen together or not, and what is made in their place waits longer", () => {
  const ends = trio.map((one) => ({ ...one, over: over(undefined, { disrupted: true }) }));
  const [first, last] = [ends[0]!, ends[2]!];
  const all = looks({ pods: ends }).status;
  assert.deepEqual([all.lastStop?.repeated, all.attempts], [1, [1, 1, 1]]);
  const one = looks({ pods: [first, trio[1]!, trio[2]!] }).status;
  const other = decide(
    observed({ job: triple, status: one, pods: [trio[1]!, last], reports: trioSays(), now: new Date(start + 3_000) }),
  ).status;
  assert.deepEqual([one.lastStop?.repeated, other.lastStop?.repeated], [1, 1]);
  const made = { ...first, name: "j-train-0-1", uid: "q0", attempt: 1, since: start + 9_000 };
  const again = decide(
    observed({ job: triple, status: other, pods: [trio[1]!, made], reports: trioSays(), now: new Date(start + 10_000) }),
  );
  assert.equal(again.status.lastStop?.repeated, 2);
});

test("a pod that is drained hands on what it has, and its end is no failure and breaks nothing", () => {
  const drained = trio.map((one) => (one.rank === 1 ? { ...one, deleting: true } : one));
  const look = looks({ pods: drained });
  assert.deepEqual(worldIn(look), [2, "p0 p2", "p1"]);
  assert.deepEqual([deletions(look), [...look.stops]], [[], []]);
  const ended = drained.map((one) => (one.rank === 1 ? { ...one, over: over({ outcome: "Stopped" }, { disrupted: true }) } : one));
  const next = decide(observed({ job: triple, status: look.status, pods: ended, reports: trioSays() }));
  assert.deepEqual(worldIn(next), [2, "p0 p2", "p1"]);
  assert.deepEqual([next.status.restarts, next.status.lastStop?.reason], [0, "Stopped"]);
  assert.equal(conditions(next.status).Running, "True FewerRanks");
});

test("a smaller job's pods are deleted once they have handed on what they had, or had the time to", () => {
  const two = job({ replicas: 2, elasticity: { maxReplicas: 4 } }, 2);
  const look = looks({ job: two });
  assert.deepEqual(worldIn(look), [2, "p0 p1", "p2"]);
  assert.deepEqual(deletions(look), []);
  assert.equal(conditions(look.status).Running, "True Training");
  const later = (ms: number, pods = trio) =>
    decide(observed({ job: two, status: look.status, pods, reports: trioSays(), now: new Date(start + ms) }));
  assert.deepEqual(deletions(later(60_000)), []);
  assert.deepEqual(deletions(later(120_000)), ["j-train-2-0"]);
  const stopped = later(
    1_000,
    trio.map((one) => (one.rank === 2 ? { ...one, over: over({ outcome: "Stopped" }) } : one)),
  );
  assert.deepEqual(deletions(stopped), ["j-train-2-0"]);
  assert.deepEqual([worldIn(stopped), stopped.status.lastStop], [[2, "p0 p1", "p2"], undefined]);
});

test("pods of a suspended job are told that nobody takes what they have, and ranks that are too few say why they wait", () => {
  const ending = trio.map((one) => ({ ...one, deleting: true }));
  assert.deepEqual([...looks({ job: job({ suspend: true }, 2), pods: ending }).stops], ["p0", "p1", "p2"]);
  const strict = job({ replicas: 3, elasticity: { minReplicas: 3, maxReplicas: 4 } });
  const look = looks({ job: strict, pods: [trio[0]!, trio[2]!] });
  assert.deepEqual([worldIn(look), look.restless], [[1, "p0 p1 p2", ""], true]);
  assert.equal(conditions(look.status).Running, "False RankLost");
  assert.match(
    look.status.conditions?.find(({ type }) => type === "Running")?.message ?? "",
    /do not train without it: elasticity.minReplicas is 3/,
  );
});

test("a pod that ends long after it left its world takes no step back, and with it no experts that have spawned", () => {
  const at = (step: number) => ({ progress: { step, curve: [{ step, loss: 1 }] } });
  const born = job({ replicas: 3, elasticity: { maxReplicas: 4 }, model: { uri: "pvc://models/m", init: "Random" }, spawn: { step: 40 } });
  const known = { ...together, step: 45 };
  const late = (rank: number) =>
    decide(
      observed({
        job: born,
        status: known,
        reports: trioSays(at(45), at(45), at(45)),
        pods: trio.map((one) => (one.rank === rank ? { ...one, over: over({ outcome: "Stopped", report: at(39).progress }) } : one)),
      }),
    ).status;
  assert.equal(late(2).step, 45);
  assert.equal(late(2).curve?.at(-1)?.step, 45);
  assert.equal(late(0).step, 39, "the first rank is believed: it may go on from a checkpoint");
});
