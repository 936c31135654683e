import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { deployment, member, model, now, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import type { PodFacts, Snapshot } from "../core/snapshot.ts";
import { type Action, nextStep, type Successor } from "./pod-actions.ts";
import { targetRanks } from "./ranks.ts";

const Mi = 2 ** 20;
const say = (action: Action): string => {
  if (action.type === "create") return `create ${action.rank}`;
  const detail =
    action.type === "delete" ? `${action.force ? " now" : ""} (${action.reason})` : action.type === "mark" ? ` ${action.reason}` : "";
  return `${action.type} ${action.pod.rank}${detail}`;
};
const step = (more: Partial<Snapshot>, ranks: number, successor: Successor = "Accepted") => {
  const result = nextStep({ snapshot: snapshot(more), ranks, successor, limitBytes: undefined });
  return { ...result, said: result.actions.map(say) };
};
const serving = (ranks: number[]) => view({ members: ranks.map((rank) => member(rank)) });
const marked = (rank: number, reason: "Shrink" | "Roll" | "Stop", more: Partial<PodFacts> = {}) =>
  pod(rank, { leaving: { reason, sinceMs: now.getTime() - 1000 }, ...more });
const drain = (rank: number, phase: "Moving" | "Draining" | "Drained" | "Blocked") => ({
  rank,
  podUid: `pod-${rank}`,
  phase,
  message: "no room",
});

/** A deployment whose status says that pods of this rank ended. */
const failing = (rank: number, more: object) =>
  deployment(
    {},
    {
      observedGeneration: 1,
      expertParallel: {
        podFailures: [{ rank, count: 1, reason: "OutOfcpu", pod: "moe-1-before", retryTime: "2026-03-01T09:59:50Z", ...more }],
      },
    },
  );

const cases: Record<string, { world: Partial<Snapshot>; ranks: number; want: string[]; successor?: Successor }> = {
  "from nothing all ranks are made at once": { world: {}, ranks: 3, want: ["create 0", "create 1", "create 2"] },
  "a free rank is filled with the smallest number": { world: { pods: [pod(0), pod(2)] }, ranks: 3, want: ["create 1"] },
  "nothing is done when all is well": { world: { pods: [pod(0), pod(1)], view: serving([0, 1]) }, ranks: 2, want: [] },
  "a pod on a lost node is removed by force and its rank made again in one step": {
    world: { pods: [pod(0), pod(1, { lost: true })] },
    ranks: 2,
    want: ["delete 1 now (NodeLost)", "create 1"],
  },
  "a failed pod goes and its rank is made again": {
    world: { pods: [pod(0, { terminal: true, ready: false })] },
    ranks: 1,
    want: ["delete 0 (PodFailed)", "create 0"],
  },
  "the rank of a terminating pod is not taken while it may still run: another is made in its place": {
    world: { pods: [pod(0, { terminating: true, goneInMs: 5000 })] },
    ranks: 1,
    want: ["create 1"],
  },
  "a pod that outstays its grace period is forced out": {
    world: { pods: [pod(0, { terminating: true, goneInMs: -10_000 })] },
    ranks: 1,
    want: ["delete 0 now (StuckTerminating)", "create 0"],
  },
  "of two pods with one rank the younger goes": {
    world: { pods: [pod(0), pod(0, { uid: "young", createdMs: now.getTime() })] },
    ranks: 1,
    want: ["delete 0 (DuplicateRank)"],
  },
  "a shrink marks unready ranks first, whatever they hold": {
    world: { pods: [pod(0), pod(1, { ready: false }), pod(2)], view: serving([0, 2]) },
    ranks: 2,
    want: ["mark 1 Shrink"],
  },
  "then who holds the fewest unique expert bytes, then the highest rank": {
    world: {
      pods: [pod(0), pod(1), pod(2), pod(3)],
      view: view({
        members: [
          member(0, { uniqueBytes: 9 }),
          member(1, { uniqueBytes: 1 }),
          member(2, { uniqueBytes: 5 }),
          member(3, { uniqueBytes: 5 }),
        ],
      }),
    },
    ranks: 2,
    want: ["mark 1 Shrink", "mark 3 Shrink"],
  },
  "a marked rank stays until it is empty": {
    world: { pods: [pod(0), marked(1, "Shrink")], view: view({ members: [member(0), member(1)], drains: [drain(1, "Moving")] }) },
    ranks: 1,
    want: [],
  },
  "an empty one goes": {
    world: { pods: [pod(0), marked(1, "Shrink")], view: view({ members: [member(0), member(1)], drains: [drain(1, "Drained")] }) },
    ranks: 1,
    want: ["delete 1 (ScaledDown)"],
  },
  "a marked rank that never served goes at once": {
    world: { pods: [pod(0), marked(1, "Shrink", { ready: false })], view: serving([0]) },
    ranks: 1,
    want: ["delete 1 (ScaledDown)"],
  },
  "one whose probe fails while it is emptied stays: what it holds may be nowhere else": {
    world: {
      pods: [pod(0), marked(1, "Shrink", { ready: false })],
      view: view({ members: [member(0), member(1, { active: false, uniqueBytes: 9 })], drains: [drain(1, "Moving")] }),
    },
    ranks: 1,
    want: [],
  },
  "a new leader has not reached it yet: it is not known what it holds": {
    world: { pods: [pod(0), marked(1, "Shrink", { ready: false })], view: serving([0]), warmingUp: true },
    ranks: 1,
    want: [],
  },
  "a rank that is wanted again is kept": {
    world: { pods: [pod(0), marked(1, "Shrink")], view: serving([0, 1]) },
    ranks: 2,
    want: ["unmark 1"],
  },
  "a shrink that leaves no room for the experts is refused and what was marked comes back": {
    world: {
      deployment: deployment({ experts: { memoryPerRank: 9 * Mi } }),
      pods: [pod(0), marked(1, "Shrink")],
      view: view({ members: [member(0), member(1)], model }),
    },
    ranks: 1,
    want: ["unmark 1"],
  },
  "scaling to zero drains every rank and moves nothing": {
    world: { pods: [pod(0), pod(1)], view: serving([0, 1]) },
    ranks: 0,
    want: ["mark 0 Stop", "mark 1 Stop"],
  },
  "a changed template rolls the highest rank first, once one of the new template serves beside": {
    world: { pods: [pod(0, { templateHash: "old" }), pod(1, { templateHash: "old" }), pod(2)], view: serving([0, 1, 2]) },
    ranks: 2,
    want: ["mark 1 Roll"],
  },
  "the next is not rolled while one is not serving": {
    world: { pods: [pod(0, { templateHash: "old" }), pod(1, { ready: false }), pod(2)], view: serving([0, 2]) },
    ranks: 2,
    want: [],
  },
  "nor while one is ready but no member yet": {
    world: {
      pods: [pod(0, { templateHash: "old" }), pod(1), pod(2)],
      view: view({ members: [member(0), member(1, { active: false }), member(2)] }),
    },
    ranks: 2,
    want: [],
  },
  "old pods that do not serve are replaced at once": {
    world: { pods: [pod(0, { templateHash: "old", ready: false }), pod(1, { templateHash: "old", ready: false })] },
    ranks: 2,
    want: ["delete 0 (Rolled)", "delete 1 (Rolled)"],
  },
  "an old pod whose probe fails and whose stream says that it serves is not": {
    world: { pods: [pod(0), pod(1, { templateHash: "old", ready: false }), pod(2, { ready: false })], view: serving([0, 1]) },
    ranks: 2,
    want: [],
  },
  "it is emptied once another serves in its place": {
    world: { pods: [pod(0), pod(1, { templateHash: "old", ready: false }), pod(2)], view: serving([0, 1, 2]) },
    ranks: 2,
    want: ["mark 1 Roll"],
  },
  "a roll goes on where the others have no room for its experts": {
    world: {
      pods: [pod(0), marked(1, "Roll", { templateHash: "old" }), pod(2, { ready: false, problem: "Unschedulable" })],
      view: view({ members: [member(0), member(1)], drains: [drain(1, "Blocked")] }),
    },
    ranks: 2,
    want: ["delete 1 (Rolled)"],
  },
  "with no accepted template nothing is made and nothing rolls, but dead pods go": {
    world: { pods: [pod(0, { templateHash: "old" }), pod(1, { lost: true })] },
    ranks: 3,
    successor: "None",
    want: ["delete 1 now (NodeLost)"],
  },
  "nor does a rank that was emptied for a roll go then: it stays": {
    world: {
      pods: [pod(0), marked(1, "Roll", { templateHash: "old" })],
      view: view({ members: [member(0), member(1)], drains: [drain(1, "Drained")] }),
    },
    ranks: 2,
    successor: "None",
    want: ["unmark 1"],
  },
  "while the API server refuses the pod, a rank that was emptied for a roll stays, and a missing one is tried": {
    world: {
      pods: [pod(0), marked(1, "Roll", { templateHash: "old" })],
      view: view({ members: [member(0), member(1)], drains: [drain(1, "Drained")] }),
    },
    ranks: 3,
    successor: "Refused",
    want: ["unmark 1", "create 2"],
  },
  "nor are old pods that do not serve deleted for it": {
    world: { pods: [pod(0, { templateHash: "old", ready: false })] },
    ranks: 1,
    successor: "Refused",
    want: [],
  },
  "a shrink takes a rank that was marked for a roll, and it is told one thing": {
    world: { pods: [pod(0), marked(1, "Roll", { templateHash: "old" })], view: serving([0, 1]) },
    ranks: 1,
    successor: "Refused",
    want: ["mark 1 Shrink"],
  },
  "a rank that fails again waits for its turn, and no other is made for it": {
    world: { deployment: failing(1, { count: 1 }), pods: [pod(0), pod(1, { name: "moe-1-again", terminal: true, ready: false })] },
    ranks: 2,
    want: ["delete 1 (PodFailed)"],
  },
  "when its time has come it is made": {
    world: { deployment: failing(1, { count: 4, retryTime: now.toISOString() }), pods: [pod(0)] },
    ranks: 2,
    want: ["create 1"],
  },
};
for (const [sentence, { world, ranks, want, successor }] of Object.entries(cases)) {
  test(sentence, () => assert.deepEqual(step(world, ranks, successor).said, want));
}

test("a refused shrink says what would make it possible", () => {
  const world = {
    deployment: deployment({ experts: { memoryPerRank: 9 * Mi } }),
    pods: [pod(0), pod(1)],
    view: view({ members: [member(0), member(1)], model }),
  };
  const { blocked, said } = step(world, 1);
  assert.deepEqual(said, []);
  assert.equal(blocked?.reason, "ScaleDownBlocked");
  assert.equal(
    blocked?.message,
    "experts need 16Mi, 1 ranks x 9Mi = 9Mi (one slot of 1Mi per rank stages moves): raise memoryPerRank to 17Mi or replicas to 2, or set experts.oversubscription to Allow",
  );
});

test("replicas is acted on once it stood still for the settle time, and at once from zero", () => {
  const at = (status: object, spec: object = {}) => targetRanks(deployment({ replicas: 5, ...spec }, { expertParallel: status }), now);
  assert.equal(at({}).ranks, 5);
  assert.equal(at({ desiredRanks: 0 }).ranks, 5);
  const fresh = at({ desiredRanks: 3 });
  assert.deepEqual([fresh.ranks, fresh.pending?.replicas, fresh.settlesInMs], [3, 5, 5000]);
  const since = (ms: number) => new Date(now.getTime() - ms).toISOString();
  assert.deepEqual(at({ desiredRanks: 3, pendingReplicas: 5, pendingSince: since(4000) }).settlesInMs, 1000);
  assert.equal(at({ desiredRanks: 3, pendingReplicas: 5, pendingSince: since(5000) }).ranks, 5);
  assert.equal(at({ desiredRanks: 3, pendingReplicas: 4, pendingSince: since(9000) }).ranks, 3, "another value starts the wait anew");
  assert.equal(at({ desiredRanks: 3 }, { suspend: true }).ranks, 0);
});

test("replicas below the ranks that hold all experts changes nothing, where so many were wanted before", () => {
  const floor = { count: 3, reason: "16 experts need 16Mi" };
  const at = (replicas: number, status: object, spec: object = {}) =>
    targetRanks(deployment({ replicas, ...spec }, { expertParallel: status }), now, { floor });
  const held = at(1, { desiredRanks: 4 });
  assert.deepEqual([held.ranks, held.pending, held.settlesInMs], [4, undefined, undefined]);
  assert.deepEqual(held.blocked, {
    reason: "ScaleDownBlocked",
    message: "replicas 1: at least 3 ranks hold all experts (16 experts need 16Mi); 4 stay",
  });
  const since = new Date(now.getTime() - 60_000).toISOString();
  assert.equal(at(3, { desiredRanks: 4, pendingReplicas: 3, pendingSince: since }).ranks, 3, "down to the floor is allowed");
  for (const one of [at(1, {}), at(0, { desiredRanks: 4 }), at(1, { desiredRanks: 4 }, { suspend: true }), at(1, { desiredRanks: 1 })])
    assert.equal(one.blocked, undefined);
  assert.equal(at(1, { desiredRanks: 1 }).ranks, 1, "a deployment that never was larger is refused for its memory, not made larger");
});

test("no rank goes by a number that nobody means", () => {
  const since = new Date(now.getTime() - 60_000).toISOString();
  const status = { desiredRanks: 3, pendingReplicas: 1, pendingSince: since };
  const at = (fallen: boolean, spec: object = {}) =>
    targetRanks(deployment({ replicas: 1, ...spec }, { expertParallel: status }), now, { fallen });
  assert.deepEqual([at(false).ranks, at(true).ranks, at(true).pending], [1, 3, undefined]);
  assert.equal(at(true, { suspend: true }).ranks, 0);
});

/** A small world that obeys the steps: what a kubelet, a rebalance plane and time do in between is drawn at random. */
test("from any world the steps end in exactly the wanted ranks, and no rank is ever held twice", () => {
  const start = fc.array(
    fc.record({
      rank: fc.nat(6),
      ready: fc.boolean(),
      old: fc.boolean(),
      lost: fc.boolean(),
      terminal: fc.boolean(),
      mustGo: fc.boolean(),
    }),
    { maxLength: 6 },
  );
  fc.assert(
    fc.property(start, fc.nat(5), (pods, ranks) => {
      let serial = 0;
      let world: PodFacts[] = pods.map((one) =>
        pod(one.rank, {
          uid: `s${serial++}`,
          ready: one.ready && !one.terminal,
          templateHash: one.old ? "old" : "new",
          lost: one.lost,
          terminal: one.terminal,
          mustGo: one.mustGo ? "its node is cordoned" : "",
        }),
      );
      for (let turn = 0; turn < 60; turn++) {
        const drains = world.flatMap((one) =>
          one.leaving ? [{ rank: one.rank, podUid: one.uid, phase: "Drained" as const, message: "" }] : [],
        );
        const members = world.filter((one) => one.ready).map((one) => member(one.rank, { podUid: one.uid }));
        const { actions } = nextStep({
          snapshot: snapshot({ pods: world, view: view({ members, drains }) }),
          ranks,
          successor: "Accepted",
          limitBytes: undefined,
        });
        if (actions.length === 0 && world.every((one) => one.ready)) break;
        const deleted = new Set(actions.flatMap((action) => (action.type === "delete" ? [action.pod.uid] : [])));
        const marks = new Map(actions.flatMap((action) => (action.type === "mark" ? [[action.pod.uid, action.reason] as const] : [])));
        const unmarked = new Set(actions.flatMap((action) => (action.type === "unmark" ? [action.pod.uid] : [])));
        const made = actions.flatMap((action) =>
          action.type === "create" ? [pod(action.rank, { uid: `s${serial++}`, ready: false })] : [],
        );
        const kept = world
          .filter((one) => !deleted.has(one.uid))
          .map((one) => ({
            ...one,
            ready: !one.terminal && !one.lost,
            leaving: marks.has(one.uid)
              ? { reason: marks.get(one.uid) ?? ("Stop" as const), sinceMs: 0 }
              : unmarked.has(one.uid)
                ? undefined
                : one.leaving,
          }));
        const living = kept.filter((one) => !one.lost && !one.terminal);
        for (const one of made) assert.ok(!living.some((other) => other.rank === one.rank), `rank ${one.rank} is held twice`);
        world = [...kept, ...made];
      }
      assert.equal(world.length, ranks);
      assert.equal(new Set(world.map((one) => one.rank)).size, ranks);
      assert.ok(world.every((one) => one.templateHash === "new" && one.ready && !one.leaving && one.mustGo === ""));
    }),
    { numRuns: 200 },
  );
});
