// A sample of every fuzzer, each with its planted bug found, and what once failed tried again. `npm run test:fuzz -- --inputs 1000000`
// tries more.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { z } from "zod";
import { judged, randomOf, read, written } from "./fuzzer.ts";
import { fuzzerOf, fuzzers } from "./index.ts";
import { type Report, runJobs } from "./run.ts";

/** Inputs of this file in all, and those of a fuzzer at least, so that each has some of either kind. */
const inputs = 2_500;
const leastInputs = 40;
/** Inputs after which a planted bug should long have been found. */
const plantedInputs = 3_000;

test("inputs of every fuzzer are taken or refused, and its planted bug is found", async (t) => {
  const shares = fuzzers.reduce((sum, { share }) => sum + share, 0);
  const jobs = fuzzers.map(({ name, share, deadlineMs }) => {
    return { name, deadlineMs, seed: 1, from: 0, count: Math.max(leastInputs, Math.ceil((inputs * share) / shares)), plantedInputs };
  });
  const reports: Report[] = [];
  await runJobs(jobs, (report) => reports.push(report));
  for (const { job, counts, finding, planted } of reports)
    await t.test(job.name, () => {
      assert.deepEqual(finding, undefined, `npm run test:fuzz -- --only ${job.name} --seed 1 --from ${finding?.at} --inputs 1`);
      const refuses = fuzzerOf(job.name).refusals.length > 0;
      assert.ok(counts.taken > 0 && (!refuses || counts.refused > 0), JSON.stringify(counts));
      assert.equal(planted?.kind, "crash", "the planted bug was not found");
    });
  assert.equal(reports.length, fuzzers.length);
});

test("an input that never ends, and one that takes all memory, are found, and the jobs after them go on", async () => {
  const job = (name: string) => ({ name, deadlineMs: fuzzerOf(name).deadlineMs, seed: 1, from: 5, count: 3, plantedInputs: 0 });
  const found: unknown[] = [];
  await runJobs(["hangs", "tool-calls", "grows"].map(job), ({ finding }) => found.push(finding && [finding.kind, finding.at]));
  assert.deepEqual(found, [["hang", 5], undefined, ["memory", 5]]);
});

test("what once failed is taken or refused now", async (t) => {
  const text = await readFile(join(import.meta.dirname, "corpus.json"), "utf8");
  const corpus = z.array(z.strictObject({ fuzzer: z.string(), found: z.string().min(1), input: z.unknown() })).parse(JSON.parse(text));
  const folder = await mkdtemp(join(tmpdir(), "enodia-fuzz-"));
  t.after(() => rm(folder, { recursive: true }));
  for (const [name, entries] of Map.groupBy(corpus, ({ fuzzer }) => fuzzer)) {
    const fuzzer = fuzzerOf(name);
    const subject = await fuzzer.start(folder);
    for (const { found, input } of entries) await assert.doesNotReject(judged(fuzzer, subject, read(input)), found);
    await fuzzer.stop?.(subject);
  }
});

test("an input is the same for its seed and number, and is read as it was written down", async () => {
  for (const name of ["frames", "deployments", "tool-calls"]) {
    const { input } = fuzzerOf(name);
    const make = (seed: number, at: number): string => written(input(randomOf(name, seed, at), undefined));
    assert.equal(make(1, 7), make(1, 7));
    assert.notEqual(make(1, 7), make(1, 8));
    assert.notEqual(make(1, 7), make(2, 7));
    assert.equal(written(read(JSON.parse(make(1, 7)))), make(1, 7));
  }
});
