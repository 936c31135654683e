// Layers whose rows carry more, with several attentions, or with experts that cost nothing, over ranks: the bits are those of one rank,
// losses of balance among them, and frames have the rows of experts that compute and no others.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { World, type WorldOptions } from "../../../test/kit/training/local-ranks.ts";
import { tinyModel } from "../../../test/kit/training/training.ts";
import { testFssdp, testLearning } from "../../../test/kit/training/training-ranks.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import { familyOf } from "../../models/index.ts";
import { layoutOf, unitsOf } from "../model/layout.ts";
import { parseRecipes } from "../recipes/index.ts";

const configOf = (family: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(tinyModel.dir, "../families", family, "config.json"), "utf8")) as Record<string, unknown>;
const sequenceLength = 8;

interface Run {
  readonly config: Readonly<Record<string, unknown>>;
  readonly ranks: number;
  readonly microBatches?: number;
  /** Of eight: those of a batch that is cut off. */
  readonly sequences?: number;
  readonly steps?: number;
  /** Changes the first parameters. */
  readonly change?: (tensor: string, values: Float32Array) => void;
}

const exchanges = ["rows", "outputs", "gradients", "row gradients"];

async function run({ config, ranks, microBatches = 4, sequences = 8, steps = 2, change }: Run) {
  const family = familyOf(config);
  const program = family.program(config);
  const layout = layoutOf(program, family.expertTensors);
  const parameters = gaussian(3, layout.floats, 0.1);
  for (const { tensor, from, size } of unitsOf(layout).flatMap((unit) => unit.parameters))
    change?.(tensor, parameters.subarray(from, from + size));
  const options: WorldOptions = {
    program,
    layout,
    facts: { node: Array.from({ length: ranks }, (_, rank) => rank), speed: new Array<number>(ranks).fill(1) },
    fssdp: { ...testFssdp, planner: "ep", microBatchesAtOnce: microBatches },
    microBatches,
    sequences,
    sequenceLength,
    ...testLearning,
    recipes: parseRecipes({ balance: "switch:0.1" }),
    threads: 1,
  };
  const world = await World.open(options, parameters);
  try {
    const reports = [];
    for (let step = 1; step <= steps; step++) {
      const rows = (sequences * sequenceLength) / microBatches;
      const [inputs, targets] = [0, 50].map((seed) => randomIds(100 * step + seed, 8 * sequenceLength, program.vocab).data as Int32Array);
      const batch = Array.from({ length: microBatches }, (_, microBatch) => ({
        inputs: inputs!.slice(microBatch * rows, (microBatch + 1) * rows),
        targets: targets!.slice(microBatch * rows, (microBatch + 1) * rows),
      }));
      reports.push(await world.step(step, batch));
    }
    const digest = createHash("sha256").update(new Uint8Array(world.parameters().buffer)).digest("hex");
    const sent = exchanges.map((what) => world.ranks.map((_, rank) => world.hub.takeTraffic(rank, what).sent));
    return { digest, reports, sent, hidden: program.hidden };
  } finally {
    await world.close();
  }
}

for (const family of ["moe-plus-plus", "momentum-smoe", "rmoe", "bam"])
  test(`${family}: two and three ranks have the bits of one`, async () => {
    const config = configOf(family);
    const alone = await run({ config, ranks: 1 });
    for (const ranks of [2, 3]) {
      const among = await run({ config, ranks });
      assert.equal(among.digest, alone.digest);
      const losses = ({ reports }: typeof alone) => reports.map(({ loss, balanceLoss }) => [loss, balanceLoss]);
      assert.deepEqual(losses(among), losses(alone));
      assert.ok(among.sent.flat().every((bytes) => bytes > 0));
    }
  });

test("a rank sends the rows of experts that compute elsewhere, to the byte, and none of free ones", async () => {
  const config = configOf("moe-plus-plus");
  const both = await run({ config, ranks: 2, microBatches: 2, steps: 1 });
  // The first rank's micro-batch alone, as one rank has it.
  const first = await run({ config, ranks: 1, microBatches: 1, sequences: 4, steps: 1 });
  const [{ rows }, { primaries }] = [first.reports[0]!, both.reports[0]!];
  const away = rows.reduce(
    (sum, of, layer) => sum + Array.from(of).reduce((all, n, e) => all + (primaries[layer]![e] === 1 ? n : 0), 0),
    0,
  );
  assert.equal(both.sent[0]![0], 4 * both.hidden * away);
  const chosen = 3 * 3 * 4 * sequenceLength; // three layers, three experts a token
  const computed = rows.reduce((sum, of) => sum + Array.from(of).reduce((all, n) => all + n, 0), 0);
  assert.ok(computed < 0.9 * chosen, "hardly a free expert is chosen, so this test could not fail");
});

test("where every token chooses free experts, no rank sends a byte of rows", async () => {
  const config = { ...configOf("moe-plus-plus"), num_experts_per_tok: 1, gating_residual: false };
  /** Of two free experts with opposite scores one is above those of all that compute, which are 0. */
  const change = (tensor: string, values: Float32Array): void => {
    if (!tensor.endsWith("mlp.gate.weight")) return;
    const width = values.length / 12;
    values.fill(0, 0, 10 * width);
    values.set(
      values.subarray(10 * width, 11 * width).map((value) => -value),
      11 * width,
    );
  };
  const free = await run({ config, ranks: 2, steps: 1, change });
  assert.deepEqual(free.sent.flat(), new Array<number>(8).fill(0));
  assert.ok(free.reports[0]!.rows.every((of) => Array.from(of).every((rows) => rows === 0)));
});
