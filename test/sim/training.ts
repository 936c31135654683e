// Training over ranks in virtual time: real begins of worlds, handovers, shadows, moves of homes and rules of commit, over a network that
// is slow, on pods that are killed, freeze and come back, under a membership that grows and shrinks. Passes of a model are left out.
import { type Random, seeded } from "../../operator/planner/random.ts";
import { gatherAll } from "../../runtime/comm/collectives.ts";
import { beginWorld } from "../../runtime/train/ranks/begin.ts";
import { Holdings } from "../../runtime/train/ranks/holdings.ts";
import { moveHomes } from "../../runtime/train/ranks/homes.ts";
import { RankStores } from "../../runtime/train/ranks/shadow.ts";
import { homesOfUnits, type Shape } from "../../runtime/train/ranks/shape.ts";
import { fillStores } from "../builders/training-state.ts";
import { VirtualClock } from "./clock.ts";
import type { FaultRun } from "./faults.ts";
import { fillGradient, simFacts, simLayout, simOptimizer, simShape, simUnits, stateAt, steps, wrongUnits } from "./training-model.ts";
import { type SimPod, TrainingNet } from "./training-net.ts";

const podsMost = 5;
const checkpointEvery = 5;
const moveEvery = 3;
const computeMs = 60;
/** A run takes some ten seconds; one that takes an hour hangs. */
const runMsMost = 3_600_000;
const worldsMost = 100;
/** Until the next world, and when the operator is away. */
const [worldMs, awayMs] = [100, 5_000];
/** A begin takes about so long. */
const beginMsMost = 200;
const faultsMsMost = 4_000;
const faultsMost = 10;

type Homes = readonly (readonly number[])[];

interface SimWorld {
  readonly number: number;
  /** Ranks of the world, then pods that leave. */
  readonly members: readonly SimPod[];
  readonly ranks: number;
  readonly net: TrainingNet;
  /** Members that are through with the begin. */
  begun: number;
  /** Members whose part is over, and whether they made all steps of it. */
  readonly ended: Map<SimPod, boolean>;
  /** The last step that is to be made in it. */
  stopAfter: number;
}

/** One seed: a membership that forms world after world until all steps are made. */
class TrainingSim {
  readonly clock: VirtualClock;
  readonly faults: string[] = [];
  readonly log: string[] = [];
  readonly #random: Random;
  readonly #pods: SimPod[] = [];
  #world: SimWorld | undefined;
  #worlds = 0;
  #replicas: number;
  #names = 0;
  /** Pods lost since all members of a world were through with its begin, and how many ranks that one had; 0: none was. */
  #lost = 0;
  #settledRanks = 0;
  /** The last step that a rank began. */
  #lastBegun = 0;
  #checkpoint = 0;
  readonly #written = new Map<number, Set<number>>();
  /** Steps that were begun again. */
  repeated = 0;
  done = false;

  constructor(seed: number) {
    this.clock = new VirtualClock(0, seeded(seed).next);
    this.#random = seeded(seed);
    this.#replicas = 1 + this.#random.below(podsMost - 1);
  }

  get worlds(): number {
    return this.#worlds;
  }

  async run(): Promise<void> {
    this.#later(0, () => this.#form());
    for (let count = this.#random.below(faultsMost); count > 0; count--)
      this.#later(this.#random.next() * faultsMsMost, () => this.#strike());
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

  #form(): void {
    if (++this.#worlds > worldsMost) return void this.faults.push("worlds end again and again");
    this.#pods.splice(0, this.#pods.length, ...this.#pods.filter(({ dead }) => !dead));
    const there = this.#pods.filter(({ frozen, busy }) => frozen === undefined && busy === 0);
    for (const pod of this.#pods) if (!there.includes(pod)) pod.returned = true;
    while (there.length < this.#replicas) {
      const pod: SimPod = { name: `p${this.#names++}`, holdings: new Holdings(), dead: false, frozen: undefined, busy: 0, returned: false };
      this.#pods.push(pod);
      there.push(pod);
    }
    if (this.#random.next() < 0.5) there.reverse(); // any of them may be the ones that stay
    const leaving = there.slice(this.#replicas).filter(({ holdings }) => holdings.standing.applied >= 0);
    const members = [...there.slice(0, this.#replicas), ...leaving];
    const net = new TrainingNet(members, this.clock, this.#random);
    const world: SimWorld = { number: this.#worlds, members, ranks: this.#replicas, net, begun: 0, ended: new Map(), stopAfter: steps };
    this.#world = world;
    this.#say(`world ${world.number} of ${members.map(({ name }) => name).join(",")}, ${leaving.length} leave`);
    const before = Math.max(...members.map(({ holdings, returned }) => (returned ? -1 : holdings.standing.applied)));
    for (const pod of members) pod.returned = false;
    for (const [rank, pod] of members.entries()) void this.#member(world, rank, pod, before);
    if (this.#random.next() < 0.4) this.#later(this.#random.next() * beginMsMost, () => this.#strike());
  }

  /** One pod's part in a world; whoever fails tells the others. */
  async #member(world: SimWorld, rank: number, pod: SimPod, before: number): Promise<void> {
    let whole = false;
    pod.busy += 1;
    try {
      whole = await this.#part(world, rank, pod, before);
    } catch (caught) {
      if (caught instanceof TypeError || caught instanceof ReferenceError) this.faults.push(`${pod.name}: ${caught.stack}`);
      world.net.tell(caught as Error, rank);
    }
    pod.busy -= 1;
    world.ended.set(pod, whole);
    this.#over(world);
  }

  /** The next world comes when nobody is left in this one. */
  #over(world: SimWorld): void {
    const { members, ranks, ended } = world;
    if (world !== this.#world || !members.every((pod) => pod.dead || pod.frozen !== undefined || ended.has(pod))) return;
    this.#world = undefined;
    if (members.slice(0, ranks).every((pod) => ended.get(pod) === true && !pod.dead)) {
      this.done = true;
      return;
    }
    this.#later(this.#random.next() < 0.1 ? awayMs : worldMs, () => this.#form()); // now and then the operator is away
  }

  // A rank.

  /** Returns whether all steps of the run are made. */
  async #part(world: SimWorld, rank: number, pod: SimPod, before: number): Promise<boolean> {
    const { ranks } = world;
    const { holdings } = pod;
    const shape = simShape(ranks);
    const node = Array.from({ length: ranks }, (_, i) => (ranks > 3 ? i % 3 : i));
    const stores = await RankStores.open({ optimizer: simOptimizer }, shape, { rank, ranks }, node);
    const transport = world.net.transport(rank);
    const stamp = { world: world.number, step: 0, plan: "" };
    const restore = async (): Promise<number> => {
      const own = Int32Array.of(this.#checkpoint);
      const named = { what: "step", layer: -1, lengthFrom: () => 1 };
      const whole = stateAt((await gatherAll({ ...transport, ranks }, stamp, named, own))[0]![0]!);
      await fillStores(stores, simUnits, whole, { shape, layout: simLayout });
      return whole.step;
    };
    const begun = await beginWorld({ transport, stamp, shape, ranks, stores, holdings, restore });
    this.#judgeBegin(world, begun.missing.length, begun.step, before);
    if (rank >= ranks) {
      pod.holdings = new Holdings();
      return true;
    }
    let { homes } = begun;
    const view = { ...transport, ranks };
    for (let step = begun.step + 1; step <= steps; step++) {
      if (step > world.stopAfter) return false;
      // A rank alone that was given up while it was frozen hears of nothing, and goes on beside the others: the same steps.
      if (world === this.#world) this.#lastBegun = Math.max(this.#lastBegun, step);
      homes = await this.#step({ world, pod, shape, stores, transport: view, step, homes });
      await this.#judgeState(pod, step);
      this.#write(stores, step);
    }
    return true;
  }

  async #step(turn: StepTurn): Promise<Homes> {
    const { world, pod, shape, stores, transport, step } = turn;
    const stamp = { world: world.number, step, plan: "" };
    const homes = step % moveEvery === 0 ? swapped(turn.homes, step) : turn.homes;
    await moveHomes({ transport, stamp, shape, stores, from: turn.homes, to: homes });
    await this.clock.sleep(computeMs * (0.5 + this.#random.next()));
    const owners = homesOfUnits(shape, homes);
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
    for (const [layer, row] of homes.entries()) stores.startGradients(transport, stamp, { layer, homes: row });
    stores.startGradients(transport, stamp);
    await stores.gradientsArrived();
    pod.holdings.prepared(step, async (tally) => {
      for (const store of stores.all) await store.update(simOptimizer.values, simFacts(step, tally));
    });
    const all = await gatherAll(
      transport,
      stamp,
      { what: "squares", layer: -1, lengthFrom: () => squares.length },
      Float64Array.from(squares),
    );
    const tally = Float64Array.from(owners, (owner, i) => all[owner]![i]!);
    pod.holdings.tallied(step, tally);
    await pod.holdings.update(step);
    await gatherAll(transport, stamp, { what: "parameters", layer: -1, lengthFrom: () => 0 }, new Int32Array());
    return homes;
  }

  /** A checkpoint is one once every unit is written by its owner. */
  #write({ memory }: RankStores, step: number): void {
    if (step % checkpointEvery !== 0) return;
    const written = this.#written.get(step) ?? new Set();
    this.#written.set(step, written);
    for (const [i, unit] of simUnits.entries()) if (memory.holds(unit)) written.add(i);
    if (written.size === simUnits.length) this.#checkpoint = Math.max(this.#checkpoint, step);
  }

  // Promises.

  #judgeBegin(world: SimWorld, missing: number, step: number, before: number): void {
    world.begun += 1;
    if (world.begun === 1) {
      const what = `world ${world.number} goes on from step ${step}, ${missing} units read, ${this.#lost} of ${this.#settledRanks} pods lost`;
      this.#say(what);
      // Shadows stand for one loss at a time, and one rank has none.
      const excused = this.#settledRanks === 0 || this.#lost >= Math.min(2, this.#settledRanks);
      if (!excused && (missing > 0 || step < before || step < this.#lastBegun - 1)) this.faults.push(`${what}: lost, after step ${before}`);
      this.repeated += Math.max(0, this.#lastBegun - step);
      this.#lastBegun = step;
    }
    if (world.begun < world.members.length) return;
    this.#lost = world.members.filter(({ dead, frozen }) => dead || frozen !== undefined).length;
    this.#settledRanks = world.ranks;
  }

  async #judgeState({ name, holdings }: SimPod, step: number): Promise<void> {
    if (holdings.standing.applied !== step) this.faults.push(`${name} is at ${holdings.standing.applied} after step ${step}`);
    const stores = new Set(simUnits.flatMap((unit) => (holdings.has([unit])[0] === 0 ? [] : [holdings.storeOf(unit)])));
    for (const store of stores) {
      const wrong = await wrongUnits(store, step);
      if (wrong.length > 0) return void this.faults.push(`${name} has other bits of units ${wrong} after step ${step}`);
    }
  }

  // Faults.

  #strike(): void {
    if (this.done) return;
    const kind = this.#random.below(4);
    const pod = this.#pods[this.#random.below(this.#pods.length)];
    if (kind === 0) {
      this.#replicas = 1 + this.#random.below(podsMost);
      this.#say(`${this.#replicas} replicas`);
      const world = this.#world;
      if (world === undefined) return;
      if (this.#random.next() < 0.5) world.stopAfter = this.#lastBegun + 1;
      else world.net.tell(new Error("the membership changes"));
      return;
    }
    if (pod === undefined || pod.dead || pod.frozen !== undefined) return;
    this.#lost += 1;
    if (kind === 1) this.#freeze(pod);
    else {
      this.#say(`kill ${pod.name}`);
      pod.dead = true;
      this.#missed(pod, "is lost");
    }
  }

  #missed(pod: SimPod, how: string): void {
    const world = this.#world;
    const rank = world?.members.indexOf(pod) ?? -1;
    if (world === undefined || rank < 0) return;
    if (this.#random.next() < 0.5) world.net.cut(rank);
    world.net.tell(new Error(`${pod.name} ${how}`));
    this.#over(world);
  }

  /** Stands still, is given up by the others, and comes back with what it had. */
  #freeze(pod: SimPod): void {
    this.#say(`freeze ${pod.name}`);
    let thaw = (): void => {};
    pod.frozen = new Promise((resolve) => {
      thaw = resolve;
    });
    this.#missed(pod, "is silent");
    this.#later(2_000 + this.#random.next() * 10_000, () => {
      this.#say(`thaw ${pod.name}`);
      pod.frozen = undefined;
      thaw();
    });
  }
}

interface StepTurn {
  readonly world: SimWorld;
  readonly pod: SimPod;
  readonly shape: Shape;
  readonly stores: RankStores;
  readonly transport: ReturnType<TrainingNet["transport"]>;
  readonly step: number;
  readonly homes: Homes;
}

/** Two experts of each layer change places: each rank keeps its number. */
function swapped(homes: Homes, step: number): Homes {
  return homes.map((row) => {
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
