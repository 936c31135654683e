// Balance recipes bound to a model: their losses, gradients for a layer's logits, and changes of gate biases, all from the rows of
// experts in a whole step.
import { kernelOf } from "../../kernels/index.ts";
import { floats, type Gradients, matrix, type Values } from "../../kernels/kernel.ts";
import type { ModelProgram, MoeLayer, Op, Tensor } from "../../kernels/segment.ts";
import { widthsOf } from "../../kernels/widths.ts";
import { type Unit, viewsOf } from "../model/layout.ts";
import { having, refuseRecipe } from "../recipes/index.ts";
import { type GateCounts, type RecipeSetting, sumOf } from "../recipes/recipe.ts";

interface Gate {
  readonly op: Op;
  readonly logits: string;
  /** Includes free experts. */
  readonly experts: number;
  readonly topK: number;
  readonly weights: readonly number[];
  /** A view of the parameters, where the gate has a selection bias. */
  readonly bias: Float32Array | undefined;
}

function gateOf(layer: MoeLayer, views: Readonly<Record<string, Float32Array>>): Gate {
  for (const op of layer.block.ops) {
    const kernel = kernelOf(op);
    const logits = kernel.gateLogits?.(op);
    if (logits === undefined || kernel.shares === undefined) continue;
    const bias = kernel.choiceBias?.(op);
    const experts = widthsOf(layer.block).get(logits) ?? 0;
    const weights = Array.from({ length: experts }, (_, expert) => (expert < layer.experts ? 1 : (layer.free?.balanceWeight ?? 1)));
    return { op, logits, experts, topK: layer.topK, weights, bias: bias === undefined ? undefined : views[bias] };
  }
  throw new TypeError(`${layer.block.name} has experts and no gate`);
}

function checkSuits(settings: readonly RecipeSetting[], gates: readonly (Gate | undefined)[], family: string): void {
  const some = gates.filter((gate) => gate !== undefined);
  for (const { setting, numbers, recipe } of [...having(settings, "loss"), ...having(settings, "bias")]) {
    const { groups = 1 } = numbers;
    if (some.length === 0) throw refuseRecipe(setting, "the model has no experts to balance; leave it out");
    const uneven = some.find(({ experts }) => experts % groups !== 0);
    if (uneven !== undefined) throw refuseRecipe(setting, `groups must divide the number of experts, ${uneven.experts}`);
    const reason = `gates of family ${family} have no bias of choice (those of DeepSeek-V3 have); take a loss instead`;
    if (recipe.bias !== undefined && some.some(({ bias }) => bias === undefined)) throw refuseRecipe(setting, reason);
  }
}

/** A token's slot may stay unassigned; such choices are counted last. */
function countsOf({ experts, topK }: Gate, choices: readonly number[]): GateCounts {
  const rows = choices.slice(0, experts);
  const [chosen, places] = [sumOf(rows), sumOf(choices)];
  return { rows, topK: chosen === places ? topK : (topK * chosen) / places };
}

export class Balancing {
  readonly #settings: readonly RecipeSetting[];
  readonly #gates: readonly (Gate | undefined)[];

  constructor(settings: readonly RecipeSetting[], { program, dense, parameters }: BalancedModel) {
    this.#settings = settings;
    this.#gates = program.layers.map((layer, index) => {
      const unit = dense[index + 1];
      return layer.kind === "dense" || unit === undefined ? undefined : gateOf(layer, viewsOf(parameters, unit));
    });
    checkSuits(settings, this.#gates, program.family);
  }

  /**
   * For each of these micro-batches the gradients of a layer's logits, and its part of the losses; `choices`: rows of each expert in
   * the whole step, free ones last.
   */
  gradients(layer: number, microBatches: readonly Values[], choices: ArrayLike<number>): readonly MicroBatchBalance[] {
    const gate = this.#gates[layer];
    const plain = gate && this.#slopes(countsOf(gate, Array.from(choices)));
    const slopes = plain?.map((slope, expert) => slope * (gate?.weights[expert] ?? 1));
    return microBatches.map((kept) => (gate && slopes ? microBatchBalance(gate, kept, slopes) : { gradients: {}, loss: 0 }));
  }

  #slopes(counts: GateCounts): Float64Array | undefined {
    const each = having(this.#settings, "loss").map(({ hook, numbers }) => hook(counts, numbers));
    return each.reduce<Float64Array | undefined>(
      (sum, slopes) => sum?.map((value, i) => value + (slopes[i] as number)) ?? slopes,
      undefined,
    );
  }

  moveBiases(counts: readonly ArrayLike<number>[]): void {
    for (const [layer, gate] of this.#gates.entries()) {
      if (gate?.bias === undefined) continue;
      for (const { hook, numbers } of having(this.#settings, "bias")) {
        const moved = hook({ rows: Array.from(counts[layer] ?? []), topK: gate.topK }, numbers);
        for (const [expert, by] of moved.entries()) gate.bias[expert] = (gate.bias[expert] as number) + by;
      }
    }
  }
}

export interface BalancedModel {
  readonly program: ModelProgram;
  readonly dense: readonly Unit[];
  readonly parameters: Float32Array;
}

interface MicroBatchBalance {
  readonly gradients: Gradients;
  readonly loss: number;
}

function microBatchBalance({ op, logits }: Gate, kept: Values, slopes: Float64Array): MicroBatchBalance {
  const tensor = kept[logits] as Tensor;
  const { rows, width } = matrix(tensor);
  const found = new Float32Array(rows * width);
  let loss = 0;
  for (let row = 0; row < rows; row++) {
    const shares = kernelOf(op).shares?.(op, floats(tensor).subarray(row * width, (row + 1) * width));
    if (shares === undefined) continue;
    for (const [expert, share] of shares.values.entries()) loss += share * (slopes[expert] as number);
    found.set(shares.gradient(slopes), row * width);
  }
  return { gradients: { [logits]: found }, loss };
}
