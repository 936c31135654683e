// A model that is trained: its segments compiled, its parameters and their gradients as views of arrays, and the gradient of lanes.
// Experts' gradients are added lane by lane and dense ones in the tree over lanes, so that bits do not depend on how many lanes are worked
// on at once, nor by how many ranks.
import { addAll } from "../comm/collectives.ts";
import type { TrainableLoss, TrainableSegment, TrainingBackend, WeightViews } from "../compute/training.ts";
import { gateLogits } from "../kernels/index.ts";
import type { ModelProgram, Tensor } from "../kernels/segment.ts";
import { widthsOf } from "../kernels/widths.ts";
import type { Balancing } from "./balancing.ts";
import { DenseSums } from "./dense-sums.ts";
import { DenseLayerPass, type Kept, type LayerPass, MoeLayerPass } from "./layers.ts";
import { expertFloatsOf, frozenViews, type Layout, movedTo, type Unit, viewsOf } from "./layout.ts";

/** A fixed share of a batch: whole sequences, one after another. */
export interface Lane {
  /** [rows] */
  readonly inputs: Int32Array;
  readonly targets: Int32Array;
}

export interface NetworkOptions {
  readonly program: ModelProgram;
  readonly layout: Layout;
  readonly parameters: Float32Array;
  readonly gradients: Float32Array;
  /** Weights that are not trained, by tensor; left out where all are. */
  readonly frozen?: WeightViews;
  readonly sequenceLength: number;
}

/** What ends a pass between two of its layers, once the run is to stop. */
export class PassStopped extends Error {}

const never = (): boolean => false;

interface Ends {
  readonly embed: TrainableSegment;
  readonly head: TrainableLoss;
}

/** Views of a segment's weights: parameters, and where their gradients are added. */
interface Views {
  readonly weights: WeightViews;
  readonly sums: WeightViews;
}

export class Network {
  readonly layers: readonly LayerPass[];
  readonly #ends: Ends;
  readonly #embed: Views;
  readonly #head: Views;
  /** Of dense units, by part. */
  readonly #sums: readonly DenseSums[];
  /** Gradients of the head in tensors that the embedding has too: added to the embedding's own once all lanes are. */
  readonly #tied: DenseSums;
  /** All of these, with where the sums go. */
  readonly #ranges: readonly { readonly sums: DenseSums; readonly into: Float32Array }[];
  /** Lanes of this step so far. */
  #lane = 0;

  private constructor(ends: Ends, layers: readonly LayerPass[], sums: readonly DenseSums[], options: NetworkOptions) {
    const { layout, parameters, gradients, frozen = {} } = options;
    const [embedFrozen, headFrozen] = [layout.parts[0], layout.parts.at(-1)].map((part) => frozenViews(frozen, part?.frozen ?? {}));
    this.#ends = ends;
    this.layers = layers;
    this.#sums = sums;
    const dense = layout.parts.map(({ units }) => units[0] as Unit);
    const [embed, head] = [dense[0] as Unit, dense.at(-1) as Unit];
    this.#tied = new DenseSums(tiedFloats(options.program, embed));
    const scratch = (of: DenseSums | undefined, unit: Unit): WeightViews => viewsOf(of?.scratch ?? new Float32Array(), movedTo(unit, 0));
    this.#embed = { weights: { ...viewsOf(parameters, embed), ...embedFrozen }, sums: scratch(sums[0], embed) };
    this.#head = {
      weights: { ...this.#embed.weights, ...viewsOf(parameters, head), ...headFrozen },
      sums: { ...scratch(this.#tied, embed), ...scratch(sums.at(-1), head) },
    };
    const into = ({ from, to }: Unit): Float32Array => gradients.subarray(from, to);
    this.#ranges = [
      ...sums.map((of, i) => ({ sums: of, into: into(dense[i] as Unit) })),
      { sums: this.#tied, into: into(embed).subarray(0, this.#tied.scratch.length) },
    ];
  }

  static async open(backend: TrainingBackend, options: NetworkOptions): Promise<Network> {
    const { program, layout, parameters, gradients, sequenceLength, frozen = {} } = options;
    const sums = layout.parts.map(({ units: [dense] }) => new DenseSums((dense as Unit).to - (dense as Unit).from));
    const expertScratch = new Float32Array(expertFloatsOf(layout));
    const layers: LayerPass[] = [];
    for (const [index, layer] of program.layers.entries()) {
      const block = await backend.compile(layer.block, sequenceLength);
      const part = layout.parts[index + 1];
      const [unit, ...units] = part?.units ?? [];
      if (part === undefined || unit === undefined) throw new TypeError(`the layout has no layer ${index}`);
      const own = { ...viewsOf(parameters, unit), ...frozenViews(frozen, part.frozen) };
      const dense = { weights: own, sums: viewsOf((sums[index + 1] as DenseSums).scratch, movedTo(unit, 0)) };
      if (layer.kind === "dense") {
        layers.push(new DenseLayerPass(block, dense, program.hidden));
        continue;
      }
      const shared = frozenViews(frozen, part.expertFrozen);
      const experts = units.map((own) => ({
        weights: { ...viewsOf(parameters, own), ...shared },
        sums: viewsOf(expertScratch, movedTo(own, 0)),
        scratch: expertScratch.subarray(0, own.to - own.from),
        gradient: gradients.subarray(own.from, own.to),
      }));
      layers.push(new MoeLayerPass({ block, expert: await backend.compileExpert(layer.expert) }, { dense, experts }, layer));
    }
    const ends = { embed: await backend.compile(program.embed, sequenceLength), head: await backend.compileLoss(program.head) };
    return new Network(ends, layers, sums, options);
  }

  async #embedded({ inputs }: Lane): Promise<Float32Array> {
    const ids: Tensor = { shape: [inputs.length], data: inputs };
    return (await this.#ends.embed.forward({ ids }, this.#embed.weights)).x?.data as Float32Array;
  }

  /** The loss of every row of a lane, without gradients. Throws PassStopped when `stopped`, asked before each layer, says so. */
  async losses(lane: Lane, stopped = never): Promise<Float32Array> {
    let x = await this.#embedded(lane);
    for (const layer of this.layers) {
      if (stopped()) throw new PassStopped();
      x = (await layer.forward(x)).y;
    }
    return this.#ends.head.forward({ x, targets: lane.targets, weights: this.#head.weights });
  }

  /** Adds the gradients of sum(scale * loss) of lanes, in their order, and of the losses of balance, to which they are a whole step;
   *  returns the losses of each lane's rows. Throws PassStopped when `stopped`, asked before each layer of each lane, says so; the
   *  step's gradients are then to be dropped. */
  async addGradients(lanes: readonly Lane[], scale: number, balancing: Balancing, stopped = never): Promise<readonly Float32Array[]> {
    const inTurn = <T, U>(items: readonly T[], run: (item: T, index: number) => Promise<U>) => oneByOne(items, stopped, run);
    let rows = await inTurn(lanes, (lane) => this.#embedded(lane));
    const kept: (readonly Kept[])[] = [];
    for (const layer of this.layers) {
      const passes = await inTurn(rows, (x) => layer.forward(x));
      rows = passes.map(({ y }) => y);
      kept.push(passes.map((pass) => pass.kept));
    }
    const first = this.#lane;
    this.#lane += lanes.length;
    const ends = await inTurn(lanes, async ({ targets }, i) => {
      const found = await this.#ends.head.backward({ x: rows[i] as Float32Array, targets, scale, ...this.#head });
      for (const sums of [this.#sums.at(-1), this.#tied]) sums?.take(first + i);
      return found;
    });
    let gradients: readonly Float32Array[] = ends.map(({ dx }) => dx);
    for (const [index, layer] of [...this.layers.entries()].toReversed()) {
      const passes = kept.pop() as readonly Kept[];
      const beside = balancing.gradients(index, passes);
      gradients = await inTurn(gradients, async (dy, i) => {
        const dx = await layer.backward(passes[i] as Kept, dy, beside[i] ?? {});
        this.#sums[index + 1]?.take(first + i);
        return dx;
      });
    }
    await inTurn(lanes, async ({ inputs }, i) => {
      const values = { ids: { shape: [inputs.length], data: inputs } };
      await this.#ends.embed.backward({ values, outputs: { x: gradients[i] as Float32Array }, ...this.#embed });
      this.#sums[0]?.take(first + i);
    });
    return ends.map(({ losses }) => losses);
  }

  /** To be called when all lanes of a step were added: as many as a power of two are one tree. */
  finishGradients(): void {
    for (const { sums, into } of this.#ranges)
      addAll(
        into,
        sums.takeNodes().map(({ sum }) => sum),
      );
    this.#lane = 0;
  }

  /** Forgets what was added and counted of a step that is given up. */
  dropGradients(): void {
    for (const { sums } of this.#ranges) sums.takeNodes();
    for (const layer of this.layers) layer.takeCounts();
    this.#lane = 0;
  }
}

/** Floats of the embedding's unit, where the head has tensors of it; else none. */
export function tiedFloats({ head }: ModelProgram, { parameters, from, to }: Unit): number {
  return head.weights.some(({ name }) => parameters.some((parameter) => parameter.name === name)) ? to - from : 0;
}

/** Floats that forward keeps of a token for backward: the layer's input, and what its block writes beside the rows that it adds to. */
export function keptFloats(layer: ModelProgram["layers"][number]): number {
  const { inputs, ops, outputs } = layer.block;
  const input = inputs.reduce((sum, { width }) => sum + width, 0);
  if (layer.kind === "dense") return input;
  const widths = widthsOf(layer.block);
  const names = new Set([...outputs.map(({ name }) => name), ...gateLogits(ops)]);
  return [...names].reduce((sum, name) => sum + (name === "h" ? 0 : (widths.get(name) ?? 0)), input);
}

async function oneByOne<T, U>(items: readonly T[], stopped: () => boolean, run: (item: T, index: number) => Promise<U>) {
  const results: U[] = [];
  for (const [index, item] of items.entries()) {
    if (stopped()) throw new PassStopped();
    results.push(await run(item, index));
  }
  return results;
}
