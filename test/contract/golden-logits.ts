// The tiny checkpoints below test/golden on a backend: logits, routes and greedy text must be those of Hugging Face transformers.
// Called by one test file per backend. How the goldens were made: test/golden/make_tiny.py.
import assert from "node:assert/strict";
import { existsSync, globSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import type { Backend } from "../../runtime/compute/backend.ts";
import { relativeError } from "../../runtime/compute/trial.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import type { Checkpoint } from "../../runtime/weights/tensor-view.ts";
import { argmax, floatsOf, modelOf, readGolden } from "./golden-files.ts";
import { type LoadedModel, loadModel } from "./harness.ts";

const context = 64;
/** Tokens of a chunk of a long text. */
const longChunk = 500;

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

/** Logits at a few positions of a text of thousands of tokens. */
interface LongGolden extends Pick<Golden, "magic" | "version" | "remake"> {
  readonly ids: readonly number[];
  readonly positions: readonly number[];
  readonly logits: string; // base64 LE f32 [positions, vocab]
}

export function runGoldenLogits(options: {
  readonly name: string;
  readonly make: () => Promise<Backend>;
  readonly tolerance: number;
  /** Tokens of the long text that are computed, for a device that is too slow for 3,000. */
  readonly longTokensMax?: number;
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

        const longPath = join(folder, "long.json");
        if (existsSync(longPath))
          test("at 3,000 tokens, prefilled in chunks, the logits are still those of transformers", async () => {
            const golden = readGolden<LongGolden>(longPath);
            const ids = golden.ids.slice(0, options.longTokensMax);
            const positions = golden.positions.filter((position) => position < ids.length);
            const long = await loadModel(backend, modelOf(folder, checkpoint), { context: ids.length });
            const rows: number[] = [];
            for (let at = 0; at < ids.length; at += longChunk) {
              const chunk = await long.forward(ids.slice(at, at + longChunk), at);
              for (const position of positions)
                if (position >= at && position < at + longChunk)
                  rows.push(...chunk.subarray((position - at) * vocab, (position - at + 1) * vocab));
            }
            await long.dispose();
            const want = floatsOf(golden.logits);
            for (const [i, position] of positions.entries()) {
              const error = relativeError(rows.slice(i * vocab, (i + 1) * vocab), want.subarray(i * vocab, (i + 1) * vocab));
              assert.ok(error <= options.tolerance, `position ${position}: ${error.toExponential(2)}`);
            }
          });

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
