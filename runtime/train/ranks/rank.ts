// One rank's part in a training step: forward and backward of its micro-batches, its experts, sums at their primaries, and the update
// of what it owns. The number of ranks changes no bits.
import type { TrainingBackend } from "../../compute/training.ts";
import { gatherAll } from "../../net/collectives/collectives.ts";
import { partOf } from "../../net/collectives/part.ts";
import type { Stamp } from "../../net/collectives/transport.ts";
import { type Interval, intervalLength, microBatchesIn, microBatchIntervals } from "../../placement/training/micro-batches.ts";
import { frozenViews } from "../model/layout.ts";
import { rateOf } from "../optimizers/schedule.ts";
import { sumDense } from "../passes/dense-sums.ts";
import { type MicroBatchLoss, Passes, readAll } from "../passes/passes.ts";
import { perturbationRadius } from "../recipes/index.ts";
import { recordedBackend } from "../trace/recorder.ts";
import type { Share } from "../worlds/outer.ts";
import { AccumulationStep, PassStopped } from "./accumulation-step.ts";
import { type Begun, beginOf, beginWorld, keptBudgetOf, runHash, storesOf } from "./begin-world.ts";
import { movePrimaries } from "./carry.ts";
import { checkLosses, checkNorm, factsOf, normIn, squaredNorms } from "./commit.ts";
import { ExpertReplicas, ReplicaTransfers } from "./expert-replicas.ts";
import { Meter, RankRates } from "./measured-rates.ts";
import { firstPrimaries, ownedDense, primariesOfUnits, type Shape, shapeOf, stateUnits } from "./model-shape.ts";
import type { RankMemory } from "./rank-memory.ts";
import type { RankOptions } from "./rank-options.ts";
import { RankState } from "./rank-state.ts";
import type { RankStores } from "./rank-stores.ts";
import { columnSums, RowDealing } from "./row-dealing.ts";
import type { Batch, Look, StepEnd, StepGradients, StepPlan } from "./step-contract.ts";
import { Planning, planHash } from "./step-plan.ts";
import { StoredState } from "./stored-state.ts";

const never = (): boolean => false;

interface Metered {
  readonly passes: Passes;
  readonly meter: Meter;
}

interface Accumulated {
  readonly first: number;
  readonly transfers: ReplicaTransfers;
  readonly stays: boolean;
}

export class Rank {
  readonly state: StoredState;
  readonly #options: RankOptions;
  readonly #shape: Shape;
  readonly #stores: RankStores;
  readonly #memory: RankMemory;
  readonly #rankState: RankState;
  readonly #given: RankOptions;
  readonly #planning: Planning;
  readonly #passes: Passes;
  readonly #meter: Meter;
  readonly #rates: RankRates;
  /** A hash of the run's settings, since they decide frames. */
  readonly #run: string;

  private constructor(given: RankOptions, options: RankOptions, stores: RankStores, { passes, meter }: Metered) {
    const { layout } = options;
    const { transport, facts, rankState } = options.context;
    this.#given = given;
    this.#options = options;
    this.#shape = shapeOf(layout, transport.ranks);
    this.#stores = stores;
    this.#memory = stores.memory;
    this.#rankState = rankState ?? new RankState();
    this.#passes = passes;
    this.#meter = meter;
    const [floats, layers] = [this.#shape.expertFloats, this.#shape.experts.length];
    this.#rates = new RankRates({ transport, meter, floats, layers, everySteps: options.fssdp.reshardSteps });
    this.#run = runHash(options);
    this.#planning = new Planning(options.fssdp, facts, firstPrimaries(this.#shape, transport.ranks));
    const primaries = (): readonly (readonly number[])[] => this.#planning.primaries;
    const stamp = (step: number): Stamp => this.#stamp(step, "between steps");
    const loaded = (step: number): void => this.#rankState.loaded(step, stores.all);
    this.state = new StoredState({ layout, shape: this.#shape, stores, transport, primaries, stamp, loaded });
  }

  static async open(backend: TrainingBackend, given: RankOptions): Promise<Rank> {
    const { program, layout, sequenceLength, recipes = [], fssdp, frozen: tensors = {} } = given;
    const ranks = given.context.facts.node.length;
    const options = { ...given, context: { ...given.context, transport: partOf(given.context.transport, 0, ranks) } };
    const shape = shapeOf(layout, ranks);
    const stores = await storesOf(options, shape);
    const frozen = {
      parts: layout.parts.map((part) => frozenViews(tensors, part.frozen)),
      experts: layout.parts.slice(1, -1).map((part) => frozenViews(tensors, part.expertFrozen)),
    };
    const meter = new Meter(() => performance.now());
    const computes = fssdp.measured === true ? recordedBackend(backend, meter) : backend;
    const budget = keptBudgetOf(options);
    const passes = await Passes.open(computes, { program, shape, memory: stores.memory, frozen, sequenceLength, recipes, budget });
    return new Rank(given, options, stores, { passes, meter });
  }

  /**
   * All ranks of the world call it at once. Afterwards all have one step, and each has its part of the state. `restore` fills the state
   * where no rank has it, and returns its step.
   */
  async begin(restore: () => Promise<number>): Promise<Begun> {
    const begun = await beginWorld(beginOf(this.#given, { shape: this.#shape, stores: this.#stores, rankState: this.#rankState }, restore));
    this.#planning.primaries = begun.primaries;
    await this.#allDense(this.#stamp(begun.step, "dense part"));
    return begun;
  }

  get share(): Share {
    return {
      units: stateUnits(this.#shape),
      primaries: primariesOfUnits(this.#shape, this.#planning.primaries),
      rank: this.#options.context.transport.rank,
      state: this.#memory,
      spread: (step) => this.#allDense(this.#stamp(step, "met"), "means"), // Ranks may wait for other worlds longer than a step may take.
    };
  }

  get microBatches(): readonly number[] {
    return this.#microBatchesOf()[this.#options.context.transport.rank] ?? [];
  }

  close(): void {
    if (this.#options.context.rankState === undefined) this.#rankState.drop();
    for (const store of this.#stores.all) if (!this.#rankState.keeps(store)) store.close();
  }

  takeReplicaBytesMost(): number {
    return this.#memory.takeReplicaBytesMost();
  }

  takeKeptFloatsMost(): number {
    return this.#passes.takeKeptFloatsMost();
  }

  /**
   * `step` counts from 1. Returns undefined on all ranks when the run is to stop; parameters are then those of the step
   * before.
   */
  async step(step: number, batch: Batch, stopped = never): Promise<StepEnd | undefined> {
    const plan = await this.#plan(step, stopped);
    if (plan === undefined) return undefined;
    const gradients = await this.#gradients(plan, batch);
    if (gradients === undefined || !(await this.#perturbed(plan, batch))) return undefined;
    const { transport } = this.#options.context;
    const { stamp } = plan;
    const { rows } = gradients;
    this.#planning.add(rows);
    this.#stores.startGradients(transport, stamp);
    await this.#stores.gradientsArrived();
    // If a rank is lost here, the step is repeated with its report. After the commit it would have no report.
    if (this.#options.fssdp.measured === true) this.#planning.rates = (await this.#rates.after(step, stamp)) ?? this.#planning.rates;
    this.#rankState.prepared(step, (squares) => this.#update(step, rows, squares));
    const squares = await this.#squares(stamp);
    const gradientNorm = normIn(squares);
    checkNorm(step, gradientNorm);
    this.#rankState.decided(step, squares); // The step is made from here on, whichever ranks are lost.
    await this.#rankState.commit(step, () => this.#update(step, rows, squares));
    await this.#allDense(stamp);
    return this.#report(step, gradients, gradientNorm);
  }

  /** The optimizer's update of what this rank owns and shadows. Biases have no gradient, so they move before it. */
  async #update(step: number, rows: StepGradients["rows"], squares: Float64Array): Promise<void> {
    this.#passes.balancing.moveBiases(rows);
    this.#stores.keepDense();
    const facts = factsOf(this.#options, step, squares);
    for (const store of this.#stores.all) await store.update(this.#options.optimizer.values, facts);
  }

  #report(step: number, { losses, rows, first }: StepGradients, gradientNorm: number): StepEnd {
    const { sequences, sequenceLength, schedule } = this.#options;
    const sumOf = (what: keyof MicroBatchLoss): number => losses.reduce((sum, own) => sum + own[what], 0);
    return {
      loss: sumOf("loss") / (sequences * sequenceLength),
      balanceLoss: sumOf("balance"),
      gradientNorm,
      rate: rateOf(schedule, step),
      rows,
      primaries: this.#planning.primaries,
      ...first,
      rates: this.#planning.rates,
    };
  }

  /**
   * Agrees on the step with the other ranks, moves experts to new primaries, and plans the hosts. Undefined when a rank
   * wants to stop.
   */
  async #plan(step: number, stopped: () => boolean): Promise<StepPlan | undefined> {
    const { transport } = this.#options.context;
    const from = this.#planning.primaries;
    const primaries = this.#planning.nextPrimaries(step);
    const before = this.#stamp(step, { from, primaries });
    // Ranks with different settings would wait for each other's frames, so all send one frame of the same name first, with
    // their wish to stop.
    const wishes = Int32Array.of(Number(transport.ranks > 1 && stopped()));
    const asked = await gatherAll(transport, before, { what: "plan", layer: -1, lengthFrom: () => 1 }, wishes);
    if (asked.some(([stop]) => stop !== 0)) return undefined;
    await movePrimaries({ transport, stamp: before, shape: this.#shape, stores: this.#stores, from, to: primaries });
    this.#planning.primaries = primaries;
    const hosts = primaries.map((_, layer) => this.#planning.hostsBefore(layer));
    const stamp = this.#stamp(step, { primaries, hosts });
    const { microBatches, fssdp } = this.#options;
    const complete = (layer: number): void => this.#stores.startGradients(transport, stamp, { layer, primaries: primaries[layer] ?? [] });
    return { stamp, hosts, microBatches, atOnce: fssdp.microBatchesAtOnce, stopped, complete };
  }

  /** The summed losses of each group of sequences, on all ranks; undefined when the run is to stop. */
  async losses({ step, groups, group, stopped }: Look): Promise<readonly number[] | undefined> {
    const { transport } = this.#options.context;
    const hosts = this.#planning.primaries.map((_, layer) => this.#planning.hostsBefore(layer));
    const stamp = this.#stamp(step, { look: groups, primaries: this.#planning.primaries, hosts });
    const atOnce = transport.ranks === 1 ? 1 : this.#options.fssdp.microBatchesAtOnce;
    const plan = { stamp, hosts, microBatches: groups, atOnce, stopped };
    const own: number[] = [];
    const look = async (accumulation: AccumulationStep, numbers: readonly number[]): Promise<void> => {
      own.push(...(await this.#passes.losses(accumulation, await readAll(numbers, group))));
    };
    if (!(await this.#meter.beside(() => this.#eachAccumulation(plan, look)))) return undefined;
    const dealt = this.#microBatchesOf(atOnce, groups);
    const named = { what: "losses", layer: -1, lengthFrom: (rank: number): number => dealt[rank]?.length ?? 0 };
    const all = await gatherAll(transport, stamp, named, Float64Array.from(own));
    const found = new Array<number>(groups).fill(0);
    for (const [rank, part] of all.entries()) for (const [i, loss] of part.entries()) found[dealt[rank]?.[i] as number] = loss;
    return found;
  }

  /** The gradients of all micro-batches at their owners, without what shadows wait for; undefined when stopped. */
  async #gradients(plan: StepPlan, batch: Batch): Promise<StepGradients | undefined> {
    const { stamp } = plan;
    this.#memory.clearGradients();
    const passed = await this.#passed(plan, batch);
    if (passed === undefined) {
      this.#passes.drop();
      return undefined;
    }
    const losses = await this.#allLosses(stamp, passed.losses);
    await checkLosses(stamp.step, losses, (microBatch) => batch.documents(microBatch));
    const all = { transport: this.#options.context.transport, stamp, memory: this.#memory, shape: this.#shape };
    await sumDense({ ...all, ranges: this.#passes.ranges, microBatches: this.#microBatchesOf() });
    return { ...passed, losses };
  }

  /** SAM: takes the gradients again a little uphill, where the run asks for it; false when stopped. */
  async #perturbed(plan: StepPlan, batch: Batch): Promise<boolean> {
    const radius = perturbationRadius(this.#options.recipes);
    if (radius === 0) return true;
    const norm = normIn(await this.#squares(plan.stamp));
    const restore = this.#memory.perturb(norm > 0 ? radius / norm : 0);
    try {
      const stamp = this.#stamp(plan.stamp.step, { perturbedFrom: plan.stamp.plan });
      await this.#allDense(stamp);
      return (await this.#gradients({ ...plan, stamp }, batch)) !== undefined;
    } finally {
      restore();
    }
  }

  async #passed(plan: StepPlan, batch: Batch): Promise<StepGradients | undefined> {
    const { sequences, sequenceLength } = this.#options;
    const losses: MicroBatchLoss[] = [];
    const rows: ArrayLike<number>[][] = this.#planning.primaries.map(() => []);
    let first: StepGradients["first"] | undefined;
    const pass = async (accumulation: AccumulationStep, numbers: readonly number[]): Promise<void> => {
      const microBatches = await readAll(numbers, (microBatch) => batch.microBatch(microBatch));
      const found = await this.#passes.addGradients(accumulation, microBatches, 1 / (sequences * sequenceLength));
      losses.push(...found.microBatches);
      for (const [layer, of] of found.rows.entries()) rows[layer]?.push(of);
      const { replicas, dealing } = accumulation;
      first ??= { hosts: replicas.hosts, blocks: dealing.blocks, loads: dealing.loads };
    };
    if (!(await this.#eachAccumulation(plan, pass))) return undefined;
    return { losses, rows: rows.map(columnSums), first: first ?? { hosts: [], blocks: [], loads: [] } };
  }

  /**
   * Runs the accumulation steps in order with this rank's micro-batches. Returns false when the run is to stop; then nothing
   * is in progress and no replica is held.
   */
  async #eachAccumulation(
    plan: StepPlan,
    run: (accumulation: AccumulationStep, microBatches: readonly number[]) => Promise<void>,
  ): Promise<boolean> {
    const { microBatches, atOnce } = plan;
    const { context, fssdp } = this.#options;
    const keeps = fssdp.rematerialize === "Never" && !this.#planning.late;
    let transfers = this.#transfers();
    for (let first = 0; first < microBatches; first += atOnce) {
      const stays = keeps && first + atOnce < microBatches;
      const accumulation = this.#accumulation(plan, { first, transfers, stays });
      const dealt = this.#microBatchesOf(atOnce, Math.min(microBatches, first + atOnce))[context.transport.rank] ?? [];
      const own = dealt.filter((microBatch) => microBatch >= first);
      try {
        await run(accumulation, own);
      } catch (caught) {
        if (!(caught instanceof PassStopped)) throw caught;
        await transfers.settled();
        this.#dropReplicas();
        return false;
      }
      if (!stays) this.#dropReplicas();
      if (!keeps) transfers = this.#transfers();
    }
    return true;
  }

  #accumulation(
    { stamp, hosts, microBatches, atOnce, stopped, complete }: StepPlan,
    { first, transfers, stays }: Accumulated,
  ): AccumulationStep {
    const { context, fssdp } = this.#options;
    const { transport, facts } = context;
    const intervals = this.#intervals(atOnce);
    const planning = this.#planning;
    const replicas = new ExpertReplicas({
      ...{ transfers, memory: this.#memory, late: planning.late, again: fssdp.rematerialize === "AfterForward", stays, hosts },
      stampOf: (layer, late) => (planning.late ? this.#stamp(stamp.step, { layer, hosts: late }) : stamp),
    });
    return new AccumulationStep({
      ...{ transport, stamp, intervals, first, carried: first > 0, primaries: planning.primaries, replicas, stopped },
      dealing: new RowDealing({ planning, replicas, fssdp, facts, intervals }),
      complete: first + atOnce >= microBatches ? complete : undefined,
    });
  }

  #transfers(): ReplicaTransfers {
    const { transport, facts } = this.#options.context;
    const { primaries } = this.#planning;
    return new ReplicaTransfers({ transport, memory: this.#memory, shape: this.#shape, node: facts.node, primaries });
  }

  #dropReplicas(): void {
    for (const layer of this.#planning.primaries.keys()) this.#memory.dropReplicas(layer);
  }

  #stamp(step: number, plan: unknown): Stamp {
    return { world: this.#options.context.world, step, plan: planHash({ run: this.#run, plan }) };
  }

  #intervals(atOnce: number): readonly Interval[] {
    return microBatchIntervals(atOnce, this.#options.context.facts.speed);
  }

  #microBatchesOf(
    atOnce = this.#options.fssdp.microBatchesAtOnce,
    microBatches = this.#options.microBatches,
  ): readonly (readonly number[])[] {
    return this.#intervals(atOnce).map((interval) => microBatchesIn(interval, atOnce, microBatches));
  }

  async #allLosses(stamp: Stamp, own: readonly MicroBatchLoss[]): Promise<readonly MicroBatchLoss[]> {
    const dealt = this.#microBatchesOf();
    const named = { what: "losses", layer: -1, lengthFrom: (rank: number): number => 2 * (dealt[rank]?.length ?? 0) };
    const part = Float64Array.from(own.flatMap(({ loss, balance }) => [loss, balance]));
    const found: MicroBatchLoss[] = [];
    for (const [rank, all] of (await gatherAll(this.#options.context.transport, stamp, named, part)).entries())
      for (const [i, microBatch] of (dealt[rank] ?? []).entries())
        found[microBatch] = { loss: all[2 * i] as number, balance: all[2 * i + 1] as number };
    return found;
  }

  #squares(stamp: Stamp): Promise<Float64Array> {
    const { transport } = this.#options.context;
    return squaredNorms({ transport, stamp, shape: this.#shape, primaries: this.#planning.primaries, memory: this.#memory });
  }

  async #allDense(stamp: Stamp, what = "parameters"): Promise<void> {
    const { transport } = this.#options.context;
    if (transport.ranks === 1) return;
    const named = { what, layer: -1, lengthFrom: (rank: number): number => intervalLength(ownedDense(this.#shape, rank)) };
    const parts = await gatherAll(transport, stamp, named, this.#memory.ownDense("p"));
    for (const [rank, part] of parts.entries()) this.#memory.dense.set(part, ownedDense(this.#shape, rank).from);
  }
}
