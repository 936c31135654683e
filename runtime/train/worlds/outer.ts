// The outer step: after their local steps, worlds exchange parameters and continue from the mean, added in the order of worlds so that
// bits agree. A unit goes from its owner in one world to its owner in every other.
import { AppError } from "../../../crds/common.ts";
import { gatherAll } from "../../net/collectives/collectives.ts";
import type { Stamp } from "../../net/collectives/transport.ts";
import type { Arrays } from "../optimizers/optimizer.ts";
import type { StateUnit } from "../ranks/model-shape.ts";
import type { Group } from "../ranks/rank-context.ts";
import type { UnitState } from "../ranks/unit-state.ts";
import type { having } from "../recipes/index.ts";
import { meetingOf } from "./rounds.ts";

/** What a world's first rank sends to the others after each step and at a meeting. */
const signs = { made: 0, waits: 1, stops: 2 } as const;

export interface Share {
  readonly units: readonly StateUnit[];
  readonly primaries: readonly number[];
  readonly rank: number;
  readonly state: UnitState;
  /** Sends changed dense parameters from their owners to all ranks of the world. */
  spread(step: number): Promise<void>;
}

type Meeting = ReturnType<typeof having<"meeting">>[number];

interface OuterOptions {
  readonly group: Group;
  readonly meeting: Meeting;
  readonly epoch: number;
  /** A hash of what all worlds must have in common. */
  readonly alike: string;
}

export class Outer {
  readonly #options: OuterOptions;

  constructor(options: OuterOptions) {
    this.#options = options;
  }

  async begin({ units, primaries, rank, state }: Share): Promise<void> {
    const { meeting } = this.#options;
    for (const [number, unit] of units.entries()) {
      if (primaries[number] !== rank) continue;
      const arrays = await arraysOf(state, unit, meeting);
      meeting.hook.begin(arrays);
      await keep(state, unit, arrays);
    }
  }

  /** The newest round that all worlds have. `newestUpTo` answers for this world; ranks that do not know may return any. */
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

  made(step: number): Promise<void> {
    return this.#say(step, signs.made);
  }

  stops(step: number): Promise<void> {
    return this.#say(step, signs.stops);
  }

  /** Resolves when all worlds have a checkpoint of this step. */
  async saved(step: number): Promise<void> {
    const named = { what: "saved", layer: -1, lengthFrom: () => 0 };
    await gatherAll(this.#options.group.transport, this.#stamp(step), named, new Int32Array());
  }

  /** False when a world stops before the meeting; then no rank has changed anything. */
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

/** A world that stopped reported it, so the meeting notices. The failure of a lost world shows in every receive. */
function unlessGone(caught: unknown): void {
  if (AppError.from(caught).code !== "RankLost") throw caught;
}

interface Exchanged {
  readonly own: Float32Array;
  readonly owners: readonly (readonly number[])[];
}

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
