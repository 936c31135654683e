// A job of two worlds as pods in processes that meet over TLS: one that is killed is waited for, never left out of the mean, and the bits
// are those of two worlds in one process.

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { paths } from "../../../crds/common.ts";
import { freePort } from "../../../test/kit/network/free-port.ts";
import { meetIn, outOf, PodOfProcess } from "../../../test/kit/training/pod-processes.ts";
import { chainedTokens, tinyModel, writeCorpus } from "../../../test/kit/training/training.ts";
import { modelIn, podSpec } from "../../../test/kit/training/training-pods.ts";
import { until } from "../../../test/kit/wait.ts";
import { aloneContext } from "../ranks/rank-context.ts";
import { trainWorlds } from "../worlds/together.ts";
import { placedIn, trainSettings } from "./job-settings.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-local-worlds-"));
const pods: PodOfProcess[] = [];
after(() => {
  for (const { process } of pods) process.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

const [steps, localSteps, everySteps] = [48, 4, 8];
const spec = podSpec({
  replicas: 3,
  elasticity: { minReplicas: 2, maxReplicas: 3 },
  model: { uri: "pvc://models/tiny", init: "Random" },
  data: { uri: "pvc://data/a", sequenceLength: 8 },
  local: { recipe: `fedspeed:${localSteps}:0.5:0.01`, data: ["pvc://data/b"] },
  steps,
  checkpoint: { everySteps, keep: 1 },
});

test("a job has a place in a world for each rank, whose settings have data and checkpoints of their own", () => {
  assert.throws(() => placedIn(spec, aloneContext()), { code: "BadOption", message: /2 worlds have 1 ranks/ });
  const facts = { node: [0, 1, 2], speed: [1, 1, 1] };
  const placed = [0, 1, 2].map((rank) =>
    placedIn(spec, { ...aloneContext(), facts, transport: { ...aloneContext().transport, rank, ranks: 3 } }),
  );
  assert.deepEqual(
    placed.map(([{ data, out, result, shadow }, { group, transport }]) => [data, out, result, shadow, group?.world, transport.rank]),
    [
      [`${paths.claims}/data/a`, `${paths.claims}/models/out/world-0`, `${paths.claims}/models/out`, false, 0, 0],
      [`${paths.claims}/data/b`, `${paths.claims}/models/out/world-1`, `${paths.claims}/models/out`, false, 1, 0],
      [`${paths.claims}/data/b`, `${paths.claims}/models/out/world-1`, `${paths.claims}/models/out`, false, 1, 1],
    ],
  );
});

test("a pod of one world is killed: the others wait for it, and end with the bits of worlds that nobody disturbed", {
  timeout: 480_000,
}, async () => {
  cpSync(tinyModel.dir, join(folder, "models/tiny"), { recursive: true });
  const data = ["a", "b"].map((name) => join(folder, "data", name));
  await writeCorpus(data[0]!, chainedTokens(2000, 1));
  await writeCorpus(data[1]!, chainedTokens(2000, 2).toReversed());
  const ranksPort = await freePort();
  const pod = (uid: string, rank: number, host: number): PodOfProcess => {
    const made = new PodOfProcess(uid, { spec, rank, host, ranksPort, ends: folder, claims: folder });
    pods.push(made);
    return made;
  };
  const [zero, one, two] = [0, 1, 2].map((rank) => pod(`pod-${rank}`, rank, rank + 1)) as [PodOfProcess, PodOfProcess, PodOfProcess];
  await meetIn(1, [zero, one, two]);
  await until("steps", () => two.step >= everySteps + 2);
  two.process.kill("SIGKILL");
  await outOf(1, [zero, one]);
  const round = Math.ceil((two.step + 1) / localSteps);
  assert.ok(zero.step <= (round + 1) * localSteps, `${zero.step} steps without a mean of both`);
  const next = pod("next", 2, 4);
  await meetIn(2, [zero, one, next]);
  await until("the end", () => zero.process.exitCode !== null);
  assert.deepEqual([zero.end?.outcome, zero.end?.report?.step], ["Complete", steps]);
  assert.ok(zero.from[1]! >= everySteps && zero.from[1]! % everySteps === 0, `from ${zero.from[1]}, which all had`);
  assert.deepEqual(next.from, [zero.from[1]]);

  const ports = { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} };
  const alone = { ...trainSettings(spec), model: tinyModel.dir, out: join(folder, "quiet") };
  await trainWorlds(alone, data, () => ports);
  assert.equal(modelIn(join(folder, "models/out")), modelIn(join(folder, "quiet")));
});
