// The outer step: worlds that made their local steps send what they have become, and all go on from the mean, added in the order of
// worlds, so that they have the same bits. A unit goes from its owner in one world to its owner in each other: a round moves the model once
// to each, however many steps it had. Shell.
import { AppError } from "../../../crds/common.ts";
import { gatherAll } from "../../net/collectives/collectives.ts";
import type { Stamp } from "../../net/collectives/transport.ts";
import type { Arrays } from "../optimizers/optimizer.ts";
import type { StateUnit } from "../ranks/model-shape.ts";
import type { Group } from "../ranks/rank-context.ts";
import type { UnitState } from "../ranks/unit-state.ts";
import type { having } from "../recipes/index.ts";
import { meetingOf } from "./rounds.ts";

/** What the first rank of a world says to all ranks of the others: after each step, so that who waits knows of it, and at a meeting. */
const signs = { made: 0, waits: 1, stops: 2 } as const;

/** What a rank has of its world between two steps. */
export interface Share {
  readonly units: readonly StateUnit[];
  /** The owner of each unit. */
  readonly primaries: readonly number[];
  readonly rank: number;
  readonly state: UnitState;
  /** Brings parameters of the dense part to all ranks of the world, once their owners have changed them. */
  spread(step: number): Promise<void>;
}

/** The recipe by which worlds meet. */
type Meeting = ReturnType<typeof having<"meeting">>[number];

interface OuterOptions {
  readonly group: Group;
  readonly meeting: Meeting;
  /** The membership. */
  readonly epoch: number;
  /** Tells what all worlds have to have alike from other runs: a hash. */
  readonly alike: string;
}

export class Outer {
  readonly #options: OuterOptions;

  constructor(options: OuterOptions) {
    this.#options = options;
  }

  /** To be called when a run begins, with parameters that all worlds have. */
  async begin({ units, primaries, rank, state }: Share): Promise<void> {
    const { meeting } = this.#options;
    for (const [number, unit] of units.entries()) {
      if (primaries[number] !== rank) continue;
      const arrays = await arraysOf(state, unit, meeting);
      meeting.hook.begin(arrays);
      await keep(state, unit, arrays);
    }
  }

  /**
   * The newest round that all worlds have something of. `newestUpTo` says it of this world; ranks that do not know may say any. All
   * worlds come nearer with each turn, and the start is a round that all have.
   */
  async commonRound(newestUpTo: (round: number) => number): Promise<number> {
    const { transport, firsts } = this.#options.group;
    for (let upTo = Number.MAX_SAFE_INTEGER; ; ) {
      const named = { what: "rounds", layer: -1, lengthFrom: () => 1 };
      const all = await gatherAll(transport, this.#stamp(0), named, Float64Array.of(newestUpTo(upTo)));
      const rounds = firsts.map((first) => all[first]?.[0] as number);
      upTo = Math.min(...rounds);
      if (rounds.every((round) => round === upTo)) return upTo;
    }
  }

  /** A step is made, and it is none at whose end worlds meet. */
  made(step: number): Promise<void> {
    return this.#say(step, signs.made);
  }

  /** This world ends before it makes this step: the others do not wait for it, and end as well. */
  stops(step: number): Promise<void> {
    return this.#say(step, signs.stops);
  }

  /** A checkpoint of this step is there in all worlds when this is done. */
  async saved(step: number): Promise<void> {
    const named = { what: "saved", layer: -1, lengthFrom: () => 0 };
    await gatherAll(this.#options.group.transport, this.#stamp(step), named, new Int32Array());
  }

  /** False where a world stops before it comes to this: nothing is changed then, on any rank. */
  async meet(step: number, { units, primaries, rank, state, spread }: Share): Promise<boolean> {
    if (!(await this.#allCome(step))) return false;
    const { meeting } = this.#options;
    const { hook, numbers } = meeting;
    const stamp = this.#stamp(step);
    const owners = await this.#ownersOf(stamp, primaries);
    for (const [number, unit] of units.entries()) {
      if (primaries[number] !== rank) continue;
      const arrays = await arraysOf(state, unit, meeting);
      const all = await this.#exchanged(stamp, unit, number, { own: hook.send(arrays, numbers), owners });
      (arrays.p as Float32Array).set(meanOf(all));
      hook.begin(arrays);
      await keep(state, unit, arrays);
    }
    await spread(step);
    return true;
  }

  /** What each world has become in a unit, by world. */
  async #exchanged(stamp: Stamp, unit: StateUnit, number: number, { own, owners }: Exchanged): Promise<readonly Float32Array[]> {
    const { transport, world: here } = this.#options.group;
    const name = { what: "outer", layer: unit.layer, chunk: unit.chunk, piece: 0 };
    const peers = owners.map((of) => of[number] as number);
    const sent = peers.map(async (to, world) => {
      if (world !== here) await transport.send(to, stamp, name, own);
    });
    const received = peers.map(async (from, world) => {
      if (world === here) return own;
      return (await transport.receive(from, stamp, { ...name, length: own.length })) as Float32Array;
    });
    const [found] = await Promise.all([Promise.all(received), Promise.all(sent)]);
    return found;
  }

  async #allCome(step: number): Promise<boolean> {
    await this.#say(step, signs.waits);
    const { firsts, world: here } = this.#options.group;
    const reports = await Promise.all(firsts.map((first, world) => (world === here ? signs.waits : this.#lastSign(first, step))));
    return reports.every((sign) => sign === signs.waits);
  }

  /** What a world says at the end of its round, behind a sign of each step before. */
  async #lastSign(first: number, step: number): Promise<number> {
    const { group } = this.#options;
    for (let made = 0; made < this.#localSteps; made++) {
      const wanted = { what: "sign", layer: -1, chunk: 0, piece: 0, length: 1 };
      const [sign = signs.stops] = await group.transport.receive(first, this.#stamp(step), wanted);
      if (sign !== signs.made) return sign;
    }
    throw mismatch(first, `makes more than ${this.#localSteps} steps before it meets the others`);
  }

  async #say(step: number, sign: number): Promise<void> {
    const { transport, firsts, world } = this.#options.group;
    const [own, past] = [firsts[world] as number, firsts[world + 1] ?? transport.ranks];
    if (transport.rank !== own) return;
    const stamp = this.#stamp(meetingOf(step, this.#localSteps));
    const others = Array.from({ length: transport.ranks }, (_, rank) => rank).filter((rank) => rank < own || rank >= past);
    const name = { what: "sign", layer: -1, chunk: 0, piece: 0 };
    const tell = (to: number): Promise<void> => transport.send(to, stamp, name, Int32Array.of(sign));
    await Promise.all(others.map((to) => tell(to).catch(unlessGone)));
  }

  /** Of each world, the rank among all that owns each unit: the first rank of a world says it. */
  async #ownersOf(stamp: Stamp, primaries: readonly number[]): Promise<readonly (readonly number[])[]> {
    const { transport, firsts, world: here } = this.#options.group;
    const says = firsts.includes(transport.rank);
    const own = Int32Array.from(says ? primaries : []);
    const lengthFrom = (rank: number): number => (firsts.includes(rank) ? primaries.length : 0);
    const all = await gatherAll(transport, stamp, { what: "primaries", layer: -1, lengthFrom }, own);
    return firsts.map((first, world) => {
      const size = (firsts[world + 1] ?? transport.ranks) - first;
      const reported = world === here ? primaries : [...(all[first] as Int32Array)];
      if (reported.some((primary) => primary < 0 || primary >= size))
        throw mismatch(first, `has units at ranks that its world of ${size} has not`);
      return reported.map((primary) => first + primary);
    });
  }

  get #localSteps(): number {
    return this.#options.meeting.numbers.steps ?? 1;
  }

  #stamp(step: number): Stamp {
    return { world: this.#options.epoch, step, plan: this.#options.alike };
  }
}

/** A world that stopped has said so before it went, which the meeting hears. Of one that was lost, all that is waited for tells. */
function unlessGone(caught: unknown): void {
  if (AppError.from(caught).code !== "RankLost") throw caught;
}

interface Exchanged {
  readonly own: Float32Array;
  readonly owners: readonly (readonly number[])[];
}

/** Copies of the parameters of a unit, and of what the recipe keeps of them. */
async function arraysOf(state: UnitState, unit: StateUnit, { recipe }: Meeting): Promise<Arrays> {
  const arrays: Record<string, Float32Array> = {};
  for (const name of ["p", ...(recipe.correction?.state ?? [])]) arrays[name] = (await state.whole(unit, name)).slice();
  return arrays;
}

async function keep(state: UnitState, unit: StateUnit, arrays: Arrays): Promise<void> {
  for (const [name, values] of Object.entries(arrays)) await state.put(unit, name, values);
}

/** Added in order in f64, rounded once. */
function meanOf(all: readonly Float32Array[]): Float32Array {
  return Float32Array.from({ length: all[0]?.length ?? 0 }, (_, i) => all.reduce((sum, each) => sum + (each[i] as number), 0) / all.length);
}

const mismatch = (rank: number, what: string): AppError =>
  new AppError(`rank ${rank} ${what}; worlds have to be of one run`, { code: "PlanMismatch", operation: "meeting other worlds" });
