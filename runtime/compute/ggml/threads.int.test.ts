// Workers that share processors, each with more threads than are free: none stands still, and all end in a like time. Each is a process
// of its own, as ranks are; this file is their program, too.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { randomTensor } from "../../kernels/random.ts";
import { CpuDevice } from "./device.ts";
import { SingleExperts } from "./expert-programs.ts";

const file = fileURLToPath(import.meta.url);
const width = 512;
/** Without a look at what threads gain, two on one processor did not end one step in 100 s. */
const limitMs = 60_000;

/** Computes for a fixed number of steps, each of 30 products of one row; answers the milliseconds that it took. */
async function compute(steps: number): Promise<number> {
  const experts = new SingleExperts(new CpuDevice({ threads: 2 }));
  const ops = Array.from({ length: 30 }, (_, i) => ({ op: "matMul" as const, x: `x${i}`, weight: "w", out: `x${i + 1}` }));
  const w = { form: "f32" as const, shape: [width, width], data: randomTensor(1, [width, width]).data as Float32Array };
  const x = { shape: [1, width], data: randomTensor(2, [1, width]).data };
  const io = (name: string) => [{ name, dtype: "f32" as const, width }];
  const weights = [{ name: "w", shape: [width, width] }];
  const program = experts.expertSlab({ name: "chain", inputs: io("x0"), outputs: io("x30"), weights, ops }, 1).place(0, { w });
  const startedAt = performance.now();
  for (let i = 0; i < steps; i++) await program.run({ x0: x });
  return performance.now() - startedAt;
}

async function worker(processors: string, steps: number): Promise<number> {
  const options = { timeout: limitMs };
  const { stdout } = await promisify(execFile)("taskset", ["-c", processors, process.execPath, file, "compute", `${steps}`], options);
  return Number(stdout);
}

if (process.argv[2] === "compute") {
  process.stdout.write(`${await compute(Number(process.argv[3]))}`);
  process.exit(0);
}

test("two threads of one worker on one processor get on", async () => {
  assert.ok((await worker("0", 200)) > 0);
});

test("three workers of two threads each on two processors all end, the slowest in a like time", async () => {
  const times = await Promise.all([0, 1, 2].map(() => worker("0,1", 200)));
  assert.ok(Math.max(...times) < 10 * Math.min(...times), `${times.map(Math.round).join(", ")} ms`);
});
