// spawn (EvoMoE): a run begins with one expert per layer; after a step the model's experts are replicas of it, each partly masked.
import { checkProgram } from "../../kernels/check-program.ts";
import { uniform } from "../../kernels/random.ts";
import { movedTo, type Unit } from "../model/layout.ts";
import type { ModelSource } from "../model/model-source.ts";
import { wholeModel } from "../model/trained-model.ts";
import { type Births, fraction, type Numbers, type Recipe, type Staged, type UnitArrays, whole } from "./recipe.ts";

const counts = ["num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok"];

export function seedModel(source: ModelSource, refuse: Staged["refuse"]): ModelSource {
  const most = (of: ModelSource["program"]): number =>
    of.layers.reduce((experts, layer) => (layer.kind === "moe" ? Math.max(experts, layer.experts) : experts), 0);
  if (most(source.program) < 2) return refuse("the model has no layer with several experts; leave it out");
  const config = Object.fromEntries(Object.entries(source.config).map(([field, value]) => [field, counts.includes(field) ? 1 : value]));
  const program = singleOf(source, config);
  if (program !== undefined && most(program) === 1) return { ...source, config, program };
  return refuse(`family ${source.program.family} cannot have a single expert; train a Mixtral`);
}

function singleOf({ family }: ModelSource, config: ModelSource["config"]): ModelSource["program"] | undefined {
  try {
    const program = family.program(config);
    checkProgram(program);
    return program;
  } catch {
    return undefined;
  }
}

/**
 * The parent is the layer's only expert, or the same unit outside the experts. Masked weights have no moments; drawn ones begin with
 * none.
 */
export function spawned(parent: UnitArrays, child: Unit, { stored, draw, seedOf }: Births, { mask = 0 }: Numbers): Float32Array {
  const [from, to] = [movedTo(parent.unit, 0), movedTo(child, 0)];
  const found = new Float32Array(stored * to.to);
  for (const own of to.parameters) {
    const old = from.parameters.find(({ name, size }) => name === own.name && size === own.size);
    if (old === undefined) {
      found.set(draw(own), own.from);
      continue;
    }
    const masked = child.expert !== undefined && own.shape.length > 1;
    for (let array = 0; array < stored; array++) {
      const values = parent.values.subarray(array * from.to + old.from, array * from.to + old.from + old.size);
      found.set(masked ? maskedValues(values, mask, seedOf(own.tensor)) : values, array * to.to + own.from);
    }
  }
  return found;
}

function maskedValues(values: Float32Array, mask: number, seed: number): Float32Array {
  const next = uniform(seed);
  return values.map((value) => (next() < mask ? 0 : value));
}

export const spawn: Recipe = {
  option: "spawn",
  unnamed: true,
  /** The last step with one expert, and the masked part of an expert's weights. */
  numbers: { step: whole(1), mask: fraction },
  refuses({ step = 0 }, { steps, init, beside }) {
    if (step >= steps) return `STEP must be from 1 to below --steps (${steps})`;
    if (init !== "random") return `--init is ${init}, and a model that is there has its experts; give --init random`;
    if (beside("adapters")) return "adapters are trained beside a model that stays: leave one of the two out";
    return undefined;
  },
  model: (source, _numbers, { stage, refuse }) => (stage === 0 ? wholeModel(seedModel(source, refuse)) : undefined),
  birth: { step: ({ step = 0 }) => step, born: spawned },
};
