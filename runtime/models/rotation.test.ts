// YaRN's frequencies against those of transformers for published configs. That models turn rightly by them is shown by
// test/contract/golden-families.ts.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { rotationOf } from "./rotation.ts";

interface Golden {
  readonly magic: string;
  readonly version: number;
  readonly remake: string;
  readonly tables: readonly {
    readonly dims: number;
    readonly context: number;
    readonly parameters: Readonly<Record<string, number | boolean>>;
    readonly bits: readonly number[];
    readonly factor: number;
  }[];
}

const golden = JSON.parse(readFileSync(join(import.meta.dirname, "../../test/golden/rotations.json"), "utf8")) as Golden;
assert.deepEqual([golden.magic, golden.version], ["enodia-golden", 1], `remake with ${golden.remake}`);

test("YaRN's frequencies are those of transformers, but for two units in the last place, and its factor is", () => {
  for (const { dims, context, parameters, bits, factor } of golden.tables) {
    const config = { max_position_embeddings: context, rope_scaling: { rope_type: "yarn", ...parameters } };
    const rotation = rotationOf(config, dims, { ropeBase: 1, yarn: true });
    assert.ok(Math.abs(rotation.factor - factor) < 1e-12, `factor ${rotation.factor}, not ${factor}`);
    const got = new Int32Array(Float32Array.from(rotation.frequencies).buffer);
    const units = bits.map((want, i) => Math.abs(want - got[i]!));
    assert.ok(Math.max(...units) <= 2, `${JSON.stringify(parameters)}: ${units}`);
    assert.ok(units.filter((off) => off > 0).length <= dims / 16, `${JSON.stringify(parameters)}: ${units}`);
  }
});

test("a factor that is left out is the ratio of the contexts; DeepSeek's scores are sharpened by mscale_all_dim", () => {
  const rope = { rope_type: "yarn", original_max_position_embeddings: 4096, mscale: 1, mscale_all_dim: 1 };
  const config = { max_position_embeddings: 4 * 4096, rope_scaling: rope };
  const { factor, sharpening, frequencies } = rotationOf(config, 64, { ropeBase: 1e4, yarn: true });
  assert.deepEqual([factor, sharpening], [1, (0.1 * Math.log(4) + 1) ** 2]);
  assert.deepEqual(
    rotationOf({ ...config, rope_scaling: { ...rope, factor: 4 } }, 64, { ropeBase: 1e4, yarn: true }).frequencies,
    frequencies,
  );
});
