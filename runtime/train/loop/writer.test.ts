// The writer of a run's output: the newest world's, and a run whose first rank stands still while another world goes on.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { chainedTokens, runSettings, writeCorpus, writeModel } from "../../../test/kit/training/training.ts";
import { Loopback } from "../../net/collectives/loopback.ts";
import { train } from "./run.ts";
import type { TrainPorts } from "./train-ports.ts";
import { Writer } from "./writer.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-writer-"));
after(() => rmSync(folder, { recursive: true }));

test("a newer world takes the output over, an older one never takes it back", async () => {
  const out = join(folder, "taken");
  const first = await Writer.take(out, { run: "a", world: 2 });
  await first.check();
  const second = await Writer.take(out, { run: "a", world: 3 });
  await assert.rejects(first.check(), { code: "GivenUp", message: /writer\.json: .*of world 2, changes nothing more; end the other one/ });
  await assert.rejects(Writer.take(out, { run: "a", world: 2 }), { code: "GivenUp" });
  await second.check();
  assert.deepEqual(readdirSync(out), ["writer.json"]);
});

test("numbers of another run say nothing, nor does what is no name", async () => {
  const out = join(folder, "other");
  await Writer.take(out, { run: "a", world: 9 });
  const other = await Writer.take(out, { run: "b", world: 1 });
  await other.check();
  writeFileSync(join(out, "writer.json"), "half");
  await assert.rejects(other.check(), { code: "GivenUp" });
  await (await Writer.take(out, { run: "b", world: 1 })).check();
});

/** All files below, with their bytes. */
function contents(dir: string): Record<string, string> {
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map(({ parentPath, name }) => join(parentPath, name)).toSorted();
  return Object.fromEntries(paths.map((path) => [path, readFileSync(path, "base64")]));
}

const data = join(folder, "data");
await writeCorpus(data, chainedTokens(400, 1));
const model = writeModel(join(folder, "model"), "mixtral", { initializer_range: 0.1 });
const steps = 4;
const settings = {
  ...runSettings,
  model,
  data,
  validation: data,
  schedule: { ...runSettings.schedule, steps },
  checkpoint: { everySteps: 2, keep: 1 },
};
const context = { run: "job", transport: new Loopback(1).transport(0), world: 1, facts: { node: [0], speed: [1] } };
const quiet = { now: () => 0, stopped: () => false, onStart() {}, onStep() {}, onValidation() {} };

/** Moments after which a run changes something, each with the step that it is of. */
const moments: Record<string, (at: (step: number) => void) => Partial<TrainPorts>> = {
  "its metrics of step 3": (at) => ({
    recorder: {
      async around(named, run) {
        const made = await run();
        if (named.name === "step 3") at(3);
        return made;
      },
    },
  }),
  "its checkpoint of step 2": (at) => ({ onStep: ({ step }) => at(step) }),
  "its result": (at) => ({ onValidation: ({ step }) => at(step === steps ? step : 0) }),
};
for (const [what, portsOf] of Object.entries(moments)) {
  const step = Number(/\d$/.exec(what)?.[0] ?? steps);
  test(`a first rank that stood still before ${what} changes nothing once a newer world has a writer`, async () => {
    const out = join(folder, `still-${step}`);
    let written: Record<string, string> = {};
    const ports = portsOf((now) => {
      if (now !== step) return;
      writeFileSync(join(out, "writer.json"), JSON.stringify({ run: "job", world: 2, writer: "another" }));
      written = contents(out);
    });
    await assert.rejects(train({ ...settings, out }, { ...quiet, ...ports }, context), { code: "GivenUp" });
    assert.ok(Object.keys(written).length > 1);
    assert.deepEqual(contents(out), written);
  });
}

test("a run that nobody else writes beside goes to its end, and so does one that is called again", async () => {
  const out = join(folder, "own");
  for (const world of [1, 1]) assert.equal((await train({ ...settings, out }, quiet, { ...context, world })).step, steps);
});
