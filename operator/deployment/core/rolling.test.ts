// Rolls under every strategy, step by step in a small world: the budget holds at each step, they come to an end, and a step that is
// repeated changes nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { deployment, member, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import { type Action, nextStep } from "../features/pod-actions.ts";
import type { PodFacts, Snapshot } from "./snapshot.ts";

const stepsMax = 200;
const revisions = [
  { number: 2, templateHash: "new" },
  { number: 1, templateHash: "old" },
];

interface Strategy {
  readonly maxSurge: number;
  readonly maxUnavailable: number;
  readonly partition: number;
}

/** A world of pods that obeys the steps; `chance` decides which pods have started, and which are empty, by the next look. */
class World {
  pods: PodFacts[];
  #serial = 0;
  readonly #strategy: Strategy;
  readonly #ranks: number;

  constructor(strategy: Strategy, ranks: number) {
    this.#strategy = strategy;
    this.#ranks = ranks;
    this.pods = Array.from({ length: ranks }, (_, rank) => this.#pod(rank, { templateHash: "old" }));
  }

  #pod(rank: number, more: Partial<PodFacts>): PodFacts {
    return pod(rank, { uid: `p${this.#serial++}`, ...more });
  }

  snapshot(drained: ReadonlySet<string>): Snapshot {
    const drains = this.pods
      .filter((one) => one.leaving)
      .map((one) => ({
        ...{ rank: one.rank, podUid: one.uid, message: "" },
        phase: drained.has(one.uid) ? ("Drained" as const) : ("Moving" as const),
      }));
    const members = this.pods.filter((one) => one.ready).map((one) => member(one.rank, { podUid: one.uid }));
    const rollout = { phase: "Progressing", templateHash: "new", stableTemplateHash: "old" };
    return snapshot({
      deployment: deployment({ rolloutStrategy: this.#strategy, replicas: this.#ranks }, { rollout }),
      pods: this.pods,
      rollout: { revisions, rolledBack: undefined },
      view: view({ members, drains }),
    });
  }

  step(drained: ReadonlySet<string>): readonly Action[] {
    return nextStep({ snapshot: this.snapshot(drained), ranks: this.#ranks, successor: "Accepted", limitBytes: undefined }).actions;
  }

  apply(actions: readonly Action[]): void {
    for (const action of actions) {
      if (action.type === "create") {
        assert.ok(!this.pods.some((one) => one.rank === action.rank), `rank ${action.rank} is held twice`);
        this.pods.push(this.#pod(action.rank, { ready: false, templateHash: action.stable ? "old" : "new" }));
      } else if (action.type === "delete") this.pods = this.pods.filter((one) => one.uid !== action.pod.uid);
      else {
        const leaving = action.type === "mark" ? { reason: action.reason, sinceMs: 0 } : undefined;
        this.pods = this.pods.map((one) => (one.uid === action.pod.uid ? { ...one, leaving } : one));
      }
    }
  }

  start(chance: () => boolean): void {
    this.pods = this.pods.map((one) => (one.ready || !chance() ? one : { ...one, ready: true, unreadySinceMs: undefined }));
  }

  /** Ranks that serve and are not asked to leave. */
  get serving(): number {
    return this.pods.filter((one) => one.ready && !one.leaving).length;
  }
  of(hash: string): number {
    return this.pods.filter((one) => one.templateHash === hash).length;
  }
}

const strategies = fc
  .record({ maxSurge: fc.nat(4), maxUnavailable: fc.nat(4), partition: fc.nat(8) })
  .filter(({ maxSurge, maxUnavailable }) => maxSurge + maxUnavailable > 0);

test("whatever the budget, no more ranks are missing and no more pods there than it says, and the roll ends", () => {
  fc.assert(
    fc.property(strategies, fc.integer({ min: 1, max: 8 }), fc.infiniteStream(fc.boolean()), (strategy, ranks, coins) => {
      const chance = () => coins.next().value === true;
      const world = new World(strategy, ranks);
      const kept = Math.min(ranks, strategy.partition);
      for (let turn = 0; turn < stepsMax && (world.of("new") < ranks - kept || world.pods.length !== ranks); turn++) {
        const drained = new Set(world.pods.filter((one) => one.leaving && chance()).map((one) => one.uid));
        const actions = world.step(drained);
        assert.deepEqual(world.step(drained), actions, "a look that is repeated decides the same");
        world.apply(actions);
        assert.ok(world.serving >= ranks - strategy.maxUnavailable, `${world.serving} of ${ranks} serve`);
        assert.ok(world.pods.length <= ranks + strategy.maxSurge, `${world.pods.length} pods of ${ranks}`);
        world.start(chance);
      }
      assert.deepEqual([world.of("new"), world.of("old")], [ranks - kept, kept]);
      world.start(() => true);
      assert.deepEqual(world.step(new Set()), [], "then there is nothing to do");
    }),
    { numRuns: 300 },
  );
});

test("a budget that were not kept would be seen", () => {
  const world = new World({ maxSurge: 1, maxUnavailable: 0, partition: 0 }, 3);
  const first = world.pods[0] as PodFacts;
  world.apply([{ type: "mark", pod: first, reason: "Roll", why: "" }]);
  assert.ok(world.serving < 3);
});
