// The losses and gradient norms of a run against torch's in f64, as test/golden/make_training.py computed them: the same model, tokens,
// order, schedule and optimizer. Everything between text and result is in it but the tokenizer.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { tinyModel, writeCorpus } from "../../test/builders/training.ts";
import { uniform } from "../kernels/random.ts";
import { train } from "./run.ts";
import type { TrainSettings } from "./settings.ts";
import type { StepReport } from "./step.ts";

interface Golden {
  readonly settings: Readonly<Record<string, number>>;
  readonly topKMargin: number;
  readonly losses: readonly number[];
  readonly norms: readonly number[];
}

const golden = JSON.parse(readFileSync(join(import.meta.dirname, "../../test/golden/training/golden.json"), "utf8")) as Golden;
const lossBound = 1e-6;
const normBound = 1e-4;

/** Tokens of which each follows from the one before, but for two bits. */
function tokensOf({ tokens, tokenSeed }: Golden["settings"], vocab: number): number[] {
  const draw = uniform(tokenSeed!);
  const stream = [0];
  while (stream.length < tokens!) stream.push((stream.at(-1)! * 5 + Math.floor(draw() * 4)) % vocab);
  return stream;
}

test("200 steps have torch's losses in f64 to 1e-6", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "enodia-golden-"));
  try {
    const { settings } = golden;
    const of = (name: string): number => settings[name] as number;
    await writeCorpus(join(folder, "data"), tokensOf(settings, tinyModel.vocab));
    const run: TrainSettings = {
      model: tinyModel.dir,
      init: "checkpoint",
      seed: of("seed"),
      data: join(folder, "data"),
      validation: undefined,
      out: join(folder, "run"),
      sequences: of("sequences"),
      sequenceLength: of("sequenceLength"),
      lanes: of("lanes"),
      schedule: { name: "cosine", rate: of("rate"), warmup: of("warmup"), steps: of("steps"), floor: of("floor") },
      adamw: { beta1: of("beta1"), beta2: of("beta2"), epsilon: of("epsilon"), decay: of("decay") },
      clip: of("clip"),
      checkpoint: { everySteps: of("steps"), keep: 1 },
      codecs: ["f32"],
      threads: 1,
    };
    const reports: StepReport[] = [];
    const ports = { now: () => 0, stopped: () => false, onStart() {}, onValidation() {} };
    await train(run, { ...ports, onStep: (report) => void reports.push(report) });
    const off = (found: number, want: number): number => Math.abs(found - want) / want;
    const worst = { loss: 0, norm: 0 };
    for (const [i, { loss, gradientNorm }] of reports.entries()) {
      worst.loss = Math.max(worst.loss, off(loss, golden.losses[i]!));
      worst.norm = Math.max(worst.norm, off(gradientNorm, golden.norms[i]!));
    }
    t.diagnostic(`largest error of a loss ${worst.loss.toExponential(1)}, of a norm ${worst.norm.toExponential(1)}`);
    t.diagnostic(`smallest distance of the last expert chosen to the next ${golden.topKMargin.toExponential(1)}`);
    assert.equal(reports.length, golden.losses.length);
    assert.ok(golden.losses.at(-1)! < 0.7 * golden.losses[0]!, "the run learns nothing");
    assert.ok(worst.loss <= lossBound, `a loss is off by ${worst.loss}`);
    assert.ok(worst.norm <= normBound, `a norm is off by ${worst.norm}`);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
