// The model of training in the simulation: a layout of a few units, gradients that follow from unit and step alone, and by them
// the state of every step as it has to be, by the plain definition of the optimizer.
import { plainSquares, plainStep, type StepNumbers, stepNumbers } from "../../runtime/train/adamw.ts";
import type { Layout, Unit } from "../../runtime/train/layout.ts";
import { type Shape, type StateUnit, shapeOf, stateUnits } from "../../runtime/train/ranks/shape.ts";
import { stateFields, type UnitState } from "../../runtime/train/ranks/unit-state.ts";
import { floatsIn, type WholeState } from "../builders/training-state.ts";

export const steps = 12;
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

/** The numbers of a step by the norms that ranks say. */
export function simNumbers(step: number, tally: Float64Array): StepNumbers {
  const norm = Math.sqrt(tally.reduce((sum, square) => sum + square, 0));
  return stepNumbers({ beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0 }, step, 0.01, 1 / norm);
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
    const numbers = simNumbers(
      step,
      Float64Array.from(gradients, (g) => plainSquares(g, 0, g.length)),
    );
    for (const [i, unit] of simUnits.entries()) {
      const part = (field: (typeof stateFields)[number]): Float32Array =>
        floatsIn(state[field], unit, { shape: simShape(1), layout: simLayout });
      plainStep({ p: part("p"), m: part("m"), v: part("v"), g: gradients[i]! }, 0, unit.to - unit.from, numbers);
    }
  }
  states[step] = { step, state };
  return states[step];
}

/** Units of a store that have not the bits of the step. */
export function wrongUnits(store: UnitState, step: number): number[] {
  const { state } = stateAt(step);
  return simUnits.flatMap((unit, i) => {
    if (!store.holds(unit)) return [];
    const same = stateFields.every((field) => {
      const right = floatsIn(state[field], unit, { shape: simShape(1), layout: simLayout });
      return store.floats(unit, field).every((value, at) => value === right[at]);
    });
    return same ? [] : [i];
  });
}
