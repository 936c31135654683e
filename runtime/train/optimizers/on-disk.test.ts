// Runs whose optimizer state is on disk have the checkpoints and the result of those that have it in memory, byte for byte, and go on from
// each other's; another optimizer has others, and does not.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { chainedTokens, runSettings, writeCorpus } from "../../../test/kit/training/training.ts";
import { train } from "../loop/run.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { optimizerSettings } from "./index.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-on-disk-"));
after(() => rmSync(folder, { recursive: true }));
const data = join(folder, "data");
await writeCorpus(data, chainedTokens(1025, 7));

const stateBytes = 50_000; // of 180,000 floats' two moments
const ports = { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} };

function settingsOf(name: string, changed: Partial<TrainSettings> = {}): TrainSettings {
  const checkpoint = { everySteps: 1, keep: 9 };
  return { ...runSettings, data, out: join(folder, name), schedule: { ...runSettings.schedule, steps: 2 }, checkpoint, ...changed };
}
const onDisk = (name: string): Partial<TrainSettings> => ({ optimizerMemory: { bytes: stateBytes, folder: join(folder, name) } });

/** Everything that a run wrote but for what it is measured by, and who wrote it. */
function written(name: string): Readonly<Record<string, string>> {
  const files = readdirSync(join(folder, name), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const read = files.map((entry) => join(entry.parentPath, entry.name)).filter((path) => !/\.jsonl$|writer\.json$/.test(path));
  return Object.fromEntries(read.map((path) => [path.slice(join(folder, name).length), readFileSync(path, "hex")]));
}

await train(settingsOf("memory"), ports);

test("checkpoints and result are those of state in memory, and nothing else is left", async () => {
  await train(settingsOf("disk", onDisk("disk")), ports);
  assert.deepEqual(written("disk"), written("memory"));
});

test("a run goes on from the other's checkpoint, either way", async () => {
  const short = { schedule: { ...runSettings.schedule, steps: 1 } };
  for (const [name, before, then] of [
    ["to-disk", {}, onDisk("to-disk")],
    ["to-memory", onDisk("to-memory"), {}],
  ] as const) {
    await train(settingsOf(name, { ...short, ...before }), ports);
    rmSync(join(folder, name, "store"), { recursive: true });
    rmSync(join(folder, name, "huggingface"), { recursive: true });
    await train(settingsOf(name, then), ports);
    assert.deepEqual(written(name), written("memory"));
  }
});

test("sgd keeps one array, on disk as in memory; its checkpoint is none of adamw's", async () => {
  const optimizer = optimizerSettings("sgd", {});
  await train(settingsOf("sgd", { optimizer }), ports);
  await train(settingsOf("sgd-disk", { optimizer, ...onDisk("sgd-disk") }), ports);
  assert.deepEqual(written("sgd-disk"), written("sgd"));
  assert.notDeepEqual(written("sgd"), written("memory"));
  const size = (name: string): number => written(name)["/checkpoints/step-00000002/layer-0000.bin"]!.length;
  assert.ok(size("sgd") < 0.75 * size("memory"));
  const long = { ...runSettings.schedule, steps: 3 };
  rmSync(join(folder, "sgd", "store"), { recursive: true });
  rmSync(join(folder, "sgd", "huggingface"), { recursive: true });
  await assert.rejects(train(settingsOf("sgd", { schedule: long }), ports), {
    code: "BadCheckpoint",
    message: /was made with optimizer sgd, this run has adamw; give the same, or another --out/,
  });
});

test("memory that is too little is refused with the least there can be", async () => {
  await assert.rejects(train(settingsOf("none", { optimizerMemory: { bytes: 1000, folder } }), ports), {
    code: "BadOption",
    message: /^--optimizer-memory is 1000; it must be .* at least 24576/,
  });
});
