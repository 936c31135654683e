// A run whose experts spawn, over ranks: the bytes of one rank, whatever the ranks before the spawn and after it, and wherever the run is
// stopped or lost: before the spawn, at it, between its checkpoint and the first step of the experts, and after it.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { chainedTokens, runSettings, writeCorpus, writeModel } from "../../../test/kit/training/training.ts";
import { trainRanks } from "../../../test/kit/training/training-ranks.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import { rankBytes } from "../../placement/training/rank-bytes.ts";
import { evenRanks, rankedModel } from "../loop/needs.ts";
import { train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { openSource } from "../model/model-source.ts";
import { parseRecipes, trainedModel } from "../recipes/index.ts";
import { memoryProblem } from "./fits.ts";
import { RankState } from "./rank-state.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-spawned-"));
after(() => rmSync(folder, { recursive: true }));
const data = join(folder, "data");
await writeCorpus(data, chainedTokens(400, 1));
const spawnStep = 3;
const steps = 6;
const recipesOf = (mask: string) =>
  parseRecipes({ balance: "switch:0.01", spawn: `${spawnStep}:${mask}`, gate: "dense-to-sparse:4:0.1:5" });

const settings: Omit<TrainSettings, "out"> = {
  ...runSettings,
  model: writeModel(join(folder, "model"), "mixtral", { initializer_range: 0.1 }),
  data,
  validation: data,
  sequences: 8,
  microBatches: 4,
  recipes: recipesOf("0.5"),
  schedule: { ...runSettings.schedule, rate: 1e-2, steps },
  checkpoint: { everySteps: 2, keep: 9 },
};

const killed = new Error("killed");

interface Changes {
  /** Steps after which it is told to stop. */
  readonly stop?: number;
  /** The step after which it is lost, before its checkpoint; and the step that it is lost at the begin from. */
  readonly lost?: { readonly after?: number; readonly from?: number };
  readonly settings?: Partial<TrainSettings>;
}

/** The steps that were gone on from, and made, as the first rank is told. */
async function run(out: string, ranks: number, { stop = Number.POSITIVE_INFINITY, lost = {}, settings: changed }: Changes = {}) {
  const reported: string[] = [];
  const made = new Array<number>(ranks).fill(0);
  const ports = (rank: number): TrainPorts => ({
    now: () => 0,
    stopped: () => made[rank]! >= stop,
    onStart({ step }) {
      if (rank === 0) reported.push(`from ${step}`);
      if (lost.from === step && (rank > 0 || ranks === 1)) throw killed;
    },
    onStep({ step }) {
      made[rank] = step;
      if (rank === 0) reported.push(`${step}`);
      if (lost.after === step && (rank > 0 || ranks === 1)) throw killed;
    },
    onValidation() {},
  });
  const ends = trainRanks(ranks, { ...settings, ...changed, out: join(folder, out) }, ports);
  if (lost.after === undefined && lost.from === undefined) await ends;
  else await assert.rejects(ends, killed);
  return reported.join(" ");
}

const sha = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

/** What a run leaves, by file: checkpoints of both models, metrics and result. */
function left(out: string): Readonly<Record<string, string>> {
  const dir = join(folder, out);
  const checkpoints = [spawnStep, steps].map((step) => join(dir, "checkpoints", `step-0000000${step}`));
  const files = checkpoints.flatMap((path) => readdirSync(path).map((name) => join(path, name)));
  const others = ["metrics.jsonl", "store/expert-index.json", "huggingface/model.safetensors", "huggingface/config.json"];
  return Object.fromEntries([...files, ...others.map((name) => join(dir, name))].map((path) => [path.slice(dir.length), sha(path)]));
}

assert.equal(await run("one", 1), "from 0 1 2 3 from 3 4 5 6");
const want = left("one");

test("before the spawn a layer has one expert, after it all, and the result is a plain model of the family", () => {
  const unitsAt = (step: number): number =>
    JSON.parse(readFileSync(join(folder, "one", "checkpoints", `step-0000000${step}`, "manifest.json"), "utf8")).parts[1].units.length;
  assert.deepEqual([unitsAt(spawnStep), unitsAt(spawnStep + 1)], [2, 9]);
  const config = JSON.parse(readFileSync(join(folder, "one", "huggingface", "config.json"), "utf8"));
  assert.deepEqual([config.architectures, config.num_local_experts, config.num_experts_per_tok], [["MixtralForCausalLM"], 8, 2]);
});

for (const ranks of [2, 3, 4])
  test(`${ranks} ranks leave the bytes of one`, async () => {
    await run(`of ${ranks}`, ranks);
    assert.deepEqual(left(`of ${ranks}`), want);
  });

test("another mask is another run", async () => {
  await run("other mask", 1, { settings: { recipes: recipesOf("0.4") } });
  assert.notDeepEqual(left("other mask"), want);
  await assert.rejects(run("one", 1, { settings: { recipes: recipesOf("0.4") } }), /was made with spawn 3:0.5, this run has 3:0.4/);
});

for (const stop of [spawnStep - 1, spawnStep, spawnStep + 1])
  test(`a run that is stopped after step ${stop} goes on with other ranks bit for bit, and repeats nothing`, async () => {
    const name = `stopped ${stop}`;
    const [first, second] = [await run(name, 1, { stop }), await run(name, 3)];
    const numbers = `${first} ${second}`.match(/(?<!from )\b\d\b/g);
    assert.deepEqual(numbers, ["1", "2", "3", "4", "5", "6"], `${first}; ${second}`);
    assert.deepEqual(left(name), want);
  });

const losses: Record<string, { readonly lost: Changes["lost"]; readonly again: string }> = {
  "before the spawn": { lost: { after: 2 }, again: "from 0 1 2 3 from 3 4 5 6" },
  "at the spawn, before its checkpoint": { lost: { after: spawnStep }, again: "from 2 3 from 3 4 5 6" },
  "between its checkpoint and the experts' first step": { lost: { from: spawnStep }, again: "from 3 4 5 6" },
  "after the first step of the experts": { lost: { after: spawnStep + 1 }, again: "from 3 4 5 6" },
};
for (const [when, { lost = {}, again }] of Object.entries(losses))
  for (const ranks of [1, 3])
    test(`${ranks} of ${ranks} ranks lost ${when} cost the steps since the checkpoint, and no bit`, async () => {
      const name = `lost ${when} of ${ranks}`;
      await run(name, ranks, { lost });
      assert.equal(await run(name, 4 - ranks), again);
      assert.deepEqual(left(name), want);
    });

interface Pods {
  readonly out: string;
  readonly held: readonly RankState[];
  /** What all ranks that stay are told, but for the writer's. */
  readonly reported: string[];
}

/** One world of a job's pods, of which those past the ranks leave: until all have made a step, then another of so many is to follow. */
async function world(
  number: number,
  { out, held, reported }: Pods,
  ranks: number,
  stop?: { readonly after: number; readonly next: number },
) {
  const hub = new Loopback(held.length, 20_000);
  const facts = evenRanks(ranks);
  const given = { ...settings, ranksMax: settings.microBatches, out: join(folder, out) };
  let made = 0;
  const ends = held.map((rankState, rank) => {
    const say = (what: string): void => void (rank === 0 && reported.push(what));
    const ports: TrainPorts = {
      now: () => 0,
      stopped: () => stop !== undefined && made >= stop.after,
      next: () => stop && { ranks: stop.next, rank },
      onStart: ({ step }) => say(`from ${step}`),
      onStep({ step }) {
        made = step;
        say(`${step}`);
      },
      onShort: (step) => say(`short after ${step}`),
      onValidation() {},
    };
    return train(given, ports, { transport: hub.transport(rank), run: out, world: number, facts, rankState });
  });
  for (const end of ends) end.catch((caught) => hub.end(caught));
  await Promise.all(ends);
}

test("a rank that leaves as experts spawn hands on what it has, and is no part of their begin", async () => {
  const pods: Pods = { out: "left", held: [0, 1, 2].map(() => new RankState()), reported: [] };
  await world(1, pods, 3, { after: 1, next: 2 });
  await world(2, pods, 2);
  assert.equal(pods.reported.join(" "), "from 0 1 from 1 2 3 from 3 4 5 6", "no step is made again, while no checkpoint has it");
  assert.deepEqual(left("left"), want);
});

/** Memory that the experts' stage needs of the first of so many ranks. */
async function neededOf(ranks: number): Promise<number> {
  const model = trainedModel(await openSource(settings.model), settings, 1);
  return rankBytes(memoryProblem(rankedModel({ ...settings, out: "unused" }, model, evenRanks(ranks)), 0)).all;
}

for (const [how, next] of [
  ["told before, leave a checkpoint", 2],
  ["not told, keep what they have", 4],
] as const)
  test(`ranks that are to be too few for the experts, ${how}, and wait for more: the bytes are those of one`, async (t) => {
    const memory = (await neededOf(2)) - 1;
    assert.ok((await neededOf(4)) <= memory);
    t.mock.method(process, "constrainedMemory", () => memory);
    const pods: Pods = { out: `short of ${next}`, held: [0, 1, 2, 3].map(() => new RankState()), reported: [] };
    await world(1, pods, 4, { after: 5, next });
    assert.equal(existsSync(join(folder, pods.out, "checkpoints/step-00000005")), next === 2);
    await world(2, pods, 2);
    if (next === 2) for (const rankState of pods.held) rankState.drop(); // those two have ended
    await world(3, pods, 4);
    assert.equal(pods.reported.join(" "), "from 0 1 2 3 from 3 4 5 short after 5 from 5 6");
    assert.deepEqual(left(pods.out), want);
  });

test("a rank that leaves needs no memory for the experts that are born without it", async (t) => {
  t.mock.method(process, "constrainedMemory", () => 1);
  const hub = new Loopback(2);
  const given = { ...settings, out: join(folder, "small") };
  const context = (rank: number) => ({ transport: hub.transport(rank), world: 1, facts: evenRanks(1), rankState: new RankState() });
  const ports = { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} };
  await assert.rejects(train(given, ports, context(0)), { code: "DoesNotFit" });
  const leaver = assert.rejects(train(given, ports, context(1)), killed);
  hub.end(killed);
  await leaver;
});
