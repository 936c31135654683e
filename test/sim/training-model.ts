// The model of training in the simulation: a layout of a few units, gradients that follow from unit and step alone, and by them
// the state of every step as it has to be, by the plain definition of the optimizer.
import type { Layout, Unit } from "../../runtime/train/model/layout.ts";
import { optimizerOf } from "../../runtime/train/optimizers/index.ts";
import { plainSquares } from "../../runtime/train/optimizers/kernel.ts";
import type { StepFacts } from "../../runtime/train/optimizers/optimizer.ts";
import { type Shape, type StateUnit, shapeOf, stateUnits } from "../../runtime/train/ranks/model-shape.ts";
import type { UnitState } from "../../runtime/train/ranks/unit-state.ts";
import { floatsIn, stateFields, type WholeState } from "../kit/training/training-state.ts";

export const steps = 30;
const [layers, experts, expertFloats, denseFloats] = [2, 6, 8, 8];
/** Three pieces, the last of them short. */
const embedFloats = 2 * 4096 + 8;

function layout(): Layout {
  let at = 0;
  const unit = (floats: number, expert?: number): Unit => {
    const [from, to] = [at, at + floats];
    at = to;
    return { expert, from, to, parameters: [{ name: "w", tensor: "w", shape: [floats], from, to, size: floats, decays: false }] };
  };
  const part = (name: string, units: readonly Unit[]): Layout["parts"][number] => ({ name, units, frozen: {}, expertFrozen: {} });
  const parts = [part("embed", [unit(embedFloats)])];
  for (let layer = 0; layer < layers; layer++)
    parts.push(part(`layer-${layer}`, [unit(denseFloats), ...Array.from({ length: experts }, (_, expert) => unit(expertFloats, expert))]));
  parts.push(part("head", [unit(denseFloats)]));
  return { parts, floats: at, parameters: at };
}

export const simLayout = layout();
export const simShape = (ranks: number): Shape => shapeOf(simLayout, ranks);
export const simUnits: readonly StateUnit[] = stateUnits(simShape(1));

/** A unit's gradient in a step. */
export function fillGradient(g: Float32Array, unit: number, step: number): void {
  for (let i = 0; i < g.length; i++) g[i] = (((unit + 1) * 31 + step * 17 + i * 7) % 101) / 64 - 0.75;
}

export const simOptimizer = { name: "adamw", values: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0 } } as const;

/** What a step does, by the norms that ranks say. */
export function simFacts(step: number, norms: Float64Array): Omit<StepFacts, "decays"> {
  const norm = Math.sqrt(norms.reduce((sum, square) => sum + square, 0));
  return { step, rate: 0.01, clip: 1 / norm };
}

const states: WholeState[] = [];

/** The state after each step. */
export function stateAt(step: number): WholeState {
  const known = states[step];
  if (known !== undefined) return known;
  const before = step === 0 ? undefined : stateAt(step - 1).state;
  const next = (field: (typeof stateFields)[number]): Float32Array => before?.[field].slice() ?? new Float32Array(simLayout.floats);
  const state = { p: next("p"), m: next("m"), v: next("v") };
  if (before !== undefined) {
    const gradients = simUnits.map(({ from, to }, unit) => {
      const g = new Float32Array(to - from);
      fillGradient(g, unit, step);
      return g;
    });
    const norms = Float64Array.from(gradients, (g) => plainSquares(g, 0, g.length));
    const { plain, stepNumbers } = optimizerOf(simOptimizer);
    const numbers = stepNumbers(simOptimizer.values, { ...simFacts(step, norms), decays: false });
    for (const [i, unit] of simUnits.entries()) {
      const part = (field: (typeof stateFields)[number]): Float32Array =>
        floatsIn(state[field], unit, { shape: simShape(1), layout: simLayout });
      plain({ p: part("p"), m: part("m"), v: part("v"), g: gradients[i]! }, 0, unit.to - unit.from, numbers);
    }
  }
  states[step] = { step, state };
  return states[step];
}

/** Units of a store that have not the bits of the step. */
export async function wrongUnits(store: UnitState, step: number): Promise<number[]> {
  const { state } = stateAt(step);
  const wrong = new Set<number>();
  for (const [i, unit] of simUnits.entries())
    for (const field of store.holds(unit) ? stateFields : []) {
      const right = floatsIn(state[field], unit, { shape: simShape(1), layout: simLayout });
      const found = await store.whole(unit, field);
      if (!found.every((value, at) => value === right[at])) wrong.add(i);
    }
  return [...wrong];
}
