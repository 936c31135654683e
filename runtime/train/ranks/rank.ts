// One rank's part in a step of training: its lanes forward and backward, wave by wave, the experts that it hosts, sums home, and the
// update of what it owns. All ranks run the same code and meet in the exchanges; how many they are, one among them, changes no bits.
import { AppError } from "../../../crds/common.ts";
import { gatherAll } from "../../comm/collectives.ts";
import type { Stamp } from "../../comm/transport.ts";
import type { TrainingBackend, WeightViews } from "../../compute/training.ts";
import { type Interval, laneIntervals, lanesIn, lanesOfWaves } from "../../placement/training/lanes.ts";
import { type AdamWSettings, stepNumbers } from "../adamw.ts";
import { frozenViews } from "../layout.ts";
import type { BalanceSetting } from "../recipes/balance.ts";
import { rateOf, type Schedule } from "../schedule.ts";
import type { Seat } from "../seat.ts";
import { Copies } from "./copies.ts";
import { sumDense } from "./dense-exchange.ts";
import type { RankedModel } from "./fits.ts";
import { moveHomes } from "./homes.ts";
import { RankMemory } from "./memory.ts";
import { type Lane, type LaneLoss, Passes } from "./passes.ts";
import { Planning, planHash } from "./plan.ts";
import { firstHomes, ownedDense, type Shape, shapeOf } from "./shape.ts";
import { RankState } from "./state.ts";
import { columnSums, PassStopped, Wave } from "./wave.ts";

export interface RankOptions extends Omit<RankedModel, "facts"> {
  readonly seat: Seat;
  readonly schedule: Schedule;
  readonly adamw: AdamWSettings;
  readonly clip: number;
  readonly balance: readonly BalanceSetting[];
  /** Weights that are not trained, by tensor; left out where all are. */
  readonly frozen?: WeightViews;
  /** What else all ranks have to agree on. */
  readonly agreed?: unknown;
}

/** The batch of a step. */
export interface Batch {
  lane(lane: number): Promise<Lane>;
  /** The documents that a lane is of, for people. */
  documents(lane: number): Promise<string>;
}

export interface StepEnd {
  /** Mean of the losses of all tokens. */
  readonly loss: number;
  /** Of all recipes and layers, beside the other; 0 where no recipe has a loss. */
  readonly balanceLoss: number;
  readonly gradientNorm: number;
  readonly rate: number;
  /** Of each layer: rows that its experts had, where they live, and who had them in the step's first wave. */
  readonly rows: readonly ArrayLike<number>[];
  readonly homes: readonly (readonly number[])[];
  readonly hosts: readonly (readonly (readonly number[])[])[];
}

/** A pass over data without gradients. */
export interface Look {
  /** Of which the model is: the last one that was made. */
  readonly step: number;
  /** Groups of sequences, dealt to ranks as lanes are. */
  readonly groups: number;
  group(group: number): Promise<Lane>;
  stopped(): boolean;
}

const never = (): boolean => false;

/** What waves of one step share. */
interface Turn {
  readonly stamp: Stamp;
  readonly hosts: number[][][];
  readonly lanes: number;
  readonly wave: number;
  stopped(): boolean;
}

export class Rank {
  readonly state: RankState;
  readonly #options: RankOptions;
  readonly #shape: Shape;
  readonly #memory: RankMemory;
  readonly #planning: Planning;
  readonly #passes: Passes;
  /** Tells this run's settings and facts from others: they decide frames, as plans do. */
  readonly #run: string;

  private constructor(options: RankOptions, shape: Shape, memory: RankMemory, passes: Passes) {
    const { seat, layout, frozen: _ofModel, ...settings } = options;
    const { transport, facts } = seat;
    this.#options = options;
    this.#shape = shape;
    this.#memory = memory;
    this.#passes = passes;
    this.#run = planHash({ settings, facts, layout });
    this.#planning = new Planning(options.fssdp, facts, firstHomes(shape, transport.ranks));
    const homes = (): readonly (readonly number[])[] => this.#planning.homes;
    this.state = new RankState({ layout, shape, memory, transport, homes, stamp: (step) => this.#stamp(step, "between steps") });
  }

  static async open(backend: TrainingBackend, options: RankOptions): Promise<Rank> {
    const { program, layout, seat, sequenceLength, balance, frozen: tensors = {} } = options;
    const { transport } = seat;
    const shape = shapeOf(layout, transport.ranks);
    const memory = new RankMemory(shape, transport.rank, transport.ranks);
    const frozen = {
      parts: layout.parts.map((part) => frozenViews(tensors, part.frozen)),
      experts: layout.parts.slice(1, -1).map((part) => frozenViews(tensors, part.expertFrozen)),
    };
    const passes = await Passes.open(backend, { program, shape, memory, frozen, sequenceLength, balance });
    return new Rank(options, shape, memory, passes);
  }

  /** Lanes of this rank in a step, ascending. */
  get lanes(): readonly number[] {
    return this.#lanesOf()[this.#options.seat.transport.rank] ?? [];
  }

  takeCopyBytesMost(): number {
    return this.#memory.takeCopyBytesMost();
  }

  takeKeptFloatsMost(): number {
    return this.#passes.takeKeptFloatsMost();
  }

  /** `step` counts from 1. Undefined where the run is to stop, on all ranks alike: parameters are then those of the step before. */
  async step(step: number, batch: Batch, stopped = never): Promise<StepEnd | undefined> {
    const { transport } = this.#options.seat;
    const from = this.#planning.homes;
    const homes = this.#planning.nextHomes(step);
    const before = this.#stamp(step, { from, homes });
    // Ranks that do not agree would wait for one another's frames; here all of them send one of the same name, and whether to stop.
    const wishes = Int32Array.of(Number(transport.ranks > 1 && stopped()));
    const asked = await gatherAll(transport, before, { what: "plan", layer: -1, lengthFrom: () => 1 }, wishes);
    if (asked.some(([stop]) => stop !== 0)) return undefined;
    await moveHomes({ transport, stamp: before, memory: this.#memory, from, to: homes });
    this.#planning.homes = homes;
    const hosts = homes.map((_, layer) => this.#planning.hostsBefore(layer));
    const stamp = this.#stamp(step, { homes, hosts });
    const { lanes, fssdp } = this.#options;
    this.#memory.clearGradients();
    const turn = { stamp, hosts, lanes, wave: fssdp.lanesAtOnce, stopped };
    const done = await this.#gradients(turn, batch);
    if (done === undefined) {
      this.#passes.drop();
      return undefined;
    }
    const rows = done.rows.map(columnSums);
    this.#planning.add(rows);
    const losses = await this.#allLosses(stamp, done.losses);
    const broken = losses.findIndex(({ loss }) => !Number.isFinite(loss));
    if (broken >= 0) await refuseLoss(step, broken, batch);
    const all = { transport, stamp, memory: this.#memory, shape: this.#shape };
    await sumDense({ ...all, ranges: this.#passes.ranges, lanes: this.#lanesOf() });
    const gradientNorm = await this.#norm(stamp);
    if (!Number.isFinite(gradientNorm))
      throw notFinite(`step ${step}: the norm of the gradients is not finite; lower --learning-rate and go on from a checkpoint`);
    const rate = await this.#update(stamp, { step, gradientNorm, rows });
    const { sequences, sequenceLength } = this.#options;
    const sumOf = (what: keyof LaneLoss): number => losses.reduce((sum, own) => sum + own[what], 0);
    return {
      loss: sumOf("loss") / (sequences * sequenceLength),
      balanceLoss: sumOf("balance"),
      gradientNorm,
      rate,
      rows,
      homes,
      hosts: done.hosts,
    };
  }

  /** The sum of the losses of each group of sequences, on all ranks; undefined where the run is to stop. */
  async losses({ step, groups, group, stopped }: Look): Promise<readonly number[] | undefined> {
    const { transport } = this.#options.seat;
    const hosts = this.#planning.homes.map((_, layer) => this.#planning.hostsBefore(layer));
    const stamp = this.#stamp(step, { look: groups, homes: this.#planning.homes, hosts });
    // Alone, a rank looks at one group after another, whatever a step has at once.
    const wave = transport.ranks === 1 ? 1 : this.#options.fssdp.lanesAtOnce;
    const turn = { stamp, hosts, lanes: groups, wave, stopped };
    const own: number[] = [];
    const look = async (lanes: Wave, numbers: readonly number[]): Promise<void> => {
      own.push(...(await this.#passes.losses(lanes, await readAll(numbers, group))));
    };
    if (!(await this.#eachWave(turn, look))) return undefined;
    const dealt = this.#lanesOf(wave, groups);
    const named = { what: "losses", layer: -1, lengthFrom: (rank: number): number => dealt[rank]?.length ?? 0 };
    const all = await gatherAll(transport, stamp, named, Float64Array.from(own));
    const found = new Array<number>(groups).fill(0);
    for (const [rank, part] of all.entries()) for (const [i, loss] of part.entries()) found[dealt[rank]?.[i] as number] = loss;
    return found;
  }

  /** Undefined where it was stopped. */
  async #gradients(turn: Turn, batch: Batch) {
    const { sequences, sequenceLength } = this.#options;
    const losses: LaneLoss[] = [];
    /** By layer, of each wave. */
    const rows: ArrayLike<number>[][] = this.#planning.homes.map(() => []);
    let hosts: StepEnd["hosts"] | undefined;
    const pass = async (wave: Wave, numbers: readonly number[]): Promise<void> => {
      const lanes = await readAll(numbers, (lane) => batch.lane(lane));
      const found = await this.#passes.addGradients(wave, lanes, 1 / (sequences * sequenceLength));
      losses.push(...found.lanes);
      for (const [layer, of] of found.rows.entries()) rows[layer]?.push(of);
      hosts ??= wave.hosts;
    };
    return (await this.#eachWave(turn, pass)) ? { losses, rows, hosts: hosts ?? [] } : undefined;
  }

  /** Waves of a step, or of a look, one after another, with the numbers of this rank's lanes. False where the run is to stop: nothing is
   *  under way then, and no copy held. */
  async #eachWave(
    { stamp, hosts, lanes, wave, stopped }: Turn,
    run: (wave: Wave, lanes: readonly number[]) => Promise<void>,
  ): Promise<boolean> {
    const { seat, fssdp } = this.#options;
    const { transport, facts } = seat;
    const stays = fssdp.rematerialize === "Never" && !this.#planning.late;
    const intervals = this.#intervals(wave);
    const lateStamp = (layer: number, late: readonly (readonly number[])[]): Stamp => this.#stamp(stamp.step, { layer, hosts: late });
    let copies = this.#copies();
    const shared = { transport, stamp, facts, fssdp, planning: this.#planning, memory: this.#memory, intervals, hosts, stopped, lateStamp };
    for (let first = 0; first < lanes; first += wave) {
      const leaves = stays && first + wave < lanes;
      const made = new Wave({ ...shared, copies, first, carried: first > 0, leaves });
      const dealt = this.#lanesOf(wave, Math.min(lanes, first + wave))[transport.rank] ?? [];
      try {
        await run(
          made,
          dealt.filter((lane) => lane >= first),
        );
      } catch (caught) {
        if (!(caught instanceof PassStopped)) throw caught;
        await copies.settled();
        this.#dropCopies();
        return false;
      }
      if (!leaves) this.#dropCopies();
      if (!stays) copies = this.#copies();
    }
    return true;
  }

  #copies(): Copies {
    const { seat, fssdp } = this.#options;
    const { transport, facts } = seat;
    const { spread } = fssdp;
    return new Copies({ transport, memory: this.#memory, shape: this.#shape, node: facts.node, homes: this.#planning.homes, spread });
  }

  #dropCopies(): void {
    for (const layer of this.#planning.homes.keys()) this.#memory.dropCopies(layer);
  }

  #stamp(step: number, plan: unknown): Stamp {
    return { world: this.#options.seat.world, step, plan: planHash({ run: this.#run, plan }) };
  }

  #intervals(wave: number): readonly Interval[] {
    return laneIntervals(wave, this.#options.seat.facts.speed);
  }

  /** Lanes of each rank, ascending. */
  #lanesOf(wave = this.#options.fssdp.lanesAtOnce, lanes = this.#options.lanes): readonly (readonly number[])[] {
    return this.#intervals(wave).map((interval) => lanesOfWaves(interval, wave, lanes));
  }

  /** Losses of all lanes of the step, in their order, on all ranks. */
  async #allLosses(stamp: Stamp, own: readonly LaneLoss[]): Promise<readonly LaneLoss[]> {
    const dealt = this.#lanesOf();
    const named = { what: "losses", layer: -1, lengthFrom: (rank: number): number => 2 * (dealt[rank]?.length ?? 0) };
    const part = Float64Array.from(own.flatMap(({ loss, balance }) => [loss, balance]));
    const found: LaneLoss[] = [];
    for (const [rank, all] of (await gatherAll(this.#options.seat.transport, stamp, named, part)).entries())
      for (const [i, lane] of (dealt[rank] ?? []).entries())
        found[lane] = { loss: all[2 * i] as number, balance: all[2 * i + 1] as number };
    return found;
  }

  /** The norm of all gradients: squares of dense pieces, then of experts, in their order. It is what a step is committed by. */
  async #norm(stamp: Stamp): Promise<number> {
    const { transport } = this.#options.seat;
    const own: number[] = [];
    const owners: number[] = [];
    for (const { from, to, owner } of this.#shape.pieces) {
      own.push(owner === transport.rank ? this.#memory.denseSquares(from, to) : 0);
      owners.push(owner);
    }
    for (const [layer, homes] of this.#planning.homes.entries())
      for (const [expert, owner] of homes.entries()) {
        own.push(owner === transport.rank ? this.#memory.expertSquares(layer, expert) : 0);
        owners.push(owner);
      }
    const name = { what: "squares", layer: -1, lengthFrom: () => own.length };
    const all = await gatherAll(transport, stamp, name, Float64Array.from(own));
    return Math.sqrt(owners.reduce((sum, owner, i) => sum + (all[owner]?.[i] as number), 0));
  }

  /** Updates what this rank owns, and brings the dense part of all to each; returns the rate. */
  async #update(
    stamp: Stamp,
    { step, gradientNorm, rows }: Pick<StepEnd, "gradientNorm" | "rows"> & { readonly step: number },
  ): Promise<number> {
    const { seat, clip, adamw, schedule } = this.#options;
    const { transport } = seat;
    const rate = rateOf(schedule, step);
    this.#memory.update(stepNumbers(adamw, step, rate, Math.min(1, clip / (gradientNorm + 1e-6))));
    const lengthFrom = (rank: number): number => lanesIn(ownedDense(this.#shape, rank));
    if (transport.ranks > 1) {
      const parts = await gatherAll(transport, stamp, { what: "parameters", layer: -1, lengthFrom }, this.#memory.ownDense("p"));
      for (const [rank, part] of parts.entries()) this.#memory.dense.set(part, ownedDense(this.#shape, rank).from);
    }
    this.#passes.balancing.moveBiases(rows);
    this.#memory.keepDense();
    return rate;
  }
}

async function readAll(numbers: readonly number[], read: (number: number) => Promise<Lane>): Promise<Lane[]> {
  const lanes: Lane[] = [];
  for (const number of numbers) lanes.push(await read(number));
  return lanes;
}

const notFinite = (message: string): AppError => new AppError(message, { code: "NonFiniteLoss", operation: "training" });

async function refuseLoss(step: number, lane: number, batch: Batch): Promise<never> {
  throw notFinite(
    `step ${step}: the loss of lane ${lane} is not finite (documents ${await batch.documents(lane)}); ` +
      "lower --learning-rate or --clip, or import the text without these documents, and go on from a checkpoint",
  );
}
