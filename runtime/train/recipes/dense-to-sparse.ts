// dense-to-sparse: the gate of EvoMoE. A token begins with all experts; the temperature falls to 1, and with it the number of experts whose
// share is above the threshold; from a step on they are the model's own top-k. Without the paper's noise, whose place the mask of a spawn
// has: a token's experts follow from its row alone. Pure.
import type { ModelProgram, MoeLayer, Op } from "../../kernels/segment.ts";
import type { GateRecipe } from "../gates/gate.ts";
import { refuseGate } from "../gates/refuse.ts";

const schedule = "dense_to_sparse.schedule";
const temperatureMax = 1000;

type Numbers = readonly [temperature: number, threshold: number, until: number];

/** The layer with its gate replaced; undefined where that is no softmax of the chosen, or experts that cost nothing are there already. */
function softened(layer: MoeLayer): MoeLayer | undefined {
  const { experts, free, block } = layer;
  const route = block.ops.find((op): op is Extract<Op, { op: "route" }> => op.op === "route" && op.normalize);
  if (route === undefined || free !== undefined) return undefined;
  const { logits, ids, gates } = route;
  const soft: Op = { op: "softRoute", logits, schedule, experts, ids, gates };
  const wide = new Set([ids, gates]);
  return {
    ...layer,
    topK: experts,
    // A place of a token that has fewer experts is given to one that is none.
    free: { count: 1, balanceWeight: 1 },
    block: {
      ...block,
      outputs: block.outputs.map((output) => (wide.has(output.name) ? { ...output, width: experts } : output)),
      weights: [...block.weights, { name: schedule, shape: [3], frozen: true }],
      ops: block.ops.map((op) => (op === route ? soft : op)),
    },
  };
}

const topKOf = ({ layers }: ModelProgram): number => layers.reduce((most, layer) => (layer.kind === "moe" ? layer.topK : most), 1);

export const denseToSparse: GateRecipe = {
  numbers: ["TEMPERATURE", "THRESHOLD", "STEP"],
  refuses({ numbers }, steps) {
    const [temperature, threshold, until] = numbers as Numbers;
    if (!(temperature >= 1 && temperature <= temperatureMax)) return `TEMPERATURE must be from 1 to ${temperatureMax}`;
    if (!(threshold >= 0 && threshold < 1)) return "THRESHOLD must be from 0 to below 1";
    if (!(Number.isInteger(until) && until >= 1)) return "STEP must be a whole number from 1";
    if (until > steps) return `STEP must be at most --steps (${steps}), since the run ends in the model's own gate`;
    return undefined;
  },
  attach(program, setting, after) {
    const [temperature, threshold, until] = setting.numbers as Numbers;
    if (until <= after) throw refuseGate(setting, `STEP must be above that of --spawn, ${after}`);
    const most = Math.max(...program.layers.map((layer) => (layer.kind === "moe" ? layer.experts : 0)));
    if (most < 2) throw refuseGate(setting, "the model has no experts to choose among; leave it out");
    const layers = program.layers.map((layer) => {
      if (layer.kind === "dense") return layer;
      const soft = softened(layer);
      if (soft !== undefined) return soft;
      throw refuseGate(setting, `gates of family ${program.family} are no softmax of the chosen experts; train a Mixtral`);
    });
    return {
      program: { ...program, layers },
      schedule,
      numbersAt(step) {
        if (step > until) return [1, 0, topKOf(program)];
        return [temperature ** (1 - Math.max(0, step - 1 - after) / Math.max(1, until - 1 - after)), threshold, most];
      },
    };
  },
};
