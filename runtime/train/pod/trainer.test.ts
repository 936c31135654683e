// A training pod's process on a tiny model, alone in its world: what it answers, the message of its end, and that a run which is stopped
// and goes on in another process ends with the bits of one that was not.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";

import { parseTrainingEnd, trainingReportSchema } from "../../../crds/training-report.ts";
import { tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { begin, modelIn, podSettings, podSpec, tell, worldOf } from "../../../test/kit/training/training-pods.ts";
import { train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { trainSettings } from "./job-settings.ts";
import { Progress } from "./run-progress.ts";
import { startTrainer } from "./trainer.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-trainer-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const steps = 6;

const spec = (change: object = {}) =>
  podSpec({ steps, batch: { sequences: 4, microBatches: 2 }, checkpoint: { everySteps: 2, keep: 2 }, ...change });

/** As in a pod, but for the folder that claims are below. */
const here = (settings: TrainSettings, name: string): TrainSettings => ({
  ...settings,
  model: join(folder, "tiny"),
  data: join(folder, "tokens"),
  out: join(folder, name),
});

async function prepare(): Promise<void> {
  mkdirSync(join(folder, "tiny"), { recursive: true });
  cpSync(tinyModel.dir, join(folder, "tiny"), { recursive: true });
  await writeCorpus(
    join(folder, "tokens"),
    Array.from({ length: 400 }, (_, i) => (i * 37 + ((i * i) % 11)) % tinyModel.vocab),
  );
}

const settingsOf = (name: string, change: object = {}) => podSettings({ spec: spec(change), endFile: join(folder, `${name}.end`) });

const endOf = (name: string) => parseTrainingEnd(readFileSync(join(folder, `${name}.end`), "utf8"));
const digest = (name: string): string => modelIn(join(folder, name));

/** A trainer whose run stops itself after a step, as SIGTERM would stop it. */
async function trainOnce(name: string, into: string, stopAfter?: number): Promise<void> {
  let closing: Promise<void> | undefined;
  const run = (settings: TrainSettings, ports: TrainPorts) =>
    train(here(settings, into), {
      ...ports,
      onStep(report) {
        ports.onStep(report);
        if (report.step === stopAfter) closing = trainer.close();
      },
    });
  const trainer = await begin(settingsOf(name), { run });
  await trainer.ended;
  await closing;
}

test("a run that was stopped goes on in another process and ends with the bits of one that was not", { timeout: 120_000 }, async () => {
  await prepare();
  await trainOnce("quiet", "quiet");
  assert.equal(endOf("quiet")?.outcome, "Complete");
  assert.equal(endOf("quiet")?.report?.step, steps);
  assert.equal(endOf("quiet")?.report?.curve.length, steps);
  const { expertShares = [], ...alone } = endOf("quiet")?.report?.spread ?? {};
  assert.deepEqual(
    alone,
    { imbalanceAtPrimaries: 1, imbalance: 1, copied: 0, exposedSeconds: 0, bytes: 0 },
    "one rank has nobody to send to",
  );
  assert.ok(expertShares.length === 4 && expertShares[3]! >= expertShares[0]! && expertShares[3]! > 0, `${expertShares}`);

  await trainOnce("first", "stopped", 3);
  assert.deepEqual([endOf("first")?.outcome, endOf("first")?.report?.step], ["Stopped", 3]);
  await trainOnce("second", "stopped");
  assert.deepEqual([endOf("second")?.outcome, endOf("second")?.report?.step], ["Complete", steps]);
  assert.equal(digest("stopped"), digest("quiet"));

  // A pod whose end nobody saw is made once more: no step is left, and the result is the same.
  await trainOnce("third", "stopped");
  assert.equal(endOf("third")?.outcome, "Complete");
  assert.equal(digest("stopped"), digest("quiet"));
});

test("a job whose ranks work on fewer micro-batches at once than there are has experts that spawn", { timeout: 120_000 }, async () => {
  const born = { model: { uri: "pvc://models/tiny", init: "Random" }, spawn: { step: 2 }, fssdp: { microBatchesAtOnce: 1 } };
  const trainer = await begin(settingsOf("born", born), { run: (settings, ports) => train(here(settings, "born"), ports) });
  await trainer.ended;
  assert.deepEqual([endOf("born")?.outcome, endOf("born")?.report?.step], ["Complete", steps]);
});

test("before a run has begun its step is not told, and a loss that is no number never is", () => {
  const progress = new Progress(3);
  assert.deepEqual(progress.report(), { curve: [] });
  progress.start(2);
  progress.add({ step: 3, loss: Number.NaN, gradientNorm: Number.POSITIVE_INFINITY, imbalance: Number.NaN, tokens: 1, seconds: 1 });
  progress.validated(Number.POSITIVE_INFINITY);
  const report = trainingReportSchema.parse(JSON.parse(JSON.stringify(progress.report())));
  assert.deepEqual(report, { step: 3, tokensPerSecond: 1, secondsLeft: 0, curve: [] });
});

const spread = {
  imbalanceAtPrimaries: 1.75,
  imbalance: 1.25,
  copied: 0.5,
  exposedSeconds: 0.25,
  bytes: 4096,
  expertShares: [0, 0.1, 0.2, 0.3],
};

test("how a step lay on the ranks is told, and what is out of its bounds takes nothing else with it", () => {
  const progress = new Progress(3);
  progress.start(0);
  progress.spread(spread);
  assert.deepEqual(trainingReportSchema.parse(JSON.parse(JSON.stringify(progress.report()))), { step: 0, curve: [], spread });
  progress.spread({ ...spread, imbalance: Number.NaN });
  assert.deepEqual(trainingReportSchema.parse(JSON.parse(JSON.stringify(progress.report()))), { step: 0, curve: [], spread: undefined });
});

test("who has copies is told until the next world begins", () => {
  const progress = new Progress(6);
  const copies = [{ layer: 1, experts: 8, copied: 1, most: [{ expert: 3, ranks: [2, 0] }] }];
  progress.copies(copies);
  assert.deepEqual(trainingReportSchema.parse(progress.report()).copies, copies);
  progress.start(5);
  assert.equal(progress.report().copies, undefined);
});

test("steps that were made past where a world begins are made again, and none is where it begins with the last", () => {
  const progress = new Progress(6);
  assert.equal(progress.stepsAfter(0), 0);
  progress.start(2);
  progress.add({ step: 5, loss: 1, gradientNorm: 1, imbalance: 1, tokens: 10, seconds: 1 });
  assert.deepEqual([progress.stepsAfter(2), progress.stepsAfter(5), progress.stepsAfter(6)], [3, 0, 0]);
});

test("a pod answers with its world and how far it is, and nobody but the operator is heard", async (t) => {
  let finish = (): void => {};
  const held = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const run = async (_: TrainSettings, ports: TrainPorts) => {
    ports.onStart({ device: "cpu", parameters: 1, samples: 1, weights: "drawn", step: 1 });
    for (const step of [2, 3])
      ports.onStep({
        step,
        loss: 5 - step,
        tokens: 32,
        seconds: 0.5,
        gradientNorm: 1 / step,
        rate: 1,
        imbalance: step,
        balanceLoss: 0,
        expertRows: 0,
      });
    await held;
    return { step: 3, store: undefined, folder: undefined, checkpoints: "", validationLoss: undefined };
  };
  const trainer = await startTrainer(settingsOf("reported"), { run, host: "127.0.0.1" });
  t.after(async () => {
    finish();
    await trainer.close();
  });
  const early = await tell(trainer);
  assert.deepEqual([early?.epoch, early?.training, early?.progress.step], [0, 0, undefined], "it waits for a world");
  await tell(trainer, worldOf(3));
  const reports = await tell(trainer);
  assert.deepEqual([reports?.epoch, reports?.training, reports?.left], [3, 3, undefined]);
  const report = reports?.progress ?? { curve: [] };
  assert.deepEqual([report.step, report.loss, report.tokensPerSecond, report.secondsLeft], [3, 2, 64, 1.5]);
  assert.deepEqual([report.gradientNorm, report.imbalance], [1 / 3, 3]);
  assert.deepEqual(
    report.curve.map(({ step }) => step),
    [2, 3],
  );
  for (const [order, sentence] of [
    [{ job: "job", pod: "pod-0", world: worldOf(2) }, "an older world"],
    [{ job: "job", pod: "pod-0", world: worldOf(3, ["other"]) }, "the same world with another pod"],
    [{ job: "job", pod: "pod-0", world: worldOf(4, ["other", "pod-0"]) }, "another rank than its certificate's"],
    [{ job: "job", pod: "pod-9" }, "another pod"],
    [{ job: "other", pod: "pod-0" }, "another job"],
  ] as const)
    assert.equal(await tell(trainer, order.world, { order }), undefined, sentence);
  assert.equal(await tell(trainer, worldOf(5), { as: "rank-1" }), undefined, "another rank is not the operator");
  assert.equal((await tell(trainer))?.epoch, 3);
});

test("a failure is told with its code, its text, and whether another try can help", async () => {
  const bad = await begin(settingsOf("bad"));
  await assert.rejects(bad.ended);
  assert.deepEqual([endOf("bad")?.outcome, endOf("bad")?.code, endOf("bad")?.retry], ["Failed", "ModelNotFound", false]);
  assert.match(endOf("bad")?.message ?? "", /^pvc:\/\/models\/tiny\/config\.json: not found/);
  const run = (settings: TrainSettings, ports: TrainPorts) => train(here(settings, "long"), ports);
  const long = await begin(settingsOf("long", { data: { uri: "pvc://d/t", sequenceLength: 100_000 } }), { run });
  await assert.rejects(long.ended);
  assert.match(endOf("long")?.message ?? "", /^spec\.data\.sequenceLength is 100000; it must be /);
  const unknown = await begin(settingsOf("unknown", { balance: "best:1" }));
  await assert.rejects(unknown.ended);
  assert.match(endOf("unknown")?.message ?? "", /^spec\.balance is "best:1".*known are switch/);
  const narrow = await begin(settingsOf("narrow", { adapters: "mixlora:8:2" }));
  await assert.rejects(narrow.ended);
  assert.match(endOf("narrow")?.message ?? "", /^spec\.adapters is "mixlora:8:2"; it is written as mixlora:EXPERTS:TOPK:RANK/);
  const away = async () => {
    throw new Error("the disk is away");
  };
  const broken = await begin(settingsOf("broken"), { run: away });
  await assert.rejects(broken.ended);
  assert.deepEqual([endOf("broken")?.code, endOf("broken")?.retry], ["Internal", true]);
});

test("every field of a spec that a run depends on reaches it", () => {
  const changed = trainSettings(
    spec({
      seed: 7,
      threadsPerRank: 2,
      model: { uri: "pvc://a/b/c", init: "Random", initCodec: "f32" },
      data: { uri: "pvc://d/e", validation: "pvc://d/v", sequenceLength: 16 },
      optimizer: { learningRate: "1e-3", weightDecay: "0", beta1: "0.8", beta2: "0.9", epsilon: "1e-6", clip: "2", memory: "1Mi" },
      schedule: { name: "constant", warmupSteps: 2, floor: "0.5" },
      balance: "switch:0.01",
      adapters: "mixlora:8:2:4",
      gate: "dense-to-sparse:4:0.05:3",
      spawn: { step: 2, mask: "0.25" },
      local: { recipe: "fedavg:2", data: ["pvc://d/f"] },
      failurePolicy: { shadow: false },
      output: { uri: "pvc://a/out", codecs: ["f32", "q4_0"] },
      fssdp: {
        planner: "ep",
        dispatch: "LocalFirst",
        rematerialize: "AfterForward",
        memorySlots: 3,
        overlapDegree: "Auto",
        microBatchesAtOnce: 2,
        window: 4,
      },
    }),
  );
  assert.deepEqual(changed, {
    model: "/claims/a/b/c",
    init: "random",
    initCodec: "f32",
    seed: 7,
    data: "/claims/d/e",
    validation: "/claims/d/v",
    out: "/claims/a/out",
    sequences: 4,
    sequenceLength: 16,
    microBatches: 2,
    schedule: { name: "constant", rate: 1e-3, warmup: 2, steps, floor: 0.5 },
    optimizer: { name: "adamw", values: { beta1: 0.8, beta2: 0.9, epsilon: 1e-6, decay: 0 } },
    optimizerMemory: { bytes: 2 ** 20, folder: "/claims/a/out" },
    recipes: [
      { name: "switch", numbers: { rate: 0.01 } },
      { name: "mixlora", numbers: { experts: 8, topk: 2, rank: 4 } },
      { name: "spawn", numbers: { step: 2, mask: 0.25 } },
      { name: "dense-to-sparse", numbers: { temperature: 4, threshold: 0.05, step: 3 } },
      { name: "fedavg", numbers: { steps: 2 } },
    ],
    ranksMax: 2,
    clip: 2,
    shadow: false,
    checkpoint: { everySteps: 2, keep: 2 },
    codecs: ["f32", "q4_0"],
    threads: 2,
    fssdp: {
      planner: "ep",
      dispatch: "LocalFirst",
      rematerialize: "AfterForward",
      memorySlots: 3,
      window: 4,
      reshardSteps: 100,
      microBatchesAtOnce: 2,
    },
  });
});
