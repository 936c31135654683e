// The spawn of EvoMoE: a run begins with one expert in each layer, and after a step the model's experts are copies of it, each with a part
// of its weights masked. What they become follows from the one's state and the seed alone, so that ranks and stops change nothing. Pure.
import { AppError } from "../../../crds/common.ts";
import { checkProgram } from "../../kernels/check-program.ts";
import { uniform } from "../../kernels/random.ts";
import { movedTo, type Unit } from "../model/layout.ts";
import type { ModelSource } from "../model/model-source.ts";

export interface SpawnSetting {
  /** The last step with one expert. */
  readonly step: number;
  /** The part of an expert's weights that becomes zero. */
  readonly mask: number;
  /** Ranks that may come once it is done; unset: none but those there are. */
  readonly ranks?: number;
}

export const spawnUsage = "STEP:MASK";

/** As a run's identity has it: what its bits depend on. */
export const spawnText = ({ step, mask }: SpawnSetting): string => `${step}:${mask}`;

export function refuseSpawn(setting: SpawnSetting | string, reason: string): AppError {
  const text = typeof setting === "string" ? setting : spawnText(setting);
  return new AppError(`--spawn is "${text}"; ${reason}`, { code: "BadOption", operation: "reading the settings of a run" });
}

/** The line's text as a setting; undefined of "". Throws AppError `BadOption`. */
export function parseSpawn(text: string): SpawnSetting | undefined {
  if (text.trim() === "") return undefined;
  const numbers = text.split(":").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  const [step = Number.NaN, mask = Number.NaN] = numbers;
  if (numbers.length !== 2 || numbers.some(Number.isNaN)) throw refuseSpawn(text, `it is written as ${spawnUsage}`);
  return { step, mask };
}

/** Throws AppError `BadOption`. */
export function checkSpawn(setting: SpawnSetting, { steps, init }: { readonly steps: number; readonly init: string }): void {
  const { step, mask } = setting;
  if (!(Number.isInteger(step) && step >= 1 && step < steps)) throw refuseSpawn(setting, `STEP must be from 1 to below --steps (${steps})`);
  if (!(mask >= 0 && mask < 1)) throw refuseSpawn(setting, "MASK must be from 0 to below 1");
  if (init !== "random") throw refuseSpawn(setting, `--init is ${init}, and a model that is there has its experts; give --init random`);
}

/** Fields of config.json that count experts. */
const counts = ["num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok"];

/** The model with one expert in each layer that has some. Throws AppError `BadOption` where it has none, or cannot have one alone. */
export function seedModel(source: ModelSource, setting: SpawnSetting): ModelSource {
  const most = (of: ModelSource["program"]): number =>
    of.layers.reduce((experts, layer) => (layer.kind === "moe" ? Math.max(experts, layer.experts) : experts), 0);
  if (most(source.program) < 2) throw refuseSpawn(setting, "the model has no layer with several experts; leave it out");
  const config = Object.fromEntries(Object.entries(source.config).map(([field, value]) => [field, counts.includes(field) ? 1 : value]));
  const program = singleOf(source, config);
  if (program !== undefined && most(program) === 1) return { ...source, config, program };
  throw refuseSpawn(setting, `family ${source.program.family} cannot have a single expert; train a Mixtral`);
}

/** Undefined where the family refuses it. */
function singleOf({ family }: ModelSource, config: ModelSource["config"]): ModelSource["program"] | undefined {
  try {
    const program = family.program(config);
    checkProgram(program);
    return program;
  } catch {
    return undefined;
  }
}

/** The state of a unit: parameters, then the optimizer's arrays, one after another. */
export interface UnitStates {
  readonly unit: Unit;
  readonly values: Float32Array;
}

export interface Born {
  /** Arrays of a unit. */
  readonly stored: number;
  readonly mask: number;
  /** First values of what has no parent: the gate's rows. */
  draw(parameter: Unit["parameters"][number]): Float32Array;
  /** Of the numbers that mask a tensor. */
  seedOf(tensor: string): number;
}

/** The state of a unit of the model with all experts, from that of the one that it is born of: the layer's only expert, or the same unit
 *  outside the experts. What is masked has no moments either; what is drawn begins with none. */
export function spawned(parent: UnitStates, child: Unit, { stored, mask, draw, seedOf }: Born): Float32Array {
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

/** The same places for the same seed. */
function maskedValues(values: Float32Array, mask: number, seed: number): Float32Array {
  const next = uniform(seed);
  return values.map((value) => (next() < mask ? 0 : value));
}
