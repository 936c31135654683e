// Training pods as processes that are killed and stopped in the middle of whatever they do: the others repeat the step in flight at most,
// without a checkpoint, and one that wakes after it was given up changes nothing.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { freePort } from "../../../test/kit/network/free-port.ts";
import { meetIn, outOf, PodOfProcess } from "../../../test/kit/training/pod-processes.ts";
import { tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { modelIn, podSpec } from "../../../test/kit/training/training-pods.ts";
import { until } from "../../../test/kit/wait.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-killed-"));
const steps = 120;
let ranksPort = 0;
const pods: PodOfProcess[] = [];

before(async () => {
  const tokens = Array.from({ length: 4000 }, (_, i) => (i * 37 + ((i * i) % 11)) % tinyModel.vocab);
  await writeCorpus(join(folder, "tokens"), tokens);
  ranksPort = await freePort();
});
after(() => {
  for (const { process } of pods) process.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

/** Nothing but the last step is written. */
const spec = podSpec({ model: { uri: "pvc://models/tiny", init: "Random" }, steps, checkpoint: { everySteps: steps, keep: 1 } });

function pod(uid: string, { out, rank, host }: { readonly out: string; readonly rank: number; readonly host: number }): PodOfProcess {
  const folders = { model: tinyModel.dir, data: join(folder, "tokens"), out: join(folder, out) };
  const made = new PodOfProcess(uid, { spec, rank, host, ranksPort, ends: folder, folders });
  pods.push(made);
  return made;
}

const digest = (name: string): string => modelIn(join(folder, name));

async function complete(first: PodOfProcess): Promise<void> {
  await until("the end", () => first.process.exitCode !== null);
  assert.deepEqual([first.end?.outcome, first.end?.report?.step], ["Complete", steps]);
}

test("a killed rank and a first one that stands still cost the step in flight, and the bits are those of one rank", {
  timeout: 480_000,
}, async () => {
  const alone = pod("alone", { out: "quiet", rank: 0, host: 9 });
  await meetIn(1, [alone]);
  await complete(alone);

  const [zero, one, two] = [0, 1, 2].map((rank) => pod(`pod-${rank}`, { out: "ranks", rank, host: rank + 1 })) as [
    PodOfProcess,
    PodOfProcess,
    PodOfProcess,
  ];
  await meetIn(1, [zero, one, two]);
  await until("steps", () => one.step >= 10);
  one.process.kill("SIGKILL");
  await outOf(1, [zero, two]);
  const made = Math.max(zero.step, two.step);
  const next = pod("next", { out: "ranks", rank: 1, host: 4 });
  await meetIn(2, [zero, next, two]);
  await until("the second world", () => zero.from.length > 1);
  assert.ok((zero.from[1] as number) >= made, `from ${zero.from[1]}, ${made} were made`);

  await until("more steps", () => zero.step >= made + 10);
  zero.process.kill("SIGSTOP");
  await outOf(2, [next, two]);
  const then = Math.max(next.step, two.step);
  const first = pod("first", { out: "ranks", rank: 0, host: 5 });
  await meetIn(3, [first, next, two]);
  await until("the third world", () => first.from.length > 0);
  assert.ok((first.from[0] as number) >= then, `from ${first.from[0]}, ${then} were made`);
  zero.process.kill("SIGCONT");
  await until("who was given up to say so", async () => (await zero.says())?.left?.epoch === 2);
  await complete(first);
  assert.equal(digest("ranks"), digest("quiet"));
  const lines = readFileSync(join(folder, "ranks/metrics.jsonl"), "utf8").trim().split("\n");
  const reported = lines.map((line) => (JSON.parse(line) as { step: number }).step);
  assert.deepEqual(
    reported,
    [...new Set(reported)].toSorted((a, b) => a - b),
    "each step once, in order",
  );
});
