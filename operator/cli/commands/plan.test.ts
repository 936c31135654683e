import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { imbalance } from "../../../runtime/placement/imbalance.ts";
import { loadByWeights } from "../../../runtime/placement/split.ts";
import type { SplitName, WindowResult } from "../../planner/offline/simulate.ts";
import { decodeTrace, windowOf } from "../../planner/offline/traces.ts";
import { execute } from "../command-tree.ts";
import { enodia as commands } from "../registry.ts";
import { plot } from "./plan-plot.ts";

const plan = (line: readonly string[]) => execute(commands, ["plan", ...line]);
const main = resolve(import.meta.dirname, "../main.ts");
const dir = mkdtempSync(join(tmpdir(), "enodia-plan-"));
const trace = join(dir, "t.json.gz");
/** The working directory of commands. */
const work = join(dir, "work");
mkdirSync(work);

function enodia(...args: string[]): { code: number | null; out: string; err: string } {
  const done = spawnSync(process.execPath, [main, "plan", ...args], { encoding: "utf8", cwd: work });
  return { code: done.status, out: done.stdout, err: done.stderr };
}

before(() => {
  assert.equal(enodia("generate", "--preset", "mixtral_32x8", "--windows", "4", "--out", trace).code, 0);
});
after(() => rmSync(dir, { recursive: true }));

interface Line {
  window: number;
  epoch: number;
  layers: { hosts: number[][]; weights: number[][] }[];
  expertReplicas: number;
  bytes: number;
  ms: number;
}

test("simulate writes one plan per window, within the slots, whose weights sum to one and whose expert replicas are its new hosts", async () => {
  const file = join(dir, "plan.jsonl");
  const svg = join(dir, "plot.svg");
  const run = enodia(
    "simulate",
    "--trace",
    trace,
    "--ranks",
    "8",
    "--slots",
    "2",
    "--expert-bytes",
    "10",
    "--plan-out",
    file,
    "--plot",
    svg,
    "--json",
    "--compare",
    "eplb,hecate",
    "--split",
    "fixed",
  );
  assert.equal(run.code, 0, run.err);
  const report = JSON.parse(run.out);
  assert.deepEqual(
    report.policies.map((row: { policy: string }) => row.policy),
    ["incremental", "eplb", "hecate"],
  );
  const lines = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line): Line => JSON.parse(line));
  assert.deepEqual(
    lines.map((line) => [line.window, line.epoch]),
    [
      [0, 1],
      [1, 2],
      [2, 3],
      [3, 4],
    ],
  );
  const read = await decodeTrace(readFileSync(trace));
  let balance = 0;
  lines.forEach((line, t) => {
    assert.equal(line.layers.length, 32);
    let expertReplicas = 0;
    line.layers.forEach(({ hosts, weights }, l) => {
      assert.equal(hosts.length, 8);
      for (let g = 0; g < 8; g++) assert.ok(hosts.filter((row) => row.includes(g)).length <= 2);
      hosts.forEach((row, e) => {
        assert.ok(row.length > 0 && new Set(row).size === row.length && row.every((g) => Number.isInteger(g) && g >= 0 && g < 8));
        assert.ok(Math.abs(weights[e]!.reduce((a, b) => a + b, 0) - 1) < 1e-9);
        if (t > 0) expertReplicas += row.filter((g) => !lines[t - 1]!.layers[l]!.hosts[e]!.includes(g)).length;
      });
      if (t < 3) {
        const demand = windowOf(read, t + 1).subarray(l * 8, (l + 1) * 8);
        const load = loadByWeights(
          demand,
          hosts,
          weights.map((row) => row.map((weight) => weight * 1000)),
          8,
        );
        balance += 1 / imbalance(load, new Float64Array(8).fill(1)) / 96;
      }
    });
    assert.deepEqual([line.expertReplicas, line.bytes], [expertReplicas, expertReplicas * 10]);
  });
  assert.ok(Math.abs(balance - report.policies[0].balance.fixed) < 1e-9, "the printed balance is that of the plans written");
  const picture = readFileSync(svg, "utf8");
  assert.ok(picture.startsWith("<svg") && picture.includes("hecate") && picture.trimEnd().endsWith("</svg>"));
});

test("simulate honours the budget, speeds and slots that differ by layer", () => {
  const file = join(dir, "hetero.jsonl");
  const run = enodia(
    "simulate",
    "--trace",
    trace,
    "--ranks",
    "4",
    "--slots-total",
    "96",
    "--budget-expert-replicas",
    "3",
    "--budget-expert-replicas-per-rank",
    "1",
    "--rank-speeds",
    "1,0.5",
    "--plan-out",
    file,
  );
  assert.equal(run.code, 0, run.err);
  assert.match(run.out, /incremental/);
  const lines = readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line): Line => JSON.parse(line));
  for (const [n, line] of lines.entries()) {
    assert.ok(line.window === 0 ? line.expertReplicas === 0 : line.expertReplicas <= 3);
    for (let g = 0; g < 4; g++) {
      const held = line.layers.map((layer) => layer.hosts.flatMap((row, e) => (row.includes(g) ? [e] : [])));
      assert.ok(held.reduce((sum, layer) => sum + layer.length, 0) <= 96);
      const taken = held.flatMap((layer, l) => layer.filter((e) => n > 0 && !lines[n - 1]!.layers[l]!.hosts[e]!.includes(g)));
      assert.ok(taken.length <= 1, `window ${n}, rank ${g}: ${taken.length}`);
    }
  }
});

test("a plot is written beside the trace, or where one works, and its path is printed; --no-plot writes none", () => {
  const args = ["simulate", "--trace", trace, "--ranks", "4", "--slots", "2"];
  const beside = join(dir, "t.plot.svg");
  rmSync(beside, { force: true });
  assert.ok(!/plot/.test(enodia(...args, "--no-plot").out) && !existsSync(beside));
  assert.match(enodia(...args).out, /\nplot: \S+\/t\.plot\.svg\n$/);
  assert.ok(readFileSync(beside, "utf8").startsWith("<svg"));
  rmSync(beside);
  mkdirSync(beside); // in the way, as a folder that takes no file
  assert.equal(JSON.parse(enodia(...args, "--json").out).plot, "t.plot.svg");
  assert.ok(existsSync(join(work, "t.plot.svg")));
  rmSync(join(work, "t.plot.svg"));
  mkdirSync(join(work, "t.plot.svg"));
  const nowhere = enodia(...args, "--json");
  assert.deepEqual([nowhere.code, JSON.parse(nowhere.out).plot], [0, null]);
  assert.match(nowhere.err, /no plot: .* cannot be written/);
  assert.match(enodia(...args, "--plot", work).err, /--plot: cannot write/);
});

test("outputs replace earlier outputs of their kind and nothing else, the trace that is read among it", async () => {
  const [own, text] = [join(dir, "own.json.gz"), join(dir, "letter.txt")];
  writeFileSync(text, "dear all");
  const generate = (...more: string[]) => plan(["generate", "--preset", "mixtral_32x8", "--windows", "1", ...more]);
  assert.equal(await generate("--out", own), 0);
  await assert.rejects(generate("--out", own), { code: "AlreadyExists", message: /own\.json\.gz exists already; pass --overwrite/ });
  assert.equal(await generate("--out", own, "--overwrite"), 0);
  const simulated = ["simulate", "--trace", own, "--ranks", "4", "--slots", "2", "--json"];
  const lines = join(dir, "lines.jsonl");
  const picture = join(dir, "picture.svg");
  for (let twice = 0; twice < 2; twice++) assert.equal(await plan([...simulated, "--plan-out", lines, "--plot", picture]), 0);
  const before = [own, text, lines, picture].map((file) => readFileSync(file));
  const wrong: Record<string, () => Promise<number>> = {
    "a text as trace": () => generate("--out", text, "--overwrite"),
    "plans as trace": () => generate("--out", lines, "--overwrite"),
    "the trace as plans": () => plan([...simulated, "--plan-out", own]),
    "the trace as plot": () => plan([...simulated, "--plot", own]),
    "a text as plans": () => plan([...simulated, "--plan-out", text]),
    "plans as plot": () => plan([...simulated, "--plot", lines]),
    "a recording over a text": () => plan(["record", "x", "--out", text, "--overwrite"]),
  };
  for (const [what, run] of Object.entries(wrong)) {
    await assert.rejects(run, { code: "NotReplaceable", message: /cannot write \S+: it is there and is not .*; name another file/ }, what);
  }
  assert.deepEqual(
    [own, text, lines, picture].map((file) => readFileSync(file)),
    before,
  );
});

test("what is wrong with the options is said, with the remedy", async () => {
  const bad = join(dir, "bad.gz");
  writeFileSync(bad, "not a trace");
  const unlike = join(dir, "unlike.json");
  const sizes = { name: "u", windows: 1, layers: 2, experts: 2, layerExperts: [1, 2] };
  writeFileSync(unlike, JSON.stringify({ ...sizes, counts: Buffer.alloc(16).toString("base64") }));
  const cases: Record<string, [string[], RegExp]> = {
    "too few for the experts that there are": [["--trace", unlike, "--ranks", "1", "--slots-total", "2"], /do not hold 3 experts/],
    "too few slots": [["--trace", trace, "--ranks", "3", "--slots", "2"], /--slots: 3 ranks x 2 slots do not hold 8 experts: at least 3/],
    "too few in all": [["--trace", trace, "--ranks", "4", "--slots-total", "10"], /at least 64/],
    both: [["--trace", trace, "--ranks", "4", "--slots", "2", "--slots-total", "80"], /exclude each other/],
    neither: [["--trace", trace, "--ranks", "4"], /--slots or --slots-total/],
    policy: [
      ["--trace", trace, "--ranks", "4", "--slots", "2", "--policy", "best"],
      /argument 'best' is invalid. Allowed choices are incremental, hecate/,
    ],
    ranks: [
      ["--trace", trace, "--ranks", "none", "--slots", "2"],
      /'--ranks <number>' argument 'none' is invalid. it must be a whole number/,
    ],
    speeds: [
      ["--trace", trace, "--ranks", "4", "--slots", "2", "--rank-speeds", "1,-1"],
      /'--rank-speeds <list>' argument '1,-1' is invalid. it must be a list of numbers above 0/,
    ],
    timing: [
      ["--trace", trace, "--ranks", "4", "--slots", "2", "--timing", "1,2"],
      /'--timing <d,e,c>' argument '1,2' is invalid. 2 numbers, expected three/,
    ],
    "plot and none": [["--trace", trace, "--ranks", "4", "--slots", "2", "--plot", "p", "--no-plot"], /exclude each other/],
    trace: [["--trace", bad, "--ranks", "4", "--slots", "2"], /neither JSON nor gzip/],
    "plan file": [["--trace", trace, "--ranks", "4", "--slots", "2", "--plan-out", join(dir, "no", "where")], /--plan-out: cannot write/],
  };
  for (const [name, [args, message]] of Object.entries(cases)) {
    await assert.rejects(plan(["simulate", ...args]), { message }, name);
  }
});

test("every subcommand explains itself", () => {
  for (const name of ["simulate", "record"]) {
    const run = enodia(name, "--help");
    assert.equal(run.code, 0);
    assert.match(run.out, new RegExp(`Usage: enodia plan ${name}`));
  }
  assert.equal(enodia("nonsense").code, 2);
});

const red = 'fill="rgb(255,0,0)"';
const count = (picture: string, part: string): number => picture.split(part).length - 1;

/** A picture of so many ranks and windows, all at the mean but rank 3 in window 5, which is overloaded by one split. */
function picture(split: SplitName, ranks: number, windows: number, overloaded: SplitName = split): string {
  const even = () => new Float64Array(ranks).fill(1);
  const results = Array.from({ length: windows }, (_, window): WindowResult => {
    const rankLoad = { equal: even(), fixed: even(), optimal: even() };
    if (window === 5) rankLoad[overloaded][3] = 2;
    const one = { balance: 1, worst: 1 };
    return { window, expertReplicas: 0, bytes: 0, ms: 0, reason: "", next: { equal: one, fixed: one, optimal: one }, bound: 1, rankLoad };
  });
  const trace = { name: "t", windows, layers: 1, experts: 1, counts: new Uint32Array(windows) };
  return plot({ trace, split, ranks, runs: [{ name: "p", results }] });
}

for (const split of ["equal", "fixed", "optimal"] as const) {
  test(`the heat map is that of the split ${split}`, () => {
    assert.equal(count(picture(split, 8, 10), red), 1);
    assert.equal(count(picture(split, 8, 10, split === "equal" ? "fixed" : "equal"), red), 0);
    assert.match(picture(split, 8, 10), { equal: /split equally/, fixed: /the plan's weights/, optimal: /split at best/ }[split]);
  });
}

test("ranks and windows beyond what a picture can show share cells by the highest value, and it says so", () => {
  const small = picture("fixed", 130, 150);
  assert.ok(!small.includes("the highest of"));
  const large = picture("fixed", 1024, 4000);
  assert.equal(count(large, red), 1, "one hot rank in one window is still seen");
  assert.match(large, /a cell is the highest of 8 ranks x 27 windows/);
  assert.ok(count(large, "<rect") < 20_100);
  assert.ok(large.length < 4_000_000);
});
