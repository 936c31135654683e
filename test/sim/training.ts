// Training over ranks in virtual time: real rules of membership, begins of worlds, handovers, shadows, moves of primaries and rules of commit,
// over a network that is slow, on pods that are killed, freeze, are told to end and come back, under a job that grows and shrinks. Passes
// of a model are left out.
import type { TrainingWorld } from "../../crds/training-world.ts";
import { type Random, seeded } from "../../operator/planner/random.ts";
import { gatherAll } from "../../runtime/net/collectives/collectives.ts";
import { leaves } from "../../runtime/train/pod/membership.ts";
import { type Begun, beginWorld } from "../../runtime/train/ranks/begin-world.ts";
import { movePrimaries } from "../../runtime/train/ranks/carry.ts";
import { primariesOfUnits, type Shape } from "../../runtime/train/ranks/model-shape.ts";
import { RankStores } from "../../runtime/train/ranks/rank-stores.ts";
import { fillStores } from "../kit/training/training-state.ts";
import { VirtualClock } from "./clock.ts";
import type { FaultRun } from "./faults.ts";
import { fillGradient, simFacts, simLayout, simOptimizer, simShape, simUnits, stateAt, steps, wrongUnits } from "./training-model.ts";
import { TrainingNet } from "./training-net.ts";
import { isLost, type TrainingPod, TrainingPods } from "./training-pods.ts";

const podsMost = 5;
const checkpointEvery = 5;
const moveEvery = 3;
const computeMs = 60;
/** A run takes some ten seconds, or some minutes where a pod has no node; one that takes an hour hangs. */
const runMsMost = 3_600_000;
const worldsMost = 200;
/** A begin takes about so long. */
const beginMsMost = 400;
const faultsMsMost = 4_000;
const faultsMost = 16;
/** Pods that are deleted are killed after it. */
const graceMs = 15_000;

type Primaries = readonly (readonly number[])[];

interface SimWorld {
  readonly epoch: number;
  /** Ranks of the world, then pods that leave. */
  readonly members: readonly TrainingPod[];
  readonly ranks: number;
  readonly net: TrainingNet;
  /** The last step that was made by one of them before. */
  readonly before: number;
  /** Members that are through with the begin. */
  readonly begun: Set<TrainingPod>;
  /** Members whose part is over, and whether they made all steps of it. */
  readonly ended: Map<TrainingPod, boolean>;
  /** The last step that one of them began. */
  lastBegun: number;
  /** The last step that is to be made in it, and whether a checkpoint is written then. */
  stopAfter: number;
  saves: boolean;
}

/** One seed: a membership that forms world after world until all steps are made. */
class TrainingSim {
  readonly clock: VirtualClock;
  readonly faults: string[] = [];
  readonly log: string[] = [];
  readonly #random: Random;
  readonly #operator: TrainingPods;
  readonly #worlds = new Map<number, SimWorld>();
  /** Pods lost since the newest world that stands on its ranks alone, how many ranks that one has, and its epoch; 0: there is none. */
  #lost = 0;
  #settledRanks = 0;
  #settled = 0;
  /** The last step that a rank began, and the newest world that one of them is through with the begin of. */
  #lastBegun = 0;
  #newest = 0;
  #checkpoint = 0;
  readonly #written = new Map<number, Set<number>>();
  /** Steps that were begun again. */
  repeated = 0;
  done = false;

  constructor(seed: number) {
    this.clock = new VirtualClock(0, seeded(seed).next);
    const random = seeded(seed);
    this.#random = random;
    const ports = {
      clock: this.clock,
      random,
      say: (text: string): void => this.#say(text),
      decided: (world: TrainingWorld): void => this.#decided(world),
      told: (pod: TrainingPod): void => this.#told(pod),
      remove: (pod: TrainingPod): void => this.#delete(pod),
    };
    this.#operator = new TrainingPods(ports, 1 + random.below(podsMost - 1));
  }

  get worlds(): number {
    return this.#worlds.size;
  }

  async run(): Promise<void> {
    this.#later(0, () => this.#operator.begin());
    await this.clock.run(runMsMost, () => this.done || this.faults.length > 0);
    if (!this.done && this.faults.length === 0) this.faults.push("the run does not end");
  }

  #say(text: string): void {
    this.log.push(`${Math.round(this.clock.now())}:${text}`);
  }

  #later(ms: number, run: () => void): void {
    this.clock.after(ms, run);
  }

  // The membership.

  #decided(world: TrainingWorld): void {
    const { epoch, ranks } = world;
    if (this.#worlds.size === 0)
      for (let count = this.#random.below(faultsMost); count > 0; count--)
        this.#later(this.#random.next() * faultsMsMost, () => this.#strike());
    if (this.#worlds.size >= worldsMost) return void this.faults.push("worlds end again and again");
    const members = this.#operator.members(world);
    const before = Math.max(...members.map(({ rankState, returned }) => (returned ? -1 : rankState.commitState.applied)));
    for (const pod of this.#operator.pods) pod.returned = !members.includes(pod);
    const net = new TrainingNet(members, this.clock, this.#random);
    const made = {
      epoch,
      members,
      ranks: ranks.length,
      net,
      before,
      begun: new Set<TrainingPod>(),
      ended: new Map<TrainingPod, boolean>(),
    };
    this.#worlds.set(epoch, { ...made, lastBegun: 0, stopAfter: steps, saves: false });
    // Those that were lost before it was decided are members whom nobody can reach.
    for (const pod of members) if (isLost(pod)) net.tell(new Error(`${pod.name} cannot be reached`));
    if (this.#random.next() < 0.4) this.#later(this.#random.next() * beginMsMost, () => this.#strike(true));
  }

  /** The worlds that a pod has a part in. */
  #worldsOf(pod: TrainingPod): SimWorld[] {
    return [...this.#worlds.values()].filter(({ members, ended }) => members.includes(pod) && !ended.has(pod));
  }

  #told(pod: TrainingPod): void {
    const { membership } = pod;
    for (const world of this.#worldsOf(pod)) {
      if (pod.busy === 0 || world.epoch !== pod.training) continue;
      if (membership.outdated(world.epoch) && !world.begun.has(pod))
        world.net.tell(new Error(`world ${world.epoch} is outdated`), world.members.indexOf(pod));
      else if (membership.outdated(world.epoch) || membership.stop) {
        world.stopAfter = Math.min(world.stopAfter, world.lastBegun);
        world.saves ||= membership.stop && membership.placeAfter(world.epoch) === undefined;
      }
    }
    this.#enter(pod);
  }

  #enter(pod: TrainingPod): void {
    const { place, stop } = pod.membership;
    if (isLost(pod) || pod.busy > 0) return;
    if (stop && (place === undefined || !leaves(place))) {
      this.#say(`${pod.name} ends`);
      // Without others it can neither hand on nor write down what it has.
      if (pod.rankState.commitState.applied > this.#checkpoint) this.#lost += 1;
      this.#operator.ended(pod);
      return;
    }
    const world = place && this.#worlds.get(place.epoch);
    if (place !== undefined && world !== undefined) void this.#member(world, place.rank, pod);
  }

  /** One pod's part in a world; whoever fails tells the others. */
  async #member(world: SimWorld, rank: number, pod: TrainingPod): Promise<void> {
    let whole = false;
    pod.busy += 1;
    pod.training = world.epoch;
    pod.membership.begins(world.epoch);
    let why = "Stopped";
    try {
      whole = await this.#part(world, rank, pod);
    } catch (caught) {
      if (caught instanceof TypeError || caught instanceof ReferenceError) this.faults.push(`${pod.name}: ${caught.stack}`);
      world.net.tell(caught as Error, rank);
      why = "RankLost";
    }
    pod.busy -= 1;
    world.ended.set(pod, whole);
    pod.membership.leaves(world.epoch, whole ? "Complete" : why, "");
    if (world.members.slice(0, world.ranks).every((each) => world.ended.get(each) === true && !each.dead)) this.done = true;
    if (whole && rank >= world.ranks) this.#operator.ended(pod);
    else this.#enter(pod);
  }

  // A rank.

  /** Returns whether all steps of the run are made, or all is handed on. */
  async #part(world: SimWorld, rank: number, pod: TrainingPod): Promise<boolean> {
    const { ranks } = world;
    const { rankState } = pod;
    const shape = simShape(ranks);
    const node = Array.from({ length: ranks }, (_, i) => (ranks > 3 ? i % 3 : i));
    const stores = await RankStores.open({ optimizer: simOptimizer }, shape, { rank, ranks }, node);
    const transport = world.net.transport(rank);
    const stamp = { world: world.epoch, step: 0, plan: "" };
    const restore = async (): Promise<number> => {
      const own = Int32Array.of(this.#checkpoint);
      const named = { what: "step", layer: -1, lengthFrom: () => 1 };
      const whole = stateAt((await gatherAll({ ...transport, ranks }, stamp, named, own))[0]![0]!);
      await fillStores(stores, simUnits, whole, { shape, layout: simLayout });
      return whole.step;
    };
    const begun = await beginWorld({ transport, stamp, shape, ranks, stores, rankState, restore });
    this.#judgeBegin(world, pod, begun);
    if (rank >= ranks) return true;
    let { primaries } = begun;
    const view = { ...transport, ranks };
    for (let step = begun.step + 1; step <= steps; step++) {
      if (step > world.stopAfter) {
        if (world.saves) this.#write(stores, step - 1);
        return false;
      }
      world.lastBegun = Math.max(world.lastBegun, step);
      // A rank alone that was given up while it was frozen hears of nothing, and goes on beside the others: the same steps.
      if (world.epoch >= this.#newest) this.#lastBegun = Math.max(this.#lastBegun, step);
      primaries = await this.#step({ world, pod, shape, stores, transport: view, step, primaries });
      await this.#judgeState(pod, step);
      if (step % checkpointEvery === 0) this.#write(stores, step);
    }
    return true;
  }

  async #step(turn: StepTurn): Promise<Primaries> {
    const { world, pod, shape, stores, transport, step } = turn;
    const stamp = { world: world.epoch, step, plan: "" };
    const primaries = step % moveEvery === 0 ? swapped(turn.primaries, step) : turn.primaries;
    await movePrimaries({ transport, stamp, shape, stores, from: turn.primaries, to: primaries });
    await this.clock.sleep(computeMs * (0.5 + this.#random.next()));
    const owners = primariesOfUnits(shape, primaries);
    const squares = simUnits.map((unit, i) => {
      if (owners[i] !== transport.rank) return 0;
      const dense = unit.expert === undefined;
      const { from } = stores.memory.denseRange;
      const g = dense
        ? stores.memory.ownDense("g").subarray(unit.from - from, unit.to - from)
        : stores.memory.own(unit.layer, unit.expert!, "g");
      fillGradient(g, i, step);
      return dense ? stores.memory.denseSquares(unit.from, unit.to) : stores.memory.expertSquares(unit.layer, unit.expert!);
    });
    for (const [layer, row] of primaries.entries()) stores.startGradients(transport, stamp, { layer, primaries: row });
    stores.startGradients(transport, stamp);
    await stores.gradientsArrived();
    const update = async (norms: Float64Array): Promise<void> => {
      for (const store of stores.all) await store.update(simOptimizer.values, simFacts(step, norms));
    };
    pod.rankState.prepared(step, update);
    const all = await gatherAll(
      transport,
      stamp,
      { what: "squares", layer: -1, lengthFrom: () => squares.length },
      Float64Array.from(squares),
    );
    const norms = Float64Array.from(owners, (owner, i) => all[owner]![i]!);
    pod.rankState.decided(step, norms);
    await pod.rankState.commit(step, () => update(norms));
    await gatherAll(transport, stamp, { what: "parameters", layer: -1, lengthFrom: () => 0 }, new Int32Array());
    return primaries;
  }

  /** A checkpoint is one once every unit is written by its owner. */
  #write({ memory }: RankStores, step: number): void {
    const written = this.#written.get(step) ?? new Set();
    this.#written.set(step, written);
    for (const [i, unit] of simUnits.entries()) if (memory.holds(unit)) written.add(i);
    if (written.size === simUnits.length) this.#checkpoint = Math.max(this.#checkpoint, step);
  }

  // Promises.

  #judgeBegin(world: SimWorld, pod: TrainingPod, { missing, step }: Begun): void {
    const { begun, before } = world;
    begun.add(pod);
    this.#newest = Math.max(this.#newest, world.epoch);
    world.lastBegun = Math.max(world.lastBegun, step);
    if (begun.size === 1) {
      const what = `world ${world.epoch} goes on from step ${step}, ${missing.length} units read, ${this.#lost} of ${this.#settledRanks} pods lost`;
      this.#say(what);
      // Shadows stand for one loss at a time, and one rank has none.
      const excused = this.#settledRanks === 0 || this.#lost >= Math.min(2, this.#settledRanks);
      const read = missing.length > 0 && this.#checkpoint < before;
      if (!excused && (read || step < before || step < this.#lastBegun - 1)) this.faults.push(`${what}: lost, after step ${before}`);
      this.repeated += Math.max(0, this.#lastBegun - step);
      this.#lastBegun = step;
    }
    // A pod that leaves and is through has dropped what it had: the world stands on its ranks alone then. One that thaws tells of old
    // worlds.
    const stands = begun.size === world.members.length || world.members.indexOf(pod) >= world.ranks;
    if (!stands || world.epoch < this.#settled) return;
    this.#settled = world.epoch;
    this.#lost = world.members.slice(0, world.ranks).filter(isLost).length;
    this.#settledRanks = world.ranks;
  }

  /** What a rank holds after a step has the bits that it has to have. */
  async #judgeState({ name, rankState }: TrainingPod, step: number): Promise<void> {
    if (rankState.commitState.applied !== step) this.faults.push(`${name} is at ${rankState.commitState.applied} after step ${step}`);
    const stores = new Set(simUnits.flatMap((unit) => (rankState.has([unit])[0] === 0 ? [] : [rankState.storeOf(unit)])));
    for (const store of stores) {
      const wrong = await wrongUnits(store, step);
      if (wrong.length > 0) return void this.faults.push(`${name} has other bits of units ${wrong} after step ${step}`);
    }
  }

  // Faults.

  /** `loses`: a pod, and changes nothing else. */
  #strike(loses = false): void {
    if (this.done) return;
    const { pods } = this.#operator;
    const kind = loses ? "lose" : (["scale", "scale", "delete", "lose", "lose"] as const)[this.#random.below(5)];
    const pod = pods[this.#random.below(pods.length)];
    if (kind === "scale") {
      this.#operator.replicas = 1 + this.#random.below(podsMost);
      this.#say(`${this.#operator.replicas} replicas`);
      return;
    }
    if (pod === undefined || isLost(pod) || this.clock.now() < pod.runsAt) return;
    if (kind === "delete") this.#delete(pod);
    else if (this.#random.next() < 0.3) this.#freeze(pod);
    else this.#kill(pod);
  }

  #kill(pod: TrainingPod): void {
    this.#say(`kill ${pod.name}`);
    pod.dead = true;
    this.#missed(pod, "is lost");
  }

  /** Told to end, with a time of grace. */
  #delete(pod: TrainingPod): void {
    if (pod.deleting || pod.dead) return;
    this.#say(`delete ${pod.name}`);
    pod.deleting = true;
    pod.membership.leave();
    this.#later(graceMs, () => {
      if (!pod.dead && pod.frozen === undefined) this.#kill(pod);
    });
  }

  #missed(pod: TrainingPod, how: string): void {
    this.#operator.lose(pod);
    this.#lost += 1;
    for (const { members, net } of this.#worldsOf(pod)) {
      if (this.#random.next() < 0.5) net.cut(members.indexOf(pod));
      net.tell(new Error(`${pod.name} ${how}`));
    }
  }

  /** Stands still, is given up by the others, and comes back with what it had. */
  #freeze(pod: TrainingPod): void {
    this.#say(`freeze ${pod.name}`);
    let thaw = (): void => {};
    pod.frozen = new Promise((resolve) => {
      thaw = resolve;
    });
    this.#missed(pod, "is silent");
    this.#later(2_000 + this.#random.next() * 10_000, () => {
      this.#say(`thaw ${pod.name}`);
      pod.frozen = undefined;
      this.#operator.found(pod);
      thaw();
      this.#enter(pod);
    });
  }
}

interface StepTurn {
  readonly world: SimWorld;
  readonly pod: TrainingPod;
  readonly shape: Shape;
  readonly stores: RankStores;
  readonly transport: ReturnType<TrainingNet["transport"]>;
  readonly step: number;
  readonly primaries: Primaries;
}

/** Two experts of each layer change places: each rank keeps its number. */
function swapped(primaries: Primaries, step: number): Primaries {
  return primaries.map((row) => {
    const next = [...row];
    const [a, b] = [step % row.length, (step * 2 + 1) % row.length];
    [next[a], next[b]] = [row[b]!, row[a]!];
    return next;
  });
}

export async function trainingRun(seed: number): Promise<FaultRun> {
  const sim = new TrainingSim(seed);
  await sim.run();
  const { faults, log, worlds } = sim;
  return { seed, faults, log, epochs: worlds, steps: { done: steps, failed: sim.repeated } };
}
