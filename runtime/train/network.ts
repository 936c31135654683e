// A model that is trained: its segments compiled, its parameters and their gradients as views of arrays, and the gradient of lanes.
// A lane's sums are added before the next lane's, in every parameter, so that bits do not depend on how many lanes are worked on at once.
import type { TrainableLoss, TrainableSegment, TrainingBackend, WeightViews } from "../compute/training.ts";
import type { ModelProgram, Tensor } from "../kernels/segment.ts";
import type { Balancing } from "./balancing.ts";
import { DenseLayerPass, type Kept, type LayerPass, MoeLayerPass } from "./layers.ts";
import { type Layout, type Unit, viewsOf } from "./layout.ts";

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
  readonly sequenceLength: number;
}

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
  /** Gradients of the head in tensors that the embedding has too: added once all lanes are, so that each sum is over lanes in order. */
  readonly #tied: readonly { readonly sum: Float32Array; readonly into: Float32Array }[];

  private constructor(ends: Ends, layers: readonly LayerPass[], { program, layout, parameters, gradients }: NetworkOptions) {
    this.#ends = ends;
    this.layers = layers;
    const [embed, head] = [layout.parts[0]?.units[0] as Unit, layout.parts.at(-1)?.units[0] as Unit];
    this.#embed = { weights: viewsOf(parameters, embed), sums: viewsOf(gradients, embed) };
    const tied = program.head.weights.filter(({ name }) => embed.parameters.some((parameter) => parameter.name === name));
    const sums = Object.fromEntries(tied.map(({ name }) => [name, new Float32Array(this.#embed.sums[name]?.length ?? 0)]));
    this.#head = {
      weights: { ...this.#embed.weights, ...viewsOf(parameters, head) },
      sums: { ...sums, ...viewsOf(gradients, head) },
    };
    this.#tied = tied.map(({ name }) => ({ sum: sums[name] as Float32Array, into: this.#embed.sums[name] as Float32Array }));
  }

  static async open(backend: TrainingBackend, options: NetworkOptions): Promise<Network> {
    const { program, layout, parameters, gradients, sequenceLength } = options;
    const layers: LayerPass[] = [];
    for (const [index, layer] of program.layers.entries()) {
      const block = await backend.compile(layer.block, sequenceLength);
      const units = (layout.parts[index + 1]?.units ?? []).map((unit) => ({
        weights: viewsOf(parameters, unit),
        sums: viewsOf(gradients, unit),
      }));
      if (layer.kind === "dense") layers.push(new DenseLayerPass(block, units, program.hidden));
      else layers.push(new MoeLayerPass({ block, expert: await backend.compileExpert(layer.expert) }, units, layer));
    }
    const ends = { embed: await backend.compile(program.embed, sequenceLength), head: await backend.compileLoss(program.head) };
    return new Network(ends, layers, options);
  }

  async #embedded({ inputs }: Lane): Promise<Float32Array> {
    const ids: Tensor = { shape: [inputs.length], data: inputs };
    return (await this.#ends.embed.forward({ ids }, this.#embed.weights)).x?.data as Float32Array;
  }

  /** The loss of every row of a lane, without gradients. */
  async losses(lane: Lane): Promise<Float32Array> {
    let x = await this.#embedded(lane);
    for (const layer of this.layers) x = (await layer.forward(x)).y;
    return this.#ends.head.forward({ x, targets: lane.targets, weights: this.#head.weights });
  }

  /** Adds the gradients of sum(scale * loss) of lanes, in their order, and of the losses of balance, to which they are a whole step;
   *  returns the losses of each lane's rows. */
  async addGradients(lanes: readonly Lane[], scale: number, balancing: Balancing): Promise<readonly Float32Array[]> {
    let rows = await inTurn(lanes, (lane) => this.#embedded(lane));
    const kept: (readonly Kept[])[] = [];
    for (const layer of this.layers) {
      const passes = await inTurn(rows, (x) => layer.forward(x));
      rows = passes.map(({ y }) => y);
      kept.push(passes.map((pass) => pass.kept));
    }
    const ends = await inTurn(lanes, ({ targets }, i) =>
      this.#ends.head.backward({ x: rows[i] as Float32Array, targets, scale, ...this.#head }),
    );
    let gradients: readonly Float32Array[] = ends.map(({ dx }) => dx);
    for (const [index, layer] of [...this.layers.entries()].toReversed()) {
      const passes = kept.pop() as readonly Kept[];
      const beside = balancing.gradients(index, passes);
      gradients = await inTurn(gradients, (dy, i) => layer.backward(passes[i] as Kept, dy, beside[i] ?? {}));
    }
    await inTurn(lanes, ({ inputs }, i) => {
      const values = { ids: { shape: [inputs.length], data: inputs } };
      return this.#ends.embed.backward({ values, outputs: { x: gradients[i] as Float32Array }, ...this.#embed });
    });
    return ends.map(({ losses }) => losses);
  }

  /** To be called when all lanes of a step were added. */
  finishGradients(): void {
    for (const { sum, into } of this.#tied) {
      for (const [i, value] of sum.entries()) into[i] = (into[i] as number) + value;
      sum.fill(0);
    }
  }

  /** Forgets what was added of a step that is given up. */
  dropGradients(): void {
    for (const { sum } of this.#tied) sum.fill(0);
  }
}

async function inTurn<T, U>(items: readonly T[], run: (item: T, index: number) => Promise<U>): Promise<readonly U[]> {
  const results: U[] = [];
  for (const [index, item] of items.entries()) results.push(await run(item, index));
  return results;
}
