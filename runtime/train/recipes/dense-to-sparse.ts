// dense-to-sparse (EvoMoE's gate): a token begins with all experts; as the temperature falls to 1 only those above a threshold remain,
// and from a step on the model's top-k. The spawn mask replaces the paper's noise.
import type { ModelProgram, MoeLayer, Op } from "../../kernels/segment.ts";
import { gatedModel } from "../model/trained-model.ts";
import { fraction, type Recipe, whole } from "./recipe.ts";

const schedule = "dense_to_sparse.schedule";
const temperatureMax = 1000;

/** The layer with its gate replaced; undefined for another gate than a softmax of the chosen, and for layers with free experts. */
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
    // A token with fewer experts fills its slots with the free one.
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

export const denseToSparse: Recipe = {
  option: "gate",
  numbers: {
    temperature: { allows: (value) => value >= 1 && value <= temperatureMax, must: `from 1 to ${temperatureMax}` },
    threshold: fraction,
    step: whole(1),
  },
  refuses({ step: until = 0 }, { steps, beside }) {
    if (until > steps) return `STEP must be at most --steps (${steps}), since the run ends in the model's own gate`;
    const after = beside("spawn")?.step ?? 0;
    if (until <= after) return `STEP must be above that of --spawn, ${after}`;
    if (beside("adapters")) return "adapters have the gate of their own: leave one of the two out";
    return undefined;
  },
  model(source, { temperature = 1, threshold = 0, step: until = 1 }, { after, refuse }) {
    const { program } = source;
    const most = Math.max(...program.layers.map((layer) => (layer.kind === "moe" ? layer.experts : 0)));
    if (most < 2) refuse("the model has no experts to choose among; leave it out");
    const layers = program.layers.map((layer) => {
      if (layer.kind === "dense") return layer;
      return softened(layer) ?? refuse(`gates of family ${program.family} are no softmax of the chosen experts; train a Mixtral`);
    });
    const numbersAt = (step: number): readonly number[] => {
      if (step > until) return [1, 0, topKOf(program)];
      return [temperature ** (1 - Math.max(0, step - 1 - after) / Math.max(1, until - 1 - after)), threshold, most];
    };
    return gatedModel(source, { program: { ...program, layers }, schedule, numbersAt }, after + 1);
  },
};
