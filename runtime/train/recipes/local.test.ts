// Recipes of local steps: their arithmetic as WebAssembly against its definition, and that worlds of unlike data meet
// at the optimum of all of them, where averaging alone stays away from it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { gaussian } from "../../kernels/random.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import { optimizerSettings } from "../optimizers/index.ts";
import { createKernel } from "../optimizers/kernel.ts";
import { arithmeticOf } from "../optimizers/open.ts";
import { OptimizerState } from "../optimizers/state.ts";
import type { Shape } from "../ranks/model-shape.ts";
import { UnitState } from "../ranks/unit-state.ts";
import { contextInWorld } from "../worlds/group.ts";
import { Outer, type Share } from "../worlds/outer.ts";
import { having, localSteps, parseRecipes } from "./index.ts";

const bitsOf = (data: Float32Array): Uint32Array => new Uint32Array(data.slice().buffer);

for (const name of ["adamw", "sgd"] as const)
  test(`${name} with corrected gradients has the bits of its definition`, () => {
    const asked = optimizerSettings(name, { "weight-decay": 0.1 });
    const optimizer = arithmeticOf({ optimizer: asked, recipes: parseRecipes({ local: "fedspeed:20:0.3:0" }) });
    assert.deepEqual(optimizer.state.slice(-2), ["anchor", "pull"]);
    const kernel = createKernel(optimizer, 64, 64);
    const plain = Object.fromEntries(["p", "g", ...optimizer.state].map((array) => [array, new Float32Array(64)]));
    for (const [i, array] of [kernel.p, ...kernel.state].entries()) array.set(gaussian(i, 64).map(Math.abs));
    for (const [i, array] of ["p", ...optimizer.state].entries()) plain[array]!.set(gaussian(i, 64).map(Math.abs));
    for (let step = 1; step <= 20; step++) {
      for (const { g } of [plain, kernel]) g!.set(gaussian(100 + step, 64));
      const numbers = optimizer.stepNumbers(asked.values, { step, rate: 1e-2, clip: 0.7, decays: step % 2 === 0 });
      optimizer.plain(plain, 4, 60, numbers);
      kernel.step({ from: 4, to: 60, state: 4 }, numbers);
      assert.deepEqual(bitsOf(kernel.p), bitsOf(plain.p!));
      for (const [i, array] of optimizer.state.entries()) assert.deepEqual(bitsOf(kernel.state[i]!), bitsOf(plain[array]!), array);
    }
  });

const [worlds, floats] = [5, 16];

const parameter = { name: "w", tensor: "w", shape: [floats], from: 0, to: floats, size: floats, decays: false };
/** One dense unit, which one rank owns. */
const shape: Shape = {
  dense: [{ expert: undefined, from: 0, to: floats, parameters: [parameter] }],
  denseFloats: floats,
  pieces: [{ from: 0, to: floats, owner: 0 }],
  experts: [],
  expertFloats: 0,
  slices: 1,
};

/** Worlds whose losses are quadratics with minima and curvatures of their own: the square distance of all from the minimum of the sum. */
async function distance(text: string, rounds: number) {
  const recipes = parseRecipes({ local: text });
  const [meeting] = having(recipes, "meeting");
  const local = localSteps(recipes)!;
  const asked = optimizerSettings("sgd", { beta1: 0 });
  const curvature = Array.from({ length: worlds }, (_, i) => gaussian(10 + i, floats).map((value) => 0.2 + Math.abs(value)));
  const minimum = Array.from({ length: worlds }, (_, i) => gaussian(50 + i, floats));
  const sum = (of: (world: number) => number): number => curvature.reduce((all, _, world) => all + of(world), 0);
  const optimum = Float64Array.from(
    { length: floats },
    (_, j) => sum((i) => curvature[i]![j]! * minimum[i]![j]!) / sum((i) => curvature[i]![j]!),
  );
  const hub = new Loopback(worlds);
  const facts = { node: new Array<number>(worlds).fill(0), speed: new Array<number>(worlds).fill(1) };
  const states = await Promise.all(
    curvature.map(async (own, world) => {
      const whole = OptimizerState.resident(arithmeticOf({ optimizer: asked, recipes }), floats);
      const state = new UnitState(shape, 0, whole);
      const { group } = contextInWorld({ transport: hub.transport(world), world: 1, facts }, worlds);
      const outer = new Outer({ group: group!, meeting: meeting!, epoch: 1, alike: text });
      const units = [{ layer: -1, expert: undefined, from: 0, to: floats, chunk: 0 }];
      const share: Share = { units, primaries: [0], rank: 0, state, spread: async () => {} };
      await outer.begin(share);
      for (let step = 1; step <= rounds * local; step++) {
        whole.g.set(own.map((curve, j) => curve * (whole.p[j]! - minimum[world]![j]!)));
        await state.update(asked.values, { step, rate: 0.05, clip: 1 });
        if (step % local === 0) assert.ok(await outer.meet(step, share));
        else await outer.made(step);
      }
      return whole;
    }),
  );
  for (const { p } of states) assert.deepEqual(p, states[0]!.p);
  const far = Math.sqrt(states[0]!.p.reduce((all, value, j) => all + (value - optimum[j]!) ** 2, 0));
  return { far, received: hub.takeTraffic(0, "outer").received, p: states[0]!.p };
}

test("after 150 rounds of 20 steps FedSpeed is at the optimum of all worlds; averages stay away from it", async () => {
  const [speed, average] = [await distance("fedspeed:20:1:0", 150), await distance("fedavg:20", 150)];
  assert.ok(speed.far < 1e-5, `FedSpeed ends ${speed.far} away`);
  assert.ok(average.far > 0.1, `FedAvg ends ${average.far} away`);
});

test("the same rounds again have the same bits", async () => {
  assert.deepEqual((await distance("fedspeed:5:1:0", 3)).p, (await distance("fedspeed:5:1:0", 3)).p);
});

test("a meeting moves the model once to each other world, whatever steps it had", async () => {
  for (const text of ["fedavg:20", "fedspeed:20:1:0", "fedspeed:5:1:0"])
    assert.equal((await distance(text, 3)).received, 3 * 4 * floats * (worlds - 1), text);
});
