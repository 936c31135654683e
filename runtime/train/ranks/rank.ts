// One rank's part in a step of training: its lanes forward and backward, the experts that it hosts, sums home, and the update of what it
// owns. All ranks run the same code and meet in the exchanges; how many they are changes no bits.
import { AppError } from "../../../crds/common.ts";
import { gatherAll } from "../../comm/collectives.ts";
import type { Stamp, Transport } from "../../comm/transport.ts";
import type { TrainableLoss, TrainableSegment, TrainingBackend } from "../../compute/training.ts";
import type { Tensor } from "../../kernels/segment.ts";
import { dealBlocks } from "../../placement/training/blocks.ts";
import { type Interval, laneIntervals, lanesIn } from "../../placement/training/lanes.ts";
import { DenseSums } from "../dense-sums.ts";
import { DenseLayerPass } from "../layers.ts";
import { kindsOf, movedTo, type Unit, viewsOf } from "../layout.ts";
import { type Lane, tiedFloats } from "../network.ts";
import { openState } from "../optimizers/open.ts";
import { rateOf, type Schedule } from "../schedule.ts";
import { Copies } from "./copies.ts";
import { type DenseRange, sumDense } from "./dense-exchange.ts";
import { RankDenseLayer } from "./dense-layer.ts";
import { checkRanks, type RankedModel } from "./fits.ts";
import { moveHomes } from "./homes.ts";
import { RankMemory } from "./memory.ts";
import { type Dealt, RankMoeLayer, type StepView } from "./moe-layer.ts";
import { Planning, planHash } from "./plan.ts";
import { firstHomes, ownedDense, ownedFloats, type Shape, shapeOf } from "./shape.ts";

export interface RankOptions extends RankedModel {
  readonly transport: Transport;
  readonly sequences: number;
  readonly sequenceLength: number;
  readonly schedule: Schedule;
  readonly clip: number;
}

export interface RankReport {
  readonly loss: number;
  readonly gradientNorm: number;
  /** Of each layer's experts: where they live, and who had them in this step. */
  readonly homes: readonly (readonly number[])[];
  readonly hosts: readonly (readonly (readonly number[])[])[];
}

type RankLayer = RankDenseLayer | RankMoeLayer;

interface Ends {
  readonly embed: TrainableSegment;
  readonly head: TrainableLoss;
}

export class Rank {
  readonly #options: RankOptions;
  readonly #shape: Shape;
  readonly #memory: RankMemory;
  readonly #planning: Planning;
  readonly #intervals: readonly Interval[];
  readonly #layers: readonly RankLayer[];
  readonly #ends: Ends;
  readonly #ranges: readonly DenseRange[];
  /** Gradients of the head in the embedding's tensors. */
  readonly #tied: DenseSums;
  /** Tells this run's settings and facts from others: they decide frames, as plans do. */
  readonly #run: string;

  private constructor(options: RankOptions, shape: Shape, memory: RankMemory, made: Made) {
    this.#options = options;
    this.#shape = shape;
    this.#memory = memory;
    this.#layers = made.layers;
    this.#ends = made.ends;
    this.#ranges = made.ranges;
    this.#tied = made.tied;
    const { layout, transport, optimizerMemory: _, ...settings } = options; // where state lies changes no bits
    const { facts, fssdp, lanes } = settings;
    this.#run = planHash({ settings, layout });
    this.#intervals = laneIntervals(lanes, facts.speed);
    this.#planning = new Planning(fssdp, facts, firstHomes(shape, transport.ranks));
  }

  static async open(backend: TrainingBackend, options: RankOptions): Promise<Rank> {
    const { program, layout, transport, sequenceLength } = options;
    checkRanks(options, [transport.rank]);
    const shape = shapeOf(layout, transport.ranks);
    const state = await openState(options, ownedFloats(shape, transport.rank, transport.ranks));
    const memory = new RankMemory(shape, transport.rank, state);
    const sums = shape.dense.map(({ from, to }) => new DenseSums(to - from));
    const layers: RankLayer[] = [];
    for (const [index, layer] of program.layers.entries()) {
      const block = await backend.compile(layer.block, sequenceLength);
      const [dense, own] = [shape.dense[index + 1] as Unit, sums[index + 1] as DenseSums];
      if (layer.kind === "dense") {
        const views = { weights: viewsOf(memory.dense, dense), sums: viewsOf(own.scratch, movedTo(dense, 0)) };
        layers.push(new RankDenseLayer(new DenseLayerPass(block, views, program.hidden), own));
        continue;
      }
      const [expert, experts] = [await backend.compileExpert(layer.expert), shape.experts[index] ?? []];
      layers.push(new RankMoeLayer({ index, layer, block, expert, dense, sums: own, experts, memory }));
    }
    const embed = shape.dense[0] as Unit;
    const tied = new DenseSums(tiedFloats(program, embed));
    const ranges = [...shape.dense.map(({ from }, i) => ({ from, sums: sums[i] as DenseSums })), { from: embed.from, sums: tied }];
    const ends = { embed: await backend.compile(program.embed, sequenceLength), head: await backend.compileLoss(program.head) };
    return new Rank(options, shape, memory, { layers, ends, ranges, tied });
  }

  get lanes(): Interval {
    return this.#intervals[this.#options.transport.rank] as Interval;
  }

  /** Takes what this rank holds of a model's parameters, laid out as `layout` has them. */
  load(parameters: Float32Array): void {
    const { layout, transport } = this.#options;
    for (const [i, unit] of kindsOf(layout).dense.entries())
      this.#memory.dense.set(parameters.subarray(unit.from, unit.to), this.#shape.dense[i]?.from);
    const { from, to } = ownedDense(this.#shape, transport.rank);
    this.#memory.ownDense("p").set(this.#memory.dense.subarray(from, to));
    this.#eachExpert((layer, expert, unit) => {
      if (this.#planning.homes[layer]?.[expert] !== transport.rank) return;
      this.#memory.take(layer, expert);
      this.#memory.own(layer, expert, "p").set(parameters.subarray(unit.from, unit.to));
    });
  }

  /** Writes what this rank owns where `layout` has it. */
  save(parameters: Float32Array): void {
    const { layout, transport } = this.#options;
    const { from, to } = ownedDense(this.#shape, transport.rank);
    for (const [i, unit] of kindsOf(layout).dense.entries()) {
      const dense = this.#shape.dense[i] as Unit;
      const [begin, end] = [Math.max(from, dense.from), Math.min(to, dense.to)];
      if (begin < end) parameters.set(this.#memory.ownDense("p").subarray(begin - from, end - from), unit.from + begin - dense.from);
    }
    this.#eachExpert((layer, expert, unit) => {
      if (this.#memory.owns(layer, expert)) parameters.set(this.#memory.own(layer, expert, "p"), unit.from);
    });
  }

  close(): Promise<void> {
    return this.#memory.close();
  }

  takeCopyBytesMost(): number {
    return this.#memory.takeCopyBytesMost();
  }

  /** `step` counts from 1; `own` are this rank's lanes, in order. */
  async step(step: number, own: readonly Lane[]): Promise<RankReport> {
    const { transport, sequences, sequenceLength, clip, optimizer, schedule, facts: ranks, fssdp } = this.#options;
    const from = this.#planning.homes;
    const homes = this.#planning.nextHomes(step);
    const before = this.#stamp(step, { from, homes });
    // Ranks that do not agree would wait for one another's frames; here all of them send one of the same name.
    await gatherAll(transport, before, { what: "plan", layer: -1, lengthFrom: () => 0 }, new Int32Array());
    await moveHomes({ transport, stamp: before, memory: this.#memory, from, to: homes });
    this.#planning.homes = homes;
    const hosts = homes.map((_, layer) => this.#planning.hostsBefore(layer));
    const stamp = this.#stamp(step, { homes, hosts });
    const copies = new Copies({
      transport,
      memory: this.#memory,
      shape: this.#shape,
      node: ranks.node,
      homes,
      spread: fssdp.spread,
    });
    const view = { transport, stamp, intervals: this.#intervals, homes };
    const losses = await this.#passes(own, { view, copies, hosts, scale: 1 / (sequences * sequenceLength) });
    await sumDense({ transport, stamp, memory: this.#memory, shape: this.#shape, ranges: this.#ranges, intervals: this.#intervals });
    const [loss, gradientNorm] = [await this.#allLosses(stamp, losses), await this.#norm(stamp)];
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm))
      throw new AppError(
        `step ${step}: loss ${loss}, norm of the gradients ${gradientNorm}; lower --learning-rate and go on from a checkpoint`,
        {
          code: "NonFiniteLoss",
          operation: "training",
        },
      );
    const facts = { step, rate: rateOf(schedule, step), clip: Math.min(1, clip / (gradientNorm + 1e-6)) };
    await this.#memory.update(optimizer.values, facts);
    const lengthFrom = (rank: number): number => lanesIn(ownedDense(this.#shape, rank));
    const parts = await gatherAll(transport, stamp, { what: "parameters", layer: -1, lengthFrom }, this.#memory.ownDense("p"));
    for (const [rank, part] of parts.entries()) this.#memory.dense.set(part, ownedDense(this.#shape, rank).from);
    return {
      loss: loss / (sequences * sequenceLength),
      gradientNorm,
      homes,
      hosts,
    };
  }

  #stamp(step: number, plan: object): Stamp {
    return { world: 1, step, plan: planHash({ run: this.#run, plan }) };
  }

  /** Forward and backward of this rank's lanes; returns the sum of each one's losses. */
  async #passes(own: readonly Lane[], pass: Pass): Promise<number[]> {
    const { view, copies, hosts, scale } = pass;
    const { fssdp, transport } = this.#options;
    const again = fssdp.rematerialize === "AfterForward";
    const rows: ArrayLike<number>[] = hosts.map(() => []);
    const stamps = hosts.map(() => view.stamp);
    const bring = (what: string, layer: number): void => copies.start(what, layer, hosts[layer] ?? [], stamps[layer] ?? view.stamp);
    const deal = async (layer: number, counts: readonly Int32Array[]): Promise<Dealt> => {
      rows[layer] = columnSums(counts);
      if (this.#planning.late) {
        hosts[layer] = this.#planning.hostsAfter(layer, rows[layer] ?? []);
        stamps[layer] = this.#stamp(view.stamp.step, { layer, hosts: hosts[layer] });
        bring("copies", layer);
      }
      await copies.arrived("copies", layer);
      const problem = { rows: counts, hosts: hosts[layer] ?? [], intervals: this.#intervals };
      const blocks = dealBlocks(fssdp.dispatch, { ...problem, speed: Float64Array.from(this.#options.facts.speed) });
      return { blocks, stamp: stamps[layer] ?? view.stamp };
    };
    const step: StepView = { ...view, deal };
    let xs: Float32Array[] = [];
    for (const { inputs } of own) xs.push(await this.#embedded(inputs));
    for (const [index, layer] of this.#layers.entries()) {
      const ahead = again ? index + 2 : this.#layers.length;
      for (let next = index; !this.#planning.late && next < Math.min(ahead, this.#layers.length); next++) bring("copies", next);
      xs = await layer.forward(step, xs);
      if (again) this.#memory.dropCopies(index);
    }
    this.#planning.add(rows);
    const first = this.#intervals[transport.rank]?.from ?? 0;
    const { losses, dxs } = await this.#head(own, xs, scale);
    let gradients = dxs;
    for (let index = this.#layers.length - 1; index >= 0; index--) {
      for (let next = index; again && next >= Math.max(0, index - 1); next--) bring("copies again", next);
      await copies.arrived("copies again", index);
      gradients = await (this.#layers[index] as RankLayer).backward(step, gradients);
      this.#memory.dropCopies(index);
    }
    for (const [i, { inputs }] of own.entries()) {
      const values = { ids: { shape: [inputs.length], data: inputs } };
      const [unit, { sums }] = [this.#shape.dense[0] as Unit, this.#ranges[0] as DenseRange];
      const views = { weights: viewsOf(this.#memory.dense, unit), sums: viewsOf(sums.scratch, movedTo(unit, 0)) };
      await this.#ends.embed.backward({ values, outputs: { x: gradients[i] as Float32Array }, ...views });
      sums.take(first + i);
    }
    return losses;
  }

  async #embedded(inputs: Int32Array): Promise<Float32Array> {
    const ids: Tensor = { shape: [inputs.length], data: inputs };
    return (await this.#ends.embed.forward({ ids }, viewsOf(this.#memory.dense, this.#shape.dense[0] as Unit))).x?.data as Float32Array;
  }

  async #head(own: readonly Lane[], xs: readonly Float32Array[], scale: number) {
    const [embed, head] = [this.#shape.dense[0] as Unit, this.#shape.dense.at(-1) as Unit];
    const { sums } = this.#ranges[this.#shape.dense.length - 1] as DenseRange;
    const weights = { ...viewsOf(this.#memory.dense, embed), ...viewsOf(this.#memory.dense, head) };
    const into = { ...viewsOf(this.#tied.scratch, movedTo(embed, 0)), ...viewsOf(sums.scratch, movedTo(head, 0)) };
    const first = this.lanes.from;
    const [losses, dxs]: [number[], Float32Array[]] = [[], []];
    for (const [i, { targets }] of own.entries()) {
      const found = await this.#ends.head.backward({ x: xs[i] as Float32Array, targets, scale, weights, sums: into });
      losses.push(found.losses.reduce((a, b) => a + b, 0));
      dxs.push(found.dx);
      sums.take(first + i);
      this.#tied.take(first + i);
    }
    return { losses, dxs };
  }

  async #allLosses(stamp: Stamp, losses: readonly number[]): Promise<number> {
    const lengthFrom = (rank: number): number => lanesIn(this.#intervals[rank]);
    const all = await gatherAll(this.#options.transport, stamp, { what: "losses", layer: -1, lengthFrom }, Float64Array.from(losses));
    return all.flatMap((part) => [...part]).reduce((a, b) => a + b, 0);
  }

  /** The norm of all gradients: squares of dense pieces, then of experts, in their order. It is what a step is committed by. */
  async #norm(stamp: Stamp): Promise<number> {
    const { transport } = this.#options;
    const own: number[] = [];
    const owners: number[] = [];
    for (const { from, to, owner } of this.#shape.pieces) {
      own.push(owner === transport.rank ? this.#memory.denseSquares(from, to) : 0);
      owners.push(owner);
    }
    this.#eachExpert((layer, expert) => {
      const owner = this.#planning.homes[layer]?.[expert] as number;
      own.push(owner === transport.rank ? this.#memory.expertSquares(layer, expert) : 0);
      owners.push(owner);
    });
    const name = { what: "squares", layer: -1, lengthFrom: () => own.length };
    const all = await gatherAll(transport, stamp, name, Float64Array.from(own));
    return Math.sqrt(owners.reduce((sum, owner, i) => sum + (all[owner]?.[i] as number), 0));
  }

  #eachExpert(run: (layer: number, expert: number, unit: Unit) => void): void {
    for (const [layer, { units }] of this.#options.layout.parts.slice(1, -1).entries())
      for (const unit of units) if (unit.expert !== undefined) run(layer, unit.expert, unit);
  }
}

interface Made {
  readonly layers: readonly RankLayer[];
  readonly ends: Ends;
  readonly ranges: readonly DenseRange[];
  readonly tied: DenseSums;
}

/** What the passes of a step are given. */
interface Pass {
  readonly view: Omit<StepView, "deal">;
  readonly copies: Copies;
  /** hosts[layer][expert]; planners that wait for counts fill it in. */
  readonly hosts: number[][][];
  readonly scale: number;
}

function columnSums(counts: readonly Int32Array[]): Float64Array {
  const sums = new Float64Array(counts[0]?.length ?? 0);
  for (const row of counts) for (const [e, rows] of row.entries()) sums[e] = (sums[e] as number) + rows;
  return sums;
}
