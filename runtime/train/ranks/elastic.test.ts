// Worlds of ranks that are lost, come and go: whatever happens at any moment of a step or of a world's begin, a run ends with the bits of
// one that nothing happened to, and a loss costs the step in flight at most.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { dispatchNames, rematerializeNames, trainingPlannerNames } from "../../../crds/names.ts";
import { FaultyHub, type Kill, type Operations } from "../../../test/kit/training/faulty-hub.ts";
import { tinyModel } from "../../../test/kit/training/training.ts";
import { batchOf, testFssdp, testLearning } from "../../../test/kit/training/training-ranks.ts";
import { floatsIn, stateFields, type WholeState } from "../../../test/kit/training/training-state.ts";
import { trainingPeers } from "../../../test/peers/index.ts";
import { createTraining } from "../../compute/open-training.ts";
import type { TrainingBackend } from "../../compute/training.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { programOf } from "../../models/index.ts";
import { layoutOf } from "../model/layout.ts";
import { leaveWorld } from "./begin-world.ts";
import { shapeOf, stateUnits } from "./model-shape.ts";
import { Rank } from "./rank.ts";
import type { RankOptions } from "./rank-options.ts";
import { RankState } from "./rank-state.ts";

const program = programOf(JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")));
const layout = layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` }));
const [microBatches, sequenceLength, steps] = [4, 8, 4];
const podsMost = 4;
/** Worlds that one phase takes, at most. */
const worldsMost = 4;

const options: Omit<RankOptions, "context"> = {
  program,
  layout,
  ...testLearning,
  fssdp: { ...testFssdp, planner: trainingPeers.smartmoe, microBatchesAtOnce: microBatches },
  microBatches,
  sequences: microBatches,
  sequenceLength,
  schedule: { name: "cosine", rate: 1e-2, warmup: 1, steps, floor: 0 },
  shadow: true,
};

const batches = Array.from({ length: steps + 1 }, (_, step) =>
  Array.from({ length: microBatches }, (__, microBatch) => {
    const [inputs, targets] = [0, 50].map(
      (seed) => randomIds(100 * step + seed + microBatch, sequenceLength, program.vocab).data as Int32Array,
    );
    return { inputs: inputs!, targets: targets! };
  }),
);

interface Pod {
  rankState: RankState;
  readonly backend: TrainingBackend;
}

/** In which world which pods are there, and the step that it ends after, where nothing ends it before. */
interface Phase {
  readonly pods: string;
  readonly until: number;
}

const backends: TrainingBackend[] = [];
for (let i = 0; i < podsMost; i++) backends.push(await createTraining({ threads: 1 }));
after(() => Promise.all(backends.map((backend) => backend.close())));

const empty = (step: number): WholeState => {
  const [p, m, v] = [0, 1, 2].map(() => new Float32Array(layout.floats)) as [Float32Array, Float32Array, Float32Array];
  return { step, state: { p, m, v } };
};
const start = (): WholeState => {
  const made = empty(0);
  made.state.p.set(gaussian(3, layout.floats, 0.1));
  return made;
};

interface Conditions {
  readonly kills: readonly Kill[];
  readonly changed: Partial<RankOptions>;
  readonly rankState: typeof RankState;
}

class Run {
  /** Of each world: the pods in it, the step that it began from, and units that were read from a checkpoint. */
  readonly worlds: { readonly pods: string; readonly from: number; readonly missing: number }[] = [];
  /** How often each step was begun. */
  readonly begun = new Map<number, number>();
  /** Of each world. */
  readonly operations: Operations[] = [];
  digest = "";
  readonly #pods = new Map<string, Pod>();
  readonly #kills: readonly Kill[];
  readonly #changed: Partial<RankOptions>;
  readonly #rankState: typeof RankState;
  readonly #dead = new Set<string>();
  #checkpoint = start();
  #unfinished = start();
  readonly #saved = new Set<string>();

  constructor({ kills = [], changed = {}, rankState = RankState }: Partial<Conditions> = {}) {
    this.#kills = kills;
    this.#changed = changed;
    this.#rankState = rankState;
  }

  /** `checkpointAt`: the step whose state is read when nobody has it. */
  async through(phases: readonly Phase[], checkpointAt = 0): Promise<this> {
    for (const { pods, until } of phases)
      for (let done = false, tries = 0; !done; tries++) {
        assert.ok(tries < worldsMost, "worlds end again and again");
        done = await this.#world(
          [...pods].filter((name) => !this.#dead.has(name)),
          until,
          checkpointAt,
        );
      }
    for (const { rankState } of this.#pods.values()) rankState.drop();
    return this;
  }

  #pod(name: string): Pod {
    const pod = this.#pods.get(name) ?? { rankState: new this.#rankState(), backend: backends[this.#pods.size % podsMost]! };
    this.#pods.set(name, pod);
    return pod;
  }

  /** Those that are not to be in the next world, and have state. */
  #leaving(names: readonly string[]): string[] {
    return [...this.#pods].flatMap(([name, { rankState }]) => (names.includes(name) || rankState.commitState.applied < 0 ? [] : [name]));
  }

  async #world(names: readonly string[], until: number, checkpointAt: number): Promise<boolean> {
    const world = this.operations.push({});
    const all = [...names, ...this.#leaving(names)];
    const kills = this.#kills.filter((kill) => kill.world === world);
    const faulty = new FaultyHub(all, this.operations[world - 1]!, kills);
    const facts = { node: names.map((_, rank) => rank), speed: names.map(() => 1) };
    const given = (rank: number): RankOptions => {
      const context = { transport: faulty.transport(rank), world, facts, rankState: this.#pod(all[rank]!).rankState };
      return { ...options, ...this.#changed, context };
    };
    const ranks: Rank[] = [];
    for (const [rank, name] of names.entries()) ranks.push(await Rank.open(this.#pod(name).backend, given(rank)));
    const ends = await Promise.allSettled(
      all.map(async (name, index) => {
        const rank = ranks[index];
        if (rank === undefined) {
          await leaveWorld(given(index));
          this.#pod(name).rankState = new this.#rankState();
          return;
        }
        const begun = await rank.begin(() => restored(rank, this.#checkpoint));
        if (index === 0) this.worlds.push({ pods: names.join(""), from: begun.step, missing: begun.missing.length });
        for (let step = begun.step + 1; step <= until; step++) {
          if (index === 0) this.begun.set(step, (this.begun.get(step) ?? 0) + 1);
          await rank.step(step, batchOf(batches[step]!));
          if (step === checkpointAt) await this.#save(name, names, step);
        }
      }),
    );
    const failed = ends.flatMap((end) => (end.status === "rejected" ? [end.reason as Error] : []));
    if (faulty.killed.size === 0 && failed.length > 0) throw failed[0];
    const made = faulty.killed.size === 0 && failed.length === 0;
    if (made) this.digest = digestOf(ranks);
    for (const name of faulty.killed) {
      this.#dead.add(name);
      this.#pod(name).rankState.drop();
      this.#pods.delete(name);
    }
    for (const rank of ranks) rank.close();
    return made;
  }

  /** Units that a pod owns; once all pods have them there, it is a checkpoint. */
  async #save(name: string, names: readonly string[], step: number): Promise<void> {
    if (this.#unfinished.step !== step) this.#unfinished = empty(step);
    const { rankState } = this.#pod(name);
    const shape = shapeOf(layout, names.length);
    const units = stateUnits(shape);
    const has = rankState.has(units);
    for (const [i, unit] of units.entries())
      for (const field of has[i] === 2 ? stateFields : [])
        floatsIn(this.#unfinished.state[field], unit, { shape, layout }).set(await rankState.storeOf(unit).whole(unit, field));
    this.#saved.add(name);
    if (this.#saved.size < names.length) return;
    this.#checkpoint = this.#unfinished;
    this.#saved.clear();
  }
}

/** Fills a rank as a checkpoint does. */
async function restored({ state }: Rank, { step, state: { p, m, v } }: WholeState): Promise<number> {
  for (const [part, { units }] of layout.parts.entries())
    for (const [index, { from, to }] of units.entries())
      if (state.wants(part, index))
        await state.take(part, index, Float32Array.from([p, m, v].flatMap((array) => [...array.subarray(from, to)])));
  return step;
}

function digestOf(ranks: readonly Rank[]): string {
  const parameters = new Float32Array(layout.floats);
  for (const rank of ranks) rank.state.save(parameters);
  return createHash("sha256").update(new Uint8Array(parameters.buffer)).digest("hex");
}

const quiet = await new Run().through([{ pods: "a", until: steps }]);
const whole: readonly Phase[] = [{ pods: "abc", until: steps }];
const undisturbed = await new Run().through(whole);
const operationsOf = (pod: string, world = 1): string[] => undisturbed.operations[world - 1]![pod]!;

test("3 -> 2 -> 4 -> 2 pods, each for a step, end with the bits of one; nothing is read again or made twice", async () => {
  const run = await new Run().through(["abc", "ab", "abcd", "cd"].map((pods, i) => ({ pods, until: i + 1 })));
  assert.deepEqual([run.digest, undisturbed.digest], [quiet.digest, quiet.digest]);
  assert.deepEqual(
    run.worlds.map(({ from, missing }) => [from, missing > 0]),
    [0, 1, 2, 3].map((from) => [from, from === 0]),
  );
  assert.deepEqual([...run.begun.values()], [1, 1, 1, 1]);
});

/** Every moment with ENODIA_LONG=1; otherwise one in so many, of every pod. */
const oneIn = process.env.ENODIA_LONG === "1" ? 1 : 41;
const moments = ["a", "b", "c"].flatMap((pod) =>
  operationsOf(pod).flatMap((operation, at) => (at > 0 && operation.startsWith("0 ") ? [] : [{ pod, at, operation }])),
);

test("a pod that is killed at any moment costs the step in flight at most, and no bit", async () => {
  for (const [i, { pod, at, operation }] of moments.entries()) {
    if (i % oneIn !== 0) continue;
    const told = Math.floor(i / oneIn) % 2 === 0 ? "later" : "at once";
    const run = await new Run({ kills: [{ world: 1, pod, at, told }] }).through(whole);
    assert.equal(run.digest, quiet.digest, `${pod} at ${operation}, told ${told}`);
    const again = [...run.begun.values()].reduce((sum, times) => sum + times - 1, 0);
    assert.ok(again <= 1, `${pod} at ${operation}, told ${told}: ${again} steps again`);
    const begun = run.worlds.filter(({ from }) => from > 0);
    assert.ok(
      begun.every(({ missing }) => missing === 0),
      `${pod} at ${operation}: read from a checkpoint`,
    );
  }
});

const at = (pod: string, operation: string): number => {
  const found = operationsOf(pod).indexOf(operation);
  assert.ok(found >= 0, `${pod} does nothing of the name ${operation}`);
  return found;
};
/** b has said its norm of step 3 to a, not yet to c: a has all norms and makes the step, c has not. */
const halfSaid: Kill = { world: 1, pod: "b", at: at("b", "3 squares to c"), told: "later" };

test("a step that one rank has all norms of is made by all, and not again", async () => {
  const run = await new Run({ kills: [halfSaid] }).through(whole);
  assert.equal(run.digest, quiet.digest);
  assert.deepEqual(
    run.worlds.map(({ pods, from }) => [pods, from]),
    [
      ["abc", 0],
      ["ac", 3],
    ],
  );
  assert.deepEqual([...run.begun.values()], [1, 1, 1, 1]);
});

test("with optimizer state on disk the loss of a pod in a step, and of another in the begin behind it, cost no more and no bit", async () => {
  const changed = { optimizerMemory: { bytes: 50_000, folder: tmpdir() } };
  const four = [{ pods: "abcd", until: steps }];
  const [calm] = (await new Run({ changed }).through(four)).operations;
  for (const [operation, then] of [
    ["3 shadow sums to c", 2],
    ["3 squares to c", 9],
    ["3 parameters to c", 16],
  ] as const) {
    const moment = calm!.b!.indexOf(operation);
    assert.ok(moment >= 0, operation);
    const first: Kill = { world: 1, pod: "b", at: moment, told: "later" };
    const run = await new Run({ kills: [first, { world: 2, pod: "d", at: then, told: "later" }], changed }).through(four);
    assert.equal(run.digest, quiet.digest, operation);
    const begun = run.worlds.map(({ pods, missing, from }) => [pods, missing > 0, from >= 2]);
    assert.deepEqual(
      begun,
      [
        ["abcd", true, false],
        ["ac", false, true],
      ],
      operation,
    ); // nobody is through with the begin between
  }
});

test("ranks that measure rates change no bit, whoever comes, goes, or is lost while they tell them", async () => {
  const changed = { fssdp: { ...options.fssdp, planner: "auto", measured: true } } as const;
  const grown = await new Run({ changed }).through(["abc", "ab", "abcd"].map((pods, i) => ({ pods, until: i + 2 })));
  assert.equal(grown.digest, quiet.digest);
  const run = await new Run({ changed, kills: [{ world: 1, pod: "b", at: "2 rates to c", told: "later" }] }).through(whole);
  assert.equal(run.worlds.length, 2, "b was killed");
  assert.equal(run.digest, quiet.digest);
  assert.equal(run.worlds.map(({ from }) => from).join(), "0,1");
  assert.equal([...run.begun.values()].join(), "1,2,1,1");
});

/** Every combination with ENODIA_LONG=1; otherwise each planner, with the others in turn. */
const ways = [...trainingPlannerNames, ...Object.values(trainingPeers)].flatMap((planner, p) =>
  dispatchNames.flatMap((dispatch, d) =>
    rematerializeNames.flatMap((rematerialize, m) =>
      process.env.ENODIA_LONG === "1" || p % 4 === 2 * d + m ? [{ planner, dispatch, rematerialize }] : [],
    ),
  ),
);

test("whatever the planner, the dispatch and copies, a killed pod and another that comes later cost no bit", async () => {
  const phases = [
    { pods: "abc", until: 3 },
    { pods: "acd", until: steps },
  ];
  for (const [i, way] of ways.entries()) {
    const name = Object.values(way).join(", ");
    const changed = { fssdp: { ...options.fssdp, ...way } };
    const killed: Kill = { world: 1, pod: "b", at: at("b", "2 squares to a") + ((5 * i) % 11), told: "later" };
    const run = await new Run({ kills: [killed], changed }).through(phases);
    assert.equal(run.digest, quiet.digest, name);
    assert.equal(run.worlds.map(({ pods }) => pods).join(), "abc,ac,acd", name);
    assert.ok([...run.begun.values()].reduce((sum, times) => sum + times - 1, 0) <= 1, name);
  }
});

test("without the rule of commit a step is lost, or bits are: ranks that keep no gradients, and ranks that forget that they have them", async () => {
  /** Drops gradients once a world ends. */
  class Forgetful extends RankState {
    override get commitState() {
      const { applied, decided } = super.commitState;
      return { applied, prepared: applied, decided };
    }
  }
  const lost = await new Run({ kills: [halfSaid], rankState: Forgetful }).through(whole);
  assert.ok(lost.worlds[1]!.missing > 0, "c's units of step 3 are nowhere");
  /** Takes a step for made that it has the gradients of. */
  class Hasty extends RankState {
    override get commitState() {
      const { prepared, decided } = super.commitState;
      return { applied: prepared, prepared, decided };
    }
  }
  assert.notEqual((await new Run({ kills: [halfSaid], rankState: Hasty }).through(whole)).digest, quiet.digest);
});

test("without shadows a loss is a checkpoint's; with them the loss of a pod and of its shadow is, and no bit in either", async () => {
  const killed: Kill = { world: 1, pod: "b", at: at("b", "4 counts to a"), told: "later" };
  const plain = await new Run({ kills: [killed], changed: { shadow: false } }).through(whole, 2);
  assert.equal(plain.digest, quiet.digest);
  assert.deepEqual(
    plain.worlds.map(({ from }) => from),
    [0, 2],
  );
  const both: Kill = { world: 2, pod: "c", at: 3, told: "at once" };
  const twice = await new Run({ kills: [killed, both] }).through(whole, 1);
  assert.equal(twice.digest, quiet.digest);
  assert.deepEqual(
    twice.worlds.map(({ pods, from }) => [pods, from]),
    [
      ["abc", 0],
      ["a", 1],
    ],
  );
  assert.ok(twice.worlds[1]!.missing > 0);
});

test("a loss in the middle of a handover loses nothing: what was there before is there for the next world", async () => {
  const phases = [
    { pods: "abc", until: 2 },
    { pods: "abcd", until: steps },
  ];
  const growing = await new Run().through(phases);
  for (const pod of ["a", "d"]) {
    const begins = growing.operations[1]![pod]!.filter((operation) => operation.startsWith("0 ")).length;
    for (const moment of [0, Math.floor(begins / 2), begins - 1]) {
      const run = await new Run({ kills: [{ world: 2, pod, at: moment, told: "later" }] }).through(phases);
      assert.equal(run.digest, quiet.digest, `${pod} at ${moment}`);
      // Whoever was through with the begin before the loss has begun the next step.
      assert.ok(
        run.worlds.slice(1).every(({ from, missing }) => from === 2 && missing === 0),
        `${pod} at ${moment}`,
      );
      assert.ok([...run.begun.values()].reduce((sum, times) => sum + times, 0) <= steps + 1, `${pod} at ${moment}`);
    }
  }
});
