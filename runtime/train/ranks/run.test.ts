// A run over ranks as each of them makes it: result, checkpoints, losses and metrics are those of one rank, any number of ranks goes on
// from what any number left, all stop together, and none is left waiting where one fails.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { balancedRun } from "../../../test/kit/training/training.ts";
import { trainRanks } from "../../../test/kit/training/training-ranks.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import { train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { parseRecipes } from "../recipes/index.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-rank-runs-"));
after(() => rmSync(folder, { recursive: true }));
const settings: Omit<TrainSettings, "out"> = {
  ...(await balancedRun(folder)),
  validation: join(folder, "data"),
  checkpoint: { everySteps: 2, keep: 2 },
};

interface Changes {
  readonly settings?: Partial<TrainSettings>;
  /** Rank and its step after which it is told to stop, or the ask. */
  readonly stop?: { readonly rank: number; readonly step?: number; readonly ask?: number };
}

async function run(out: string, ranks: number, { settings: changed, stop }: Changes = {}) {
  const reported = Array.from({ length: ranks }, (): unknown[] => []);
  const steps = reported.map(() => 0);
  let asks = 0;
  const ends = await trainRanks(
    ranks,
    { ...settings, ...changed, out: join(folder, out) },
    (rank): TrainPorts => ({
      now: () => 0,
      stopped: () => {
        if (stop?.rank !== rank) return false;
        asks += 1;
        return stop.ask === undefined ? steps[rank]! >= stop.step! : asks >= stop.ask;
      },
      onStart: ({ step }) => void reported[rank]!.push({ from: step }),
      onStep: (report) => {
        steps[rank] = report.step;
        reported[rank]!.push(report);
      },
      onValidation: (report) => void reported[rank]!.push(report),
    }),
  );
  return { reported, ends };
}

const sha = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

/** What a run leaves, by file. */
function left(out: string): Readonly<Record<string, string>> {
  const dir = join(folder, out);
  const last = join(dir, "checkpoints", readdirSync(join(dir, "checkpoints")).toSorted().at(-1)!);
  const files = [...readdirSync(last).map((name) => join(last, name)), join(dir, "metrics.jsonl")];
  const result = ["store/expert-index.json", "huggingface/model.safetensors"].map((name) => join(dir, name));
  return Object.fromEntries([...files, ...result].map((path) => [path.slice(dir.length), sha(path)]));
}

const one = await run("one", 1);

for (const ranks of [2, 3, 4])
  test(`${ranks} ranks leave the bytes of one: checkpoints, metrics, store and folder; each rank is told the same`, async () => {
    const { reported, ends } = await run(`of ${ranks}`, ranks);
    assert.deepEqual(left(`of ${ranks}`), left("one"));
    for (const each of reported) assert.deepEqual(each, one.reported[0]);
    for (const { step, store } of ends) assert.deepEqual([step, store], [6, join(folder, `of ${ranks}`, "store")]);
  });

test("planner, accumulation steps and dropped copies are no part of what a run is: it goes on with others", async () => {
  const accumulationSteps = {
    planner: "hecate",
    rematerialize: "AfterForward",
    microBatchesAtOnce: 2,
    reshardSteps: 2,
    memorySlots: 1,
  } as const;
  const plain = { recipes: parseRecipes({ balance: "bias:0.01" }) };
  await run("plain", 1, { settings: plain });
  await run("accumulationSteps", 2, { settings: { ...plain, fssdp: accumulationSteps }, stop: { rank: 0, step: 3 } });
  await run("accumulationSteps", 2, { settings: { ...plain, fssdp: { planner: "late" } } });
  assert.deepEqual(left("accumulationSteps"), left("plain"));
});

test("any rank's stop ends all after the same step, and any number of ranks goes on from it bit for bit", async () => {
  const first = await run("changing", 3, { stop: { rank: 2, step: 1 } });
  assert.deepEqual(
    first.ends.map(({ step, store }) => [step, store]),
    [1, 1, 1].map((step) => [step, undefined]),
  );
  const second = await run("changing", 1, { stop: { rank: 0, step: 3 } });
  assert.deepEqual(second.ends[0]!.step, 3);
  const third = await run("changing", 4);
  assert.deepEqual(left("changing"), left("one"));
  const steps = [first, second, third].flatMap(({ reported }) => reported[0]!.filter((each) => "loss" in (each as object)));
  assert.deepEqual(
    steps,
    one.reported[0]!.filter((each) => "loss" in (each as object)),
  );
});

test("a stop in the middle of a step, or of a loss on other data, leaves no trace and nobody waiting", async () => {
  const { ends } = await run("asked", 3, { stop: { rank: 1, ask: 5 } });
  assert.deepEqual(
    ends.map(({ step }) => step),
    [1, 1, 1],
  );
  await run("asked", 2);
  assert.deepEqual(left("asked"), left("one"));
});

test("ranks with other settings are told so before the first step", async () => {
  const ports: TrainPorts = { now: () => 0, stopped: () => false, onStart() {}, onStep: () => assert.fail("a step"), onValidation() {} };
  const hub = new Loopback(2, 60_000);
  const facts = { node: [0, 1], speed: [1, 1] };
  const found = await Promise.allSettled(
    [1, 2].map((clip, rank) =>
      train({ ...settings, clip, out: join(folder, "differ") }, ports, { transport: hub.transport(rank), world: 1, facts }),
    ),
  );
  for (const each of found) assert.equal(each.status === "rejected" && (each.reason as { code: string }).code, "PlanMismatch");
});

test("a rank whose unit was not written leaves the checkpoint without a name, and the last good one is gone on from", async () => {
  await run("torn", 3, { stop: { rank: 0, step: 4 } });
  const last = join(folder, "torn", "checkpoints", "step-00000004");
  renameSync(join(last, "manifest.json"), join(last, "manifest.json.tmp"));
  const { reported } = await run("torn", 2);
  assert.deepEqual(reported[0]![0], { from: 2 });
  assert.deepEqual(left("torn"), left("one"));
});
