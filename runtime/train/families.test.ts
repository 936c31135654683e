// Every family is trained: the gradient of its whole network, experts, gates and ends, is the slope of its loss, with and without losses
// of balance.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { createTraining } from "../compute/open-training.ts";
import { randomIds } from "../kernels/random.ts";
import { widthInto } from "../kernels/widths.ts";
import { familyOf } from "../models/index.ts";
import { Balancing } from "./balancing.ts";
import { layoutOf } from "./layout.ts";
import { keptFloats, Network } from "./network.ts";
import { parseBalance } from "./recipes/index.ts";
import { openStart } from "./start.ts";

const golden = join(import.meta.dirname, "../../test/golden");
const backend = await createTraining({ threads: 1 });
after(() => backend.close());

const sequenceLength = 12;
/** Of a step along the gradient: so small that tokens keep their experts. */
const step = 2e-4;

/** So high a rate that the slope of the loss of balance is as steep as the other's. */
const recipes = ["", "switch:1,device:0.5:2"];
const cases = globSync("{tiny-f32,families/*}/config.json", { cwd: golden }).flatMap((path) => {
  const config = JSON.parse(readFileSync(join(golden, path), "utf8")) as Record<string, unknown>;
  const hasExperts = familyOf(config)
    .program(config)
    .layers.some(({ kind }) => kind === "moe");
  return recipes.slice(0, hasExperts ? undefined : 1).map((recipe) => ({ path, config, recipe }));
});

for (const { path, config, recipe } of cases) {
  const dir = join(golden, dirname(path));
  test(`${dirname(path)}${recipe && `, ${recipe}`}: the loss falls along the gradient as its length says`, async () => {
    const family = familyOf(config);
    const program = family.program(config);
    const layout = layoutOf(program, family.expertTensors);
    const [parameters, gradients] = [new Float32Array(layout.floats), new Float32Array(layout.floats)];
    const source = { dir, config, family, program, files: new Map(), tokenizerDigest: "" };
    const weights = await openStart(source, { init: "checkpoint", seed: 1, initCodec: undefined });
    await weights.fill(layout, parameters);
    await weights.close();
    const network = await Network.open(backend, { program, layout, parameters, gradients, sequenceLength });
    const rows = 4 * sequenceLength;
    const ids = (seed: number): Int32Array => randomIds(seed, rows, program.vocab).data as Int32Array;
    const lane = { inputs: ids(7), targets: ids(8) };
    const balancing = new Balancing(parseBalance(recipe), { program, layout, parameters });
    const lossOf = async (): Promise<number> => {
      const [losses] = await network.addGradients([lane], 1 / rows, balancing);
      return losses!.reduce((sum, loss) => sum + loss, 0) / rows + balancing.takeLoss();
    };

    const [losses] = await network.addGradients([lane], 1 / rows, balancing);
    network.finishGradients();
    assert.equal(balancing.takeLoss() > 0, balancing.wholeStep);
    assert.deepEqual(await network.losses(lane), losses);
    for (const [i, layer] of network.layers.entries()) {
      const { kept } = await layer.forward(new Float32Array(rows * widthInto(program.layers[i]!)).fill(0.1));
      const held = Object.values(kept).reduce((sum, { data }) => sum + data.length, 0);
      assert.equal(held, rows * keptFloats(program.layers[i]!), "what the check of memory reckons with");
    }
    const found = gradients.slice();
    const length = Math.sqrt(found.reduce((sum, value) => sum + value * value, 0));
    const start = parameters.slice();
    const at = async (along: number): Promise<number> => {
      for (const [i, value] of start.entries()) parameters[i] = value + (along * found[i]!) / length;
      return lossOf();
    };
    const slope = ((await at(step)) - (await at(-step))) / (2 * step);
    assert.ok(Math.abs(slope - length) <= 0.01 * length, `slope ${slope}, length of the gradient ${length}`);
  });
}
