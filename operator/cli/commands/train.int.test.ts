// `enodia data import` and `enodia train` as processes: text to a model, Ctrl-C leaves a checkpoint that the same line goes on from, and
// options that are wrong are named.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { tinyModel } from "../../../test/kit/training/training.ts";

const main = join(import.meta.dirname, "../main.ts");
const folder = mkdtempSync(join(tmpdir(), "enodia-train-cli-"));
after(() => rmSync(folder, { recursive: true }));
const [text, data, out] = ["text.txt", "data", "run"].map((name) => join(folder, name)) as [string, string, string];
writeFileSync(text, "Tokens take two experts of four. ".repeat(60));

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** `interruptAt`: what on standard error is answered by Ctrl-C. */
function enodia(args: readonly string[], interruptAt?: RegExp): Promise<Ended> {
  const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr, interrupted] = ["", "", false];
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
    if (interrupted || !interruptAt?.test(stderr)) return;
    interrupted = true;
    child.kill("SIGINT");
  });
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, stdout, stderr })));
}

const settings = ["--sequences", "2", "--micro-batches", "2", "--sequence-length", "16", "--threads", "1", "--schedule", "constant"];
const line = (steps: number): string[] => [
  "train",
  "--model",
  tinyModel.dir,
  "--data",
  data,
  "--out",
  out,
  "--steps",
  `${steps}`,
  ...settings,
];

test("text, Ctrl-C, and on to a model that can be inspected", async () => {
  const imported = await enodia(["data", "import", text, "--model", tinyModel.dir, "--out", data, "--json"]);
  assert.equal(imported.code, 0, imported.stderr);
  assert.equal(JSON.parse(imported.stdout).documents, 1);

  const stopped = await enodia(line(1_000_000), /^step 1\//m);
  assert.equal(stopped.code, 130, stopped.stderr);
  const step = Number(/stopped after step (\d+);/.exec(stopped.stdout)?.[1]);
  assert.ok(step >= 1);
  assert.match(stopped.stderr, /ending with a checkpoint/);
  assert.deepEqual(readdirSync(join(out, "checkpoints")), [`step-${String(step).padStart(8, "0")}`]);

  const trace = join(folder, "trace.json");
  const done = await enodia([...line(step + 2), "--json", "--trace", trace]);
  assert.equal(done.code, 0, done.stderr);
  assert.match(done.stderr, new RegExp(`going on after step ${step}`));
  assert.equal(JSON.parse(done.stdout).step, step + 2);
  const { traceEvents } = JSON.parse(readFileSync(trace, "utf8")) as { traceEvents: { name: string; cat?: string }[] };
  assert.deepEqual(
    traceEvents.filter(({ cat }) => cat === "step").map(({ name }) => name),
    [`step ${step + 1}`, `step ${step + 2}`],
  );
  assert.ok(traceEvents.some(({ name }) => name === "expert backward 1"));
  assert.ok(existsSync(join(out, "huggingface", "model.safetensors")));
  const inspected = await enodia(["model", "inspect", join(out, "store"), "--verify"]);
  assert.equal(inspected.code, 0, inspected.stderr);
});

test("worlds of several data meet, and one model comes of them", async () => {
  const worlds = join(folder, "worlds");
  const trace = join(folder, "worlds.json");
  const local = ["--local", "fedspeed:2:0.5:0", "--checkpoint-every", "2", "--json", "--trace", trace];
  const args = line(4).map((each) => (each === out ? worlds : each));
  const done = await enodia([...args, "--data", data, ...local]);
  assert.equal(done.code, 0, done.stderr);
  for (const world of [0, 1]) assert.match(done.stderr, new RegExp(`^world ${world}: .* parameters`, "m"));
  assert.equal(JSON.parse(done.stdout).store, join(worlds, "store"));
  const { traceEvents } = JSON.parse(readFileSync(trace, "utf8")) as { traceEvents: { name: string; pid: number; cat?: string }[] };
  for (const pid of [1, 2]) {
    const own = traceEvents.filter((event) => event.pid === pid);
    assert.deepEqual([own.filter(({ cat }) => cat === "step").length, own.filter(({ name }) => name === "worlds meet").length], [4, 2]);
  }
  for (const path of ["world-0/metrics.jsonl", "world-1/checkpoints/step-00000004", "huggingface/model.safetensors"])
    assert.ok(existsSync(join(worlds, path)), path);
});

const wrong: Record<string, readonly [args: readonly string[], message: RegExp]> = {
  "no model": [["train", "--steps", "3"], /--model is missing/],
  "steps that are no number": [
    [...line(1).slice(0, 7), "--steps", "many"],
    /'--steps <number>' argument 'many' is invalid. it must be a number/,
  ],
  "a schedule that is none": [
    [...line(1), "--schedule", "step"],
    /'--schedule <name>' argument 'step' is invalid. Allowed choices are constant, cosine/,
  ],
  "a recipe of balance that is none": [[...line(1), "--balance", "luck:1"], /--balance is "luck:1"; known are switch:RATE/],
  "data of worlds that nothing joins": [[...line(1), "--data", data], /--data is given 2 times; --local says how/],
  "data of worlds that a blank joins": [
    [...line(1), "--data", data, "--local", " "],
    /--data is given 2 times; --local says how their worlds meet: fedavg:STEPS/,
  ],
  "one world that meets nobody": [[...line(1), "--local", "fedavg:1"], /--local has 1 --data; give one for each of 2 to 64/],
  "a setting of another optimizer": [
    [...line(1), "--optimizer", "sgd", "--beta2", "0.9"],
    /--beta2 is no setting of --optimizer sgd; leave it out, it has --beta1, --weight-decay/,
  ],
  "an optimizer that is none": [
    [...line(1), "--optimizer", "lion"],
    /'--optimizer <name>' argument 'lion' is invalid. Allowed choices are adamw, sgd/,
  ],
  "an unknown option": [["train", "--bogus"], /unknown option '--bogus'; see: enodia train --help/],
  "data without a model": [["data", "import", text, "--out", data], /--model is missing/],
};

for (const [name, [args, message]] of Object.entries(wrong)) {
  test(`${name}: one line that names the option`, async () => {
    const { code, stderr } = await enodia(args);
    assert.equal(code, 2);
    assert.match(stderr, message);
    assert.equal(stderr.trim().split("\n").length, 1, stderr);
  });
}
