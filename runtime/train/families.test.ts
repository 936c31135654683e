// Every family is trained: the gradient of its whole network, experts, gates and ends, is the slope of its loss.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { createTraining } from "../compute/open-training.ts";
import { randomIds } from "../kernels/random.ts";
import { familyOf } from "../models/index.ts";
import { layoutOf } from "./layout.ts";
import { Network } from "./network.ts";
import { openStart } from "./start.ts";

const golden = join(import.meta.dirname, "../../test/golden");
const backend = await createTraining({ threads: 1 });
after(() => backend.close());

const sequenceLength = 12;
/** Of a step along the gradient: so small that tokens keep their experts. */
const step = 2e-4;

for (const path of globSync("{tiny-f32,families/*}/config.json", { cwd: golden })) {
  const dir = join(golden, dirname(path));
  test(`${dirname(path)}: the loss falls along the gradient as its length says`, async () => {
    const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8")) as Record<string, unknown>;
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
    const lane = { inputs: ids(5), targets: ids(6) };
    const lossOf = async (): Promise<number> => (await network.losses(lane)).reduce((sum, loss) => sum + loss, 0) / rows;

    const [losses] = await network.addGradients([lane], 1 / rows);
    network.finishGradients();
    assert.deepEqual(await network.losses(lane), losses);
    const length = Math.sqrt(gradients.reduce((sum, value) => sum + value * value, 0));
    const start = parameters.slice();
    const at = async (along: number): Promise<number> => {
      for (const [i, value] of start.entries()) parameters[i] = value + (along * gradients[i]!) / length;
      return lossOf();
    };
    const slope = ((await at(step)) - (await at(-step))) / (2 * step);
    assert.ok(Math.abs(slope - length) <= 0.01 * length, `slope ${slope}, length of the gradient ${length}`);
  });
}
