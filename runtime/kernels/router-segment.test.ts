// Routers by themselves, of every family that has a golden checkpoint: on a layer's own rows they choose what the layer chooses.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { modelOf } from "../../test/kit/models/golden-files.ts";
import { kvOf } from "../../test/kit/models/small-engine.ts";
import { createBackend } from "../compute/index.ts";
import { openCheckpoint } from "../weights/checkpoint.ts";
import { uniform } from "./random.ts";
import { routerSegment } from "./router-segment.ts";

const families = resolve(import.meta.dirname, "../../test/golden/families");
/** Their gates read what a row carries from layer to layer. */
const withMemory = ["moe-plus-plus", "rmoe"];
const rows = 5;

for (const family of readdirSync(families))
  test(`${family}: the router alone chooses what its layer chooses, and more behind it`, async () => {
    const backend = await createBackend("reference", { threads: 1 });
    const checkpoint = await openCheckpoint(join(families, family));
    try {
      const { program, weights } = modelOf(join(families, family), checkpoint);
      const cache = await backend.createKv({ ...kvOf(program), slots: 1, context: 8 });
      const draw = uniform(3);
      for (const [at, layer] of program.layers.entries()) {
        if (layer.kind !== "moe") continue;
        const wide = Math.min(layer.experts, layer.topK + 1);
        const router = routerSegment(layer, wide);
        if (withMemory.includes(family) && at > 0) {
          assert.equal(router, undefined);
          continue;
        }
        assert.ok(router, `layer ${at}`);
        const [input] = router.inputs;
        assert.ok(input);
        const outputs = [{ name: "ids", dtype: "i32" as const, width: layer.topK }, input];
        const block = await backend.compile({ ...layer.block, outputs }, await weights(layer.block));
        const width = layer.block.inputs[0]?.width as number;
        const x = { shape: [rows, width], data: Float32Array.from({ length: rows * width }, () => draw() - 0.5) };
        const groups = [{ firstSlot: 0, batch: 1, tokens: rows, past: Int32Array.of(0) }];
        const own = await block.run({ x }, { cache, groups });
        const alone = await (await backend.compile(router, await weights(router))).run({ [input.name]: own[input.name]! });
        const each = alone.ids!.data.length / rows;
        assert.equal(each, router.outputs[0]?.width);
        for (let row = 0; row < rows; row++)
          assert.deepEqual(
            [...alone.ids!.data.subarray(row * each, row * each + layer.topK)],
            [...own.ids!.data.subarray(row * layer.topK, (row + 1) * layer.topK)],
          );
      }
    } finally {
      await checkpoint.close?.();
      await backend.close();
    }
  });
