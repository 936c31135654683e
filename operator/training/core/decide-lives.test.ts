// Lives of a job whose experts spawn: it is scaled, suspended, drained and killed, pods fall silent, and the operator dies between any two
// writes. Whatever was before, in peace it ends up with the pods that are wanted in one world, or with none.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { membersOf, type PodReport } from "../../../crds/training-world.ts";
import { conditions, job, observed, over, pod, start } from "../../../test/kit/training/training-decisions.ts";
import { type Decision, decide } from "./decide.ts";
import type { PodView } from "./pod-view.ts";
import { wantedReplicas } from "./spawn.ts";

type Left = PodReport["left"];
interface Living {
  view: PodView;
  epoch: number;
  left: Left;
  stop: boolean;
  /** Looks until the kubelet ends it, once it is to go. */
  grace: number;
}

const ranksMost = 4;
const event = fc.oneof(
  fc.record({ kind: fc.constant("scale" as const), to: fc.integer({ min: 1, max: ranksMost }) }),
  fc.record({ kind: fc.constantFrom("suspend" as const, "template" as const, "steps" as const, "look" as const, "back" as const) }),
  fc.record({ kind: fc.constantFrom("evict" as const, "kill" as const, "silent" as const), at: fc.nat(ranksMost - 1) }),
);
type Event = typeof event extends fc.Arbitrary<infer T> ? T : never;

class Life {
  status: Decision["status"] = {};
  pods: Living[] = [];
  now = start;
  step = 0;
  generation = 1;
  replicas = 2;
  suspend = false;
  template = 0;
  crashAfter = Number.POSITIVE_INFINITY;
  readonly #before: number;
  readonly #seen = new Map<number, string>();
  /** What each pod said last. */
  #reports = new Map<string, PodReport>();
  #names = 0;

  constructor(before: number) {
    this.#before = before;
  }

  get job() {
    const { replicas, suspend, generation } = this;
    const spawn = { step: 40, replicasBefore: this.#before };
    return job(
      { replicas, suspend, spawn, elasticity: { maxReplicas: ranksMost }, model: { uri: "pvc://m/a", init: "Random" } },
      generation,
    );
  }

  meet(happened: Event): void {
    const living = "at" in happened ? this.pods.filter(({ view }) => view.over === undefined)[happened.at] : undefined;
    if (happened.kind === "scale") this.replicas = happened.to;
    if (happened.kind === "suspend") this.suspend = !this.suspend;
    if (happened.kind === "template") this.template += 1;
    if (happened.kind === "scale" || happened.kind === "suspend" || happened.kind === "template") this.generation += 1;
    if (happened.kind === "steps") this.step = Math.min(99, this.step + 15);
    if (happened.kind === "back") for (const each of this.pods) each.view = { ...each.view, silent: false };
    if (living === undefined) return;
    if (happened.kind === "evict") living.view = { ...living.view, deleting: true };
    if (happened.kind === "kill") living.view = { ...living.view, over: over(undefined), running: false };
    if (happened.kind === "silent") living.view = { ...living.view, silent: true };
  }

  /** What pods and the kubelet do between two looks. */
  #live(): void {
    const { world } = this.status;
    // Lost for the others, or gone from the world since it had lost one.
    const away = ({ uid }: { uid: string }): boolean =>
      !this.pods.some(({ view, left }) => view.uid === uid && view.over === undefined && !view.silent && left?.epoch !== world?.epoch);
    for (const each of this.pods) {
      const { view } = each;
      if (view.over !== undefined || view.silent) continue;
      const lost =
        world !== undefined && world.epoch === each.epoch && world.ranks.some(away) && membersOf(world).some(({ uid }) => uid === view.uid);
      if (lost) each.left = { epoch: each.epoch, code: "RankLost", message: "" };
      const handsOn = each.epoch === world?.epoch && (world.leaving?.some(({ uid }) => uid === view.uid) ?? false);
      if (view.deleting) each.grace -= 1;
      if (handsOn || each.stop || each.grace < 0)
        each.view = { ...view, running: false, over: over({ outcome: "Stopped", report: { step: this.step, curve: [] } }) };
    }
    for (const each of this.pods) if (each.view.silent && each.view.deleting) each.grace -= 1;
    this.pods = this.pods.filter(({ view, grace }) => !(view.deleting && (view.over !== undefined || grace < 0)));
  }

  look(): void {
    this.now += 1_000;
    this.#live();
    for (const { view, epoch, left } of this.pods) {
      const said = { pod: view.uid, epoch, training: epoch, leastRanks: 1, progress: { step: this.step, curve: [] } };
      if (!view.silent && view.over === undefined)
        this.#reports.set(view.uid, { ...said, ...(left && { left }), ...(view.deleting && { leaving: true }) });
    }
    const views = this.pods.map(({ view }) => view);
    const reports = new Map([...this.#reports].filter(([uid]) => views.some((view) => view.uid === uid && view.over === undefined)));
    const given = { job: this.job, now: new Date(this.now), templateHash: () => `h${this.template}` };
    const decision = decide(observed({ ...given, status: this.status, pods: views, reports }));
    this.#judge(decision);
    if (this.#crashes()) return;
    this.status = decision.status;
    for (const action of decision.actions) {
      if (this.#crashes()) return;
      if (action.kind === "delete") {
        for (const each of this.pods) if (each.view.uid === action.uid) each.view = { ...each.view, deleting: true };
        continue;
      }
      assert.ok(action.kind === "create", "nothing changes that would be checked again");
      const { rank, attempt } = action;
      assert.ok(!this.suspend, "a suspended job gets no pod");
      const [uid, name] = [`p${this.#names++}`, `j-train-${rank}-${attempt}`];
      assert.ok(!this.pods.some(({ view }) => view.name === name), `${name} is there`);
      const { generation } = this;
      const view = pod({ name, uid, rank, attempt, generation, hash: `h${this.template}`, since: this.now, ip: `10.0.0.${this.#names}` });
      this.pods.push({ view, epoch: 0, left: undefined, stop: false, grace: 3 });
    }
    if (this.#crashes()) return;
    for (const each of this.pods) {
      if (each.view.silent || each.view.over !== undefined) continue;
      each.epoch = Math.max(each.epoch, decision.status.world?.epoch ?? 0);
      each.stop ||= decision.stops.has(each.view.uid);
    }
  }

  #crashes(): boolean {
    this.crashAfter -= 1;
    return this.crashAfter === -1;
  }

  #judge({ status: { world }, stops }: Decision): void {
    if (world === undefined) return;
    assert.ok(world.epoch >= (this.status.world?.epoch ?? 0));
    const set = membersOf(world).map(({ uid }) => uid);
    assert.equal(this.#seen.get(world.epoch) ?? `${set}`, `${set}`, "one epoch, one set of pods");
    this.#told(world.epoch, `${set}`);
    if (!this.suspend) for (const { uid } of world.leaving ?? []) assert.ok(!stops.has(uid), "who hands on is not told to end");
  }

  /** A world counts once it is in the status: one that a crash kept from it was told to nobody. */
  #told(epoch: number, set: string): void {
    if (this.crashAfter !== 0) this.#seen.set(epoch, set);
  }

  settle(): void {
    this.crashAfter = Number.POSITIVE_INFINITY;
    this.meet({ kind: "back" });
    for (let i = 0; i < 60; i++) {
      this.look();
      if (i % 10 === 9) this.now += 300_000;
    }
  }
}

test("whatever happens to a job, and wherever its operator dies, in peace it has the pods that are wanted, in one world", () => {
  const lives = fc.array(fc.tuple(event, fc.nat(3), fc.option(fc.nat(4))), { maxLength: 25 });
  fc.assert(
    fc.property(lives, fc.integer({ min: 1, max: 3 }), (events, before) => {
      const life = new Life(before);
      for (const [happened, looks, crash] of events) {
        life.meet(happened);
        life.crashAfter = crash ?? Number.POSITIVE_INFINITY;
        for (let i = 0; i <= looks; i++) life.look();
      }
      life.settle();
      const wanted = life.suspend ? 0 : wantedReplicas(life.job, life.status);
      const uids = life.pods.toSorted((a, b) => a.view.rank - b.view.rank).map(({ view }) => view.uid);
      assert.equal(uids.length, wanted);
      if (wanted === 0) return;
      assert.deepEqual(
        life.status.world?.ranks.map(({ uid }) => uid),
        uids,
      );
      assert.equal(conditions(life.status).Running, "True Training");
    }),
    { numRuns: 300 },
  );
});
