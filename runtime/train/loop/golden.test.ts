// The losses and gradient norms of a run against torch's in f64, as test/golden/make_training.py computed them: the same model, tokens,
// order, schedule and optimizer. Everything between text and result is in it but the tokenizer.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { chainedTokens, tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { parseRecipes } from "../recipes/index.ts";
import { train } from "./run.ts";
import type { StepReport } from "./run-step.ts";
import type { TrainSettings } from "./train-settings.ts";

interface Golden {
  readonly settings: Readonly<Record<string, number>>;
  readonly topKMargin: number;
  readonly losses: readonly number[];
  readonly norms: readonly number[];
  /** The recipe of balance and its losses. */
  readonly balance?: string;
  readonly balances?: readonly number[];
}

const goldenOf = (name: string): Golden =>
  JSON.parse(readFileSync(join(import.meta.dirname, "../../../test/golden/training", name), "utf8")) as Golden;
const goldens = { "the plain loss": goldenOf("golden.json"), "a loss of balance beside it": goldenOf("golden-switch.json") };
const lossBound = 1e-6;
const normBound = 1e-4;

for (const [name, golden] of Object.entries(goldens))
  test(`200 steps have torch's losses in f64 to 1e-6: ${name}`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "enodia-golden-"));
    try {
      const { settings } = golden;
      const of = (name: string): number => settings[name] as number;
      await writeCorpus(join(folder, "data"), chainedTokens(settings.tokens!, settings.tokenSeed!));
      const run: TrainSettings = {
        model: tinyModel.dir,
        init: "checkpoint",
        seed: of("seed"),
        data: join(folder, "data"),
        validation: undefined,
        out: join(folder, "run"),
        sequences: of("sequences"),
        sequenceLength: of("sequenceLength"),
        microBatches: of("microBatches"),
        schedule: { name: "cosine", rate: of("rate"), warmup: of("warmup"), steps: of("steps"), floor: of("floor") },
        optimizer: { name: "adamw", values: { beta1: of("beta1"), beta2: of("beta2"), epsilon: of("epsilon"), decay: of("decay") } },
        clip: of("clip"),
        recipes: parseRecipes({ balance: golden.balance ?? "" }),
        checkpoint: { everySteps: of("steps"), keep: 1 },
        codecs: ["f32"],
        threads: 1,
      };
      const reports: StepReport[] = [];
      const ports = { now: () => 0, stopped: () => false, onStart() {}, onValidation() {} };
      await train(run, { ...ports, onStep: (report) => void reports.push(report) });
      const off = (found: number, want: number): number => Math.abs(found - want) / want;
      const worst = { loss: 0, norm: 0, balance: 0 };
      for (const [i, { loss, gradientNorm, balanceLoss }] of reports.entries()) {
        if (golden.balances !== undefined) worst.balance = Math.max(worst.balance, off(balanceLoss, golden.balances[i]!));
        worst.loss = Math.max(worst.loss, off(loss, golden.losses[i]!));
        worst.norm = Math.max(worst.norm, off(gradientNorm, golden.norms[i]!));
      }
      t.diagnostic(`largest error of a loss ${worst.loss.toExponential(1)}, of a norm ${worst.norm.toExponential(1)}`);
      if (golden.balances !== undefined) t.diagnostic(`of a loss of balance ${worst.balance.toExponential(1)}`);
      t.diagnostic(`smallest distance of the last expert chosen to the next ${golden.topKMargin.toExponential(1)}`);
      assert.equal(reports.length, golden.losses.length);
      assert.ok(golden.losses.at(-1)! < 0.7 * golden.losses[0]!, "the run learns nothing");
      assert.ok(worst.loss <= lossBound, `a loss is off by ${worst.loss}`);
      assert.ok(worst.balance <= lossBound, `a loss of balance is off by ${worst.balance}`);
      assert.ok(worst.norm <= normBound, `a norm is off by ${worst.norm}`);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
