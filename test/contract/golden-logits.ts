// The tiny checkpoints below test/golden on a backend, Mixtral in f32, f16 and bf16, in one file and in parts, with a window, a tied head,
// one head of keys: logits, routes and greedy text must be those of Hugging Face transformers. Called by one test file per backend.
// How the goldens were made: test/golden/make_tiny.py. Not here: families, long texts and runs in f64 (golden-families.ts).
import assert from "node:assert/strict";
import { globSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import type { Backend } from "../../runtime/compute/backend.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import type { Checkpoint } from "../../runtime/weights/tensor-view.ts";
import { argmax, floatsOf, modelOf, readGolden } from "../kit/models/golden-files.ts";
import { type LoadedModel, loadModel } from "../kit/models/small-engine.ts";

const context = 64;

interface Golden {
  readonly magic: string;
  readonly version: number;
  readonly remake: string;
  readonly vocab: number;
  readonly cases: readonly {
    readonly text: string;
    readonly ids: readonly number[];
    readonly logits: string; // base64 LE f32 [ids, vocab]
    readonly routes: readonly (readonly (readonly number[])[])[]; // [layer][row][k] of ids + greedy but the last
    readonly greedy: readonly number[];
    readonly minMargin: number;
  }[];
}

export function runGoldenLogits(options: {
  readonly name: string;
  readonly make: () => Promise<Backend>;
  readonly tolerance: number;
}): void {
  const folders = globSync(resolve(import.meta.dirname, "../golden/*/config.json")).map((file) => resolve(file, ".."));
  assert.ok(folders.length >= 3, "test/golden holds the tiny checkpoints: make them with python3 test/golden/make_tiny.py");

  describe(`golden logits: ${options.name}`, () => {
    let backend: Backend;
    before(async () => {
      backend = await options.make();
    });
    after(async () => {
      await backend?.close();
    });

    for (const folder of folders.sort()) {
      describe(basename(folder), () => {
        let model: LoadedModel;
        let checkpoint: Checkpoint;
        before(async () => {
          checkpoint = await openCheckpoint(folder);
          model = await loadModel(backend, modelOf(folder, checkpoint), { context });
        });
        after(async () => {
          await model?.dispose();
          await checkpoint?.close();
        });
        const { cases, vocab } = readGolden<Golden>(join(folder, "golden.json"));

        for (const golden of cases) {
          test(`"${golden.text}": logits, routes and greedy tokens are those of transformers`, async () => {
            const want = floatsOf(golden.logits);
            const rows = golden.ids.length;
            const whole = await model.forward(golden.ids, 0);
            const error = relativeError(whole, want);
            assert.ok(error <= options.tolerance, `prefill: ${error.toExponential(2)}`);
            for (const [layer, routes] of model.routes.entries()) {
              assert.deepEqual([...routes], golden.routes[layer]!.slice(0, rows).flat(), `routes of layer ${layer}`);
            }
            const generated: number[] = [];
            let last = whole.subarray((rows - 1) * vocab);
            while (generated.length < golden.greedy.length) {
              generated.push(argmax(last));
              last = await model.forward(generated.slice(-1), rows + generated.length - 1);
            }
            assert.deepEqual(generated, golden.greedy);
          });
        }

        test("prefill in chunks of 3 gives the logits of one prefill", async () => {
          const { ids, logits } = cases.at(-1)!;
          const parts: number[] = [];
          for (let at = 0; at < ids.length; at += 3) parts.push(...(await model.forward(ids.slice(at, at + 3), at)));
          const error = relativeError(parts, floatsOf(logits));
          assert.ok(error <= options.tolerance, error.toExponential(2));
        });
      });
    }
  });
}
