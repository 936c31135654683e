// The tiny checkpoints below test/golden/families on a backend: logits at 1, 7 and 200 tokens, routes and greedy tokens must be those of
// Hugging Face transformers; a family that the backend lacks an op for is refused by the op's name. Called by one test file per
// backend. How the goldens were made: test/golden/make_families.py.
import assert from "node:assert/strict";
import { existsSync, globSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import type { Backend } from "../../runtime/compute/backend.ts";
import { checkOps } from "../../runtime/compute/call-checks.ts";
import { relativeError } from "../../runtime/compute/op-self-test.ts";
import { segmentsOf } from "../../runtime/kernels/check-program.ts";
import type { ModelProgram } from "../../runtime/kernels/segment.ts";
import { architectureOf } from "../../runtime/models/family.ts";
import { knownArchitectures } from "../../runtime/models/index.ts";
import { openCheckpoint } from "../../runtime/weights/checkpoint.ts";
import type { Checkpoint } from "../../runtime/weights/tensor-view.ts";
import { argmax, floatsOf, modelOf, readGolden } from "../kit/models/golden-files.ts";
import { type LoadedModel, loadModel } from "../kit/models/small-engine.ts";

interface FamilyGolden {
  readonly magic: string;
  readonly version: number;
  readonly remake: string;
  readonly vocab: number;
  readonly ids: readonly number[];
  readonly positions: readonly number[];
  readonly logits: string; // base64 LE f32 [positions, vocab], of a run in f64
  /** max|a-b| / max|b| of transformers' own f32 run. */
  readonly ownError: number;
  readonly routes: readonly (readonly (readonly number[])[])[]; // [layer with experts][row][k] of ids
  readonly greedy: { readonly at: number; readonly tokens: readonly number[]; readonly minMargin: number };
}

/** Logits at a few positions of a text of thousands of tokens. */
interface LongGolden extends Pick<FamilyGolden, "magic" | "version" | "remake" | "ids" | "positions" | "logits"> {
  /** Of each position. */
  readonly ownErrors: readonly number[];
}

/** Tokens of a chunk of a long text. */
const longChunk = 250;

/** An f32 run may be as far from f64 as transformers' own is, and half as far again. */
const slack = 1.5;

const ascending = (ids: readonly number[]): readonly number[] => ids.toSorted((a, b) => a - b);

/** The experts of each row: transformers' order of them is by score, and ours by choice. */
const perRow = (chosen: Int32Array, rows: number): readonly (readonly number[])[] =>
  Array.from({ length: rows }, (_, row) =>
    ascending([...chosen.subarray((row * chosen.length) / rows, ((row + 1) * chosen.length) / rows)]),
  );

/** The op that a backend refuses of a program, with the reason; undefined where it computes all. */
function refusal(backend: Backend, program: ModelProgram): string | undefined {
  for (const { ops } of segmentsOf(program))
    for (const op of ops) {
      if (!backend.ops.has(op.op)) return op.op;
      const reason = backend.refuses(op);
      if (reason !== undefined) return reason;
    }
  return undefined;
}

export function runGoldenFamilies(options: {
  readonly name: string;
  readonly make: () => Promise<Backend>;
  readonly tolerance: number;
  /** Families that it computes; the others it must refuse. */
  readonly computes: "all" | readonly string[];
  /** Tokens of the long text that are computed, for a device that is too slow for 3,000. */
  readonly longTokensMax?: number | undefined;
}): void {
  const folders = globSync(resolve(import.meta.dirname, "../golden/families/*/config.json")).map((file) => resolve(file, ".."));
  const architectures = folders.map((folder) => architectureOf(JSON.parse(readFileSync(join(folder, "config.json"), "utf8"))));
  const missing = knownArchitectures.filter((architecture) => !architectures.includes(architecture));
  assert.deepEqual(missing, [], "test/golden/families has a tiny checkpoint of each: make them with python3 test/golden/make_families.py");

  describe(`golden families: ${options.name}`, () => {
    let backend: Backend;
    before(async () => {
      backend = await options.make();
    });
    after(() => backend?.close());

    for (const folder of folders.sort()) {
      const name = basename(folder);
      const golden = readGolden<FamilyGolden>(join(folder, "golden.json"));
      const computed = options.computes === "all" || options.computes.includes(name);

      if (!computed)
        test(`${name} is refused by the name of an op or variant`, async () => {
          const checkpoint = await openCheckpoint(folder);
          const { program } = modelOf(folder, checkpoint);
          await checkpoint.close();
          const reason = refusal(backend, program);
          assert.ok(reason !== undefined, "it computes every op");
          assert.throws(
            () => {
              for (const segment of segmentsOf(program)) checkOps(backend, backend.device, segment);
            },
            (error: any) => ["UnsupportedOp", "UnsupportedShape"].includes(error.code) && error.message.includes(reason),
          );
        });
      else
        describe(name, () => {
          let checkpoint: Checkpoint;
          let model: LoadedModel;
          before(async () => {
            checkpoint = await openCheckpoint(folder);
            model = await loadModel(backend, modelOf(folder, checkpoint), { context: golden.ids.length });
          });
          after(async () => {
            await model?.dispose();
            await checkpoint?.close();
          });
          const { ids, positions, vocab } = golden;
          const want = floatsOf(golden.logits);
          const bound = Math.max(options.tolerance, slack * golden.ownError);

          for (const tokens of [1, 7, ids.length]) {
            test(`logits of ${tokens} tokens are within ${bound.toExponential(1)} of those in f64`, async () => {
              const got = await model.forward(ids.slice(0, tokens), 0);
              const at = positions.filter((position) => position < tokens);
              const rows = at.flatMap((position) => [...got.subarray(position * vocab, (position + 1) * vocab)]);
              const error = relativeError(rows, want.subarray(0, at.length * vocab));
              assert.ok(error <= bound, error.toExponential(2));
              const routes = model.routes.filter((layer) => layer !== undefined);
              for (const [layer, chosen] of routes.entries())
                assert.deepEqual(perRow(chosen, tokens), golden.routes[layer]!.slice(0, tokens).map(ascending), `routes of layer ${layer}`);
            });
          }

          const longPath = join(folder, "long.json");
          if (existsSync(longPath))
            test("far into a text of 3,000 tokens, prefilled in chunks, the logits are those in f64", async () => {
              const long = readGolden<LongGolden>(longPath);
              const text = long.ids.slice(0, options.longTokensMax);
              const wanted = floatsOf(long.logits);
              const deep = await loadModel(backend, modelOf(folder, checkpoint), { context: text.length });
              for (let past = 0; past < text.length; past += longChunk) {
                const chunk = await deep.forward(text.slice(past, past + longChunk), past);
                for (const [i, position] of long.positions.entries()) {
                  const row = position - past;
                  if (row < 0 || row * vocab >= chunk.length) continue;
                  const got = chunk.subarray(row * vocab, (row + 1) * vocab);
                  const error = relativeError(got, wanted.subarray(i * vocab, (i + 1) * vocab));
                  assert.ok(
                    error <= Math.max(options.tolerance, slack * long.ownErrors[i]!),
                    `position ${position}: ${error.toExponential(2)}`,
                  );
                }
              }
              await deep.dispose();
            });

          test("greedy tokens after a prefill in chunks of 3 are those of transformers", async () => {
            const { at, tokens } = golden.greedy;
            let last = new Float32Array();
            for (let past = 0; past < at; past += 3) last = (await model.forward(ids.slice(past, Math.min(past + 3, at)), past)).slice();
            const generated: number[] = [];
            while (generated.length < tokens.length) {
              generated.push(argmax(last.subarray(last.length - vocab)));
              last = (await model.forward(generated.slice(-1), at + generated.length - 1)).slice();
            }
            assert.deepEqual(generated, tokens);
          });
        });
    }
  });
}
