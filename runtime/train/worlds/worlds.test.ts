// Worlds that meet: their bytes do not depend on the ranks of each, nor on where they were stopped or killed, and none goes on with fewer
// than all.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { balancedRun, chainedTokens, writeCorpus } from "../../../test/kit/training/training.ts";
import { trainGroup } from "../../../test/kit/training/training-ranks.ts";
import { WireRanks } from "../../../test/kit/training/wire-ranks.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import type { Hub } from "../../net/collectives/transport.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import { parseRecipes } from "../recipes/index.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-worlds-"));
after(() => rmSync(folder, { recursive: true }));
const base = await balancedRun(folder);
const data = [base.data, join(folder, "other")];
await writeCorpus(data[1]!, chainedTokens(400, 2).toReversed());

const steps = 12;
const settings: Omit<TrainSettings, "out"> = {
  ...base,
  validation: base.data,
  recipes: parseRecipes({ balance: "bias:0.01", local: "fedspeed:3:0.5:0.02" }),
  schedule: { ...base.schedule, steps },
  checkpoint: { everySteps: 6, keep: 2 },
};

interface Changes {
  readonly settings?: Partial<TrainSettings>;
  /** Of one world alone. */
  readonly second?: Partial<TrainSettings>;
  /** The step after which each world is told to stop. */
  readonly stop?: readonly number[];
}

/** The steps that each world went on from and ended after, and bytes of models that each rank received. */
async function run(out: string, ranks: number, { settings: changed, second, stop }: Changes = {}, hub: Hub = new Loopback(ranks, 60_000)) {
  const [from, made]: [number[], number[]] = [[], [0, 0]];
  const portsOf = (world: number): TrainPorts => ({
    now: () => 0,
    stopped: () => made[world]! >= (stop?.[world] ?? Number.POSITIVE_INFINITY),
    onStart({ step }) {
      from[world] = step;
      made[world] = step;
    },
    onStep({ step }) {
      made[world] = step;
    },
    onValidation() {},
  });
  const settingsOf = (world: number): TrainSettings => ({ ...settings, ...changed, ...(world === 1 && second), out: join(folder, out) });
  const ends = await trainGroup(hub, ranks, { data, settingsOf, portsOf });
  const received = Array.from({ length: ranks }, (_, rank) => hub.takeTraffic(rank, "outer").received);
  return { from, ends: [ends[0]!.step, ends.at(-1)!.step], received };
}

const sha = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

/** What a run leaves, by file. */
function left(out: string): Readonly<Record<string, string>> {
  const dir = join(folder, out);
  const last = [0, 1].flatMap((world) => {
    const own = join(dir, `world-${world}`);
    const checkpoint = join(own, "checkpoints", `step-${String(steps).padStart(8, "0")}`);
    return [...readdirSync(checkpoint).map((name) => join(checkpoint, name)), join(own, "metrics.jsonl")];
  });
  const result = ["store/expert-index.json", "huggingface/model.safetensors"].map((name) => join(dir, name));
  return Object.fromEntries([...last, ...result].map((path) => [path.slice(dir.length), sha(path)]));
}

/** Validation losses of a world. */
function lossesOf(out: string, world: number): readonly unknown[] {
  const lines = readFileSync(join(folder, out, `world-${world}`, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n");
  return lines.map((line) => (JSON.parse(line) as { validationLoss?: number }).validationLoss).filter((loss) => loss !== undefined);
}

const two = await run("two", 2);

test("worlds end with one model and optimizer states of their own", () => {
  assert.deepEqual(two.ends, [steps, steps]);
  const files = left("two");
  const [first, second] = [0, 1].map((world) => Object.entries(files).filter(([name]) => name.startsWith(`/world-${world}/`)));
  assert.notDeepEqual(
    first!.map(([, hash]) => hash),
    second!.map(([, hash]) => hash),
  );
  assert.equal(lossesOf("two", 0).length, 2);
  assert.deepEqual(lossesOf("two", 0), lossesOf("two", 1), "where they have met they have the same losses");
});

test("a round moves the model once to each other world, whatever steps it has", async () => {
  const more = await run("one step", 2, { settings: { recipes: parseRecipes({ local: "fedspeed:1:0.5:0.02" }) } });
  assert.equal(more.received[0]!, 3 * two.received[0]!);
  assert.ok(two.received[0]! > 0 && two.received[0] === two.received[1]);
});

for (const ranks of [3, 5])
  test(`worlds of ${Math.floor(ranks / 2)} and ${Math.ceil(ranks / 2)} ranks leave the bytes of one rank each`, async () => {
    const planner = { planner: "hecate", reshardSteps: 2, memorySlots: 1 } as const;
    const { received } = await run(`of ${ranks}`, ranks, { settings: { fssdp: planner } });
    assert.deepEqual(left(`of ${ranks}`), left("two"));
    const sum = (bytes: readonly number[]): number => bytes.reduce((all, each) => all + each, 0);
    assert.equal(sum(received), sum(two.received), "and each float goes once from owner to owner");
  });

test("over TLS they have the same bytes, and a meeting the same bytes on its way", async () => {
  const hub = await WireRanks.open(3);
  const { received } = await run("over TLS", 3, {}, hub).finally(() => hub.close());
  assert.deepEqual(left("over TLS"), left("two"));
  assert.equal(received[0], two.received[0]);
  for (const what of ["sign", "means"]) assert.ok(hub.takeTraffic(1, what).sent > 0, `${what}: a name that no step's time bounds`);
  assert.deepEqual(hub.problems, []);
});

test("stopped within a round, while the other waits at its end, both go on bit for bit by other ranks", async () => {
  const first = await run("stopped", 3, { stop: [99, 4] });
  assert.deepEqual(first.ends, [6, 4]);
  assert.deepEqual(readdirSync(join(folder, "stopped/world-0/unmet")), ["step-00000006"]);
  const second = await run("stopped", 2, { stop: [8, 7] });
  assert.deepEqual(
    [second.from, second.ends],
    [
      [6, 4],
      [8, 7],
    ],
  );
  const third = await run("stopped", 4, { stop: [99, 10] });
  assert.deepEqual(
    [third.from, third.ends],
    [
      [8, 7],
      [12, 10],
    ],
  );
  assert.ok(!existsSync(join(folder, "stopped/store")), "no result before all have met");
  assert.deepEqual((await run("stopped", 2)).from, [12, 10]);
  assert.deepEqual(left("stopped"), left("two"));
});

test("a world that lost its last checkpoint takes the others back to a round that all have", async () => {
  await run("torn", 2, { stop: [10, 11] });
  renameSync(join(folder, "torn/world-0/checkpoints/step-00000010/manifest.json"), join(folder, "torn/lost.json"));
  const { from } = await run("torn", 2);
  assert.deepEqual(from, [6, 6]);
  assert.deepEqual(left("torn"), left("two"));
});

test("where one world fails all end with its error: there is no mean of fewer", async () => {
  await assert.rejects(run("failed", 2, { second: { sequences: 6 } }), { code: "BadOption", message: /--sequences is 6/ });
});

test("worlds with other settings are told so", async () => {
  await assert.rejects(run("differ", 2, { second: { clip: 2 } }), { code: "PlanMismatch" });
});

const refused: Readonly<Record<string, readonly [Partial<TrainSettings>, RegExp]>> = {
  "steps that are no whole rounds": [
    { recipes: parseRecipes({ local: "fedavg:5" }) },
    /--local is "fedavg:5"; --steps is 12; it must be a multiple of 5/,
  ],
  "checkpoints within rounds": [{ checkpoint: { everySteps: 4, keep: 1 } }, /--checkpoint-every is 4; it must be a multiple of 3/],
  shadows: [{ shadow: true }, /go on from checkpoints, so that shadows are of no use/],
  "worlds without a way to meet": [{ recipes: [] }, /no --local says how their worlds meet/],
};

for (const [name, [changed, message]] of Object.entries(refused))
  test(`${name} are refused`, () => assert.rejects(run("refused", 2, { settings: changed }), { code: "BadOption", message }));
