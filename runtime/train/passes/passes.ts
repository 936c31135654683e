// The model as one rank runs it: compiled segments, weights, and forward and backward of its micro-batches. The order of gradient sums
// does not depend on how many micro-batches run at once.

import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { TrainableLoss, TrainableSegment, TrainingBackend, WeightViews } from "../../compute/training.ts";
import type { ModelProgram, Tensor } from "../../kernels/segment.ts";
import { movedTo, type Unit, viewsOf } from "../model/layout.ts";
import type { AccumulationStep } from "../ranks/accumulation-step.ts";
import type { Shape } from "../ranks/model-shape.ts";
import type { RankMemory } from "../ranks/rank-memory.ts";
import type { RecipeSetting } from "../recipes/recipe.ts";
import { Balancing } from "./balancing.ts";
import { borrowedBy } from "./borrowed.ts";
import { RankDenseLayer } from "./dense-layer.ts";
import { type DenseRange, DenseSums } from "./dense-sums.ts";
import { type DenseViews, KeptBudget, type LayerPass, type RankLayer, takeMicroBatch } from "./layer.ts";
import { RankMoeLayer } from "./moe-layer.ts";

export interface MicroBatch {
  readonly inputs: Int32Array;
  readonly targets: Int32Array;
}

export interface MicroBatchLoss {
  readonly loss: number;
  readonly balance: number;
}

export interface AccumulationLosses {
  readonly microBatches: readonly MicroBatchLoss[];
  /** Rows of each layer's experts, in all micro-batches of the accumulation step. */
  readonly rows: readonly ArrayLike<number>[];
}

interface FrozenParts {
  readonly parts: readonly WeightViews[];
  readonly experts: readonly WeightViews[];
}

export interface PassesOptions {
  readonly program: ModelProgram;
  readonly shape: Shape;
  readonly memory: RankMemory;
  readonly frozen: FrozenParts;
  readonly sequenceLength: number;
  readonly recipes: readonly RecipeSetting[];
  /** Floats that forward may store beyond what backward needs, and as many that may wait for collection. */
  readonly budget: number;
}

interface Parts {
  readonly layers: readonly RankLayer[];
  readonly embed: DenseViews & { readonly segment: TrainableSegment };
  readonly head: DenseViews & { readonly segment: TrainableLoss };
  readonly ranges: readonly DenseRange[];
  readonly balancing: Balancing;
  readonly budget: KeptBudget;
  readonly garbage: Garbage;
}

const sumOf = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0);

export class Passes {
  readonly #parts: Parts;
  #keptFloatsMost = 0;

  private constructor(parts: Parts) {
    this.#parts = parts;
  }

  static async open(backend: TrainingBackend, options: PassesOptions): Promise<Passes> {
    const { program, shape, memory, frozen, sequenceLength, recipes } = options;
    const balancing = new Balancing(recipes, { program, dense: shape.dense, parameters: memory.dense });
    const summed = (part: number, unit: Unit) => ({ part, unit, sums: new DenseSums(unit.to - unit.from) });
    const own = shape.dense.map((unit, part) => summed(part, unit));
    // Gradients of tensors that belong to an earlier part are summed apart and added to that part at the end.
    const all = [...own, ...borrowedBy(program, shape.dense).map(({ part, unit }) => summed(part, unit))];
    const dense = shape.dense.map((_, part): DenseViews => {
      const read = all.filter((each) => each.part === part);
      const views = (of: (each: (typeof read)[number]) => WeightViews): WeightViews => Object.assign({}, ...read.map(of));
      return {
        weights: { ...views(({ unit }) => viewsOf(memory.dense, unit)), ...frozen.parts[part] },
        sums: views(({ unit, sums }) => viewsOf(sums.scratch, movedTo(unit, 0))),
        microBatches: read.map(({ sums }) => sums),
      };
    });
    const scratch = new Float32Array(shape.expertFloats);
    const layers: RankLayer[] = [];
    for (const [index, layer] of program.layers.entries()) {
      const views = { ...(dense[index + 1] as DenseViews), block: await backend.compile(layer.block, sequenceLength) };
      if (layer.kind === "dense") layers.push(new RankDenseLayer(views, program.hidden));
      else {
        const [expert, experts] = [await backend.compileExpert(layer.expert), shape.experts[index] ?? []];
        const { slices } = shape;
        const shared = frozen.experts[index] ?? {};
        layers.push(new RankMoeLayer({ index, layer, dense: views, expert, experts, slices, memory, scratch, frozen: shared }));
      }
    }
    const [embed, head] = [dense[0] as DenseViews, dense.at(-1) as DenseViews];
    return new Passes({
      layers,
      embed: { ...embed, segment: await backend.compile(program.embed, sequenceLength) },
      head: Object.assign({ segment: await backend.compileLoss(program.head) }, head),
      ranges: all.map(({ unit, sums }) => ({ from: unit.from, sums })),
      balancing,
      budget: new KeptBudget(options.budget),
      garbage: new Garbage(options.budget * Float32Array.BYTES_PER_ELEMENT),
    });
  }

  get ranges(): readonly DenseRange[] {
    return this.#parts.ranges;
  }

  get balancing(): Balancing {
    return this.#parts.balancing;
  }

  /** The most floats that layers stored at once since the last call. */
  takeKeptFloatsMost(): number {
    const floats = this.#keptFloatsMost;
    this.#keptFloatsMost = 0;
    return floats;
  }

  /** The summed losses of each own micro-batch, without gradients. Throws PassStopped. */
  async losses(accumulation: AccumulationStep, microBatches: readonly MicroBatch[]): Promise<number[]> {
    const { layers, head, garbage } = this.#parts;
    let xs: readonly Float32Array[] = await sequentially(microBatches, (microBatch) => this.#embedded(microBatch));
    for (const [index, layer] of layers.entries()) {
      accumulation.replicas.beforeForward(index);
      xs = (await layer.forward(accumulation, xs)).ys;
      accumulation.replicas.afterForward(index);
      garbage.look();
    }
    return sequentially(microBatches, async ({ targets }, i) =>
      sumOf(await head.segment.forward({ x: xs[i] as Float32Array, targets, weights: head.weights })),
    );
  }

  /**
   * Adds the gradients of sum(scale * loss) of the own micro-batches, in order, and of the balance losses. Throws PassStopped; the
   * caller then drops the step's gradients.
   */
  async addGradients(accumulation: AccumulationStep, microBatches: readonly MicroBatch[], scale: number): Promise<AccumulationLosses> {
    const { layers, embed, head, balancing, budget, garbage } = this.#parts;
    budget.clear();
    const asked = <T, U>(items: readonly T[], run: (item: T, index: number) => Promise<U>): Promise<U[]> =>
      sequentially(items, (item, index) => {
        accumulation.checkStop();
        return run(item, index);
      });
    let xs: readonly Float32Array[] = await asked(microBatches, (microBatch) => this.#embedded(microBatch));
    const passes: LayerPass[] = [];
    for (const [index, layer] of layers.entries()) {
      accumulation.replicas.beforeForward(index);
      const { ys, pass } = await layer.forward(accumulation, xs, budget);
      accumulation.replicas.afterForward(index);
      garbage.look();
      passes.push(pass);
      xs = ys;
    }
    const rows = passes.map((pass) => pass.rows);
    this.#keptFloatsMost = Math.max(this.#keptFloatsMost, keptFloatsOf(passes));
    const ends = await asked(microBatches, async ({ targets }, i) => {
      const { segment, weights, sums } = head;
      const found = await segment.backward({ x: xs[i] as Float32Array, targets, scale, weights, sums });
      takeMicroBatch(head, accumulation.numberOf(i));
      return found;
    });
    let gradients: readonly Float32Array[] = ends.map(({ dx }) => dx);
    const balance = microBatches.map(() => 0);
    for (let index = layers.length - 1; index >= 0; index--) {
      const pass = passes.pop() as LayerPass;
      const beside = balancing.gradients(index, pass.kept, pass.choices);
      for (const [i, { loss }] of beside.entries()) balance[i] = (balance[i] as number) + loss;
      await accumulation.replicas.beforeBackward(index);
      gradients = await pass.backward(
        gradients,
        beside.map((own) => own.gradients),
      );
      accumulation.replicas.afterBackward(index);
      garbage.look();
    }
    await asked(microBatches, async ({ inputs }, i) => {
      const values = { ids: { shape: [inputs.length], data: inputs } };
      const { segment, weights, sums } = embed;
      await segment.backward({ values, outputs: { x: gradients[i] as Float32Array }, weights, sums });
      takeMicroBatch(embed, accumulation.numberOf(i));
    });
    await accumulation.allReduced();
    return { microBatches: ends.map(({ losses }, i) => ({ loss: sumOf(losses), balance: balance[i] as number })), rows };
  }

  drop(): void {
    for (const { sums } of this.#parts.ranges) sums.takeNodes();
  }

  async #embedded({ inputs }: MicroBatch): Promise<Float32Array> {
    const { segment, weights } = this.#parts.embed;
    const ids: Tensor = { shape: [inputs.length], data: inputs };
    return (await segment.forward({ ids }, weights)).x?.data as Float32Array;
  }
}

function keptFloatsOf(passes: readonly LayerPass[]): number {
  const values = passes.flatMap(({ kept }) => kept.flatMap((microBatch) => Object.values(microBatch)));
  return values.reduce((sum, { data }) => sum + data.length, 0);
}

async function sequentially<T, U>(items: readonly T[], run: (item: T, index: number) => Promise<U>): Promise<U[]> {
  const results: U[] = [];
  for (const [index, item] of items.entries()) results.push(await run(item, index));
  return results;
}

export async function readAll(numbers: readonly number[], read: (number: number) => Promise<MicroBatch>): Promise<MicroBatch[]> {
  const microBatches: MicroBatch[] = [];
  for (const number of numbers) microBatches.push(await read(number));
  return microBatches;
}

const garbageBytesMost = 512 * 2 ** 20;
const garbageBytesLeast = 64 * 2 ** 20;

let collect: (() => void) | undefined;

function collector(): () => void {
  if (collect !== undefined) return collect;
  setFlagsFromString("--external-memory-accounted-in-global-limit");
  setFlagsFromString("--expose-gc");
  collect = runInNewContext("gc") as () => void;
  return collect;
}

/**
 * Collects garbage of large arrays above a bound. V8 collects after every 64 MiB of them, which costs up to a fifth of a step.
 */
export class Garbage {
  readonly #bytes: number;
  readonly #collect: () => void;
  #before: number;

  /** `bytes` may wait to be collected. The V8 flag is process-wide. */
  constructor(bytes: number) {
    this.#bytes = Math.min(garbageBytesMost, Math.max(garbageBytesLeast, bytes));
    this.#collect = collector();
    this.#before = getHeapStatistics().external_memory;
  }

  /** Call it where a pause is harmless, at least once a layer. */
  look(): void {
    const { external_memory: now } = getHeapStatistics();
    this.#before = Math.min(this.#before, now);
    if (now - this.#before <= this.#bytes) return;
    this.#collect();
    this.#before = getHeapStatistics().external_memory;
  }
}
