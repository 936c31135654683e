// The test runner: `npm test` and its smaller targets. Steps run in order, cheap ones first; the last line counts tests.
//   check        generated files, types, lint, dead code       unit         *.test.ts beside the source
//   integration  *.int.test.ts: real processes on loopback     e2e          *.e2e.test.ts: the product on the local cluster
import { spawnSync } from "node:child_process";
import { globSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { inspect } from "node:util";

const root = resolve(import.meta.dirname, "..");
/** Code that node has stripped of types and compiled, kept for the hundreds of processes that load the same files. */
process.env.NODE_COMPILE_CACHE ??= join(tmpdir(), `enodia-compiled-${process.getuid?.() ?? 0}`);
const targets = ["gen", "check", "unit", "integration", "e2e", "held", "all"] as const;
type Target = (typeof targets)[number];

/** A file that takes longer hangs. */
const fileMinutesMax = 25;
/** Of a run that is long by its purpose. */
const longMinutesMax: Readonly<Record<string, number>> = { "22-hundred-faults": 110 };

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
  /** Milliseconds of each file. */
  readonly files: Map<string, number>;
  /** What failed and why, said once more at the end: a log is often read from there. */
  readonly failures: string[];
}

const slowestMax = 20;
/** Failures that are said once more, and characters of each. */
const failuresMax = 10;
const failureCharsMax = 1500;

const usage = `usage: npm test                                check, unit, int and e2e; files held back are named with the reason
       npm run check                           generated files, types, lint, unused code
       npm run test:unit [-- PART...]          *.test.ts beside the source
       npm run test:int  [-- PART...]          *.int.test.ts: real processes on loopback, a local control plane (root)
       npm run test:e2e  [-- PART...]          *.e2e.test.ts: the product on the local cluster (root, Go)
       npm run test:held [-- PART...]          what npm test holds back, about four hours
       npm run test:gpu  [-- --help]           the contract of a GPU's backend, on a machine that has one or in software
       npm run test:sim  [-- SEEDS...]         the seeded fault search of a simulated cluster, of which test:unit runs a sample
       npm run test:fuzz [-- --help]           every fuzzer with as many inputs as are asked for, of which test:unit runs a sample
       npm run test:mutate [-- --help]         seeded faults of product code, and which of them the unit tests find
       npm run test:page [-- --out FOLDER]     the operator's page in Chromium, with screenshots to look at
       npm run test:scale [-- --help]          many deployments on simulated nodes, of which test:int runs a few
       npm run test:import [-- GB]             a checkpoint of 6 GB imported within a bound of memory; writes as much
       npm run gen                             writes the generated files

PART is part of a file name; files that hold one of the parts run. ENODIA_KEEP=1 leaves the e2e cluster up for a look
(KUBECONFIG: npm run -s cluster -- kubeconfig --name e2e). ENODIA_LONG=1 has the reference compute texts of 3,000
tokens, and training try every planner with every setting of ranks. ENODIA_PYTHON names a Python with torch and
transformers, which then reads what training wrote. ENODIA_REQUIRE_VULKAN=1 fails where the Vulkan
driver in software is not to be had, whose tests are skipped else. One test: node --test --test-name-pattern=REGEX FILE.`;

/** Files that `npm run test:e2e` or `test:int` runs and `npm test` does not, for their length; each with what `npm test` has instead. */
const heldBack: Readonly<Record<string, string>> = {
  "10-moving": "takes 17 minutes; 1-serving moves experts under traffic, and `npm run bench -- load` has the time between tokens",
  "11-faults": "takes 12 minutes; test/sim/fault-table.test.ts tries the same faults in every step",
  "12-soaks":
    "takes 22 minutes; runtime/observe/idle-sockets.int.test.ts holds the sockets for seconds, operator/outage.int.test.ts has the API server away as long",
  "13-drain": "takes 8 minutes; runtime/worker/leaving.int.test.ts and operator/rebalance/handover.test.ts have each hand-over",
  "15-stalls": "takes 15 minutes; runtime/gateway/routing/stalls.int.test.ts and 3-failures print the same table for a few losses",
  "18-training-faults":
    "takes 10 minutes; runtime/train/pod/killed.test.ts kills ranks over TLS, and test/sim/training.test.ts tries faults by seed",
  "17-training":
    "takes 6 minutes; runtime/train/pod/trainer.test.ts has the bits of a stopped run, operator/training/training.int.test.ts the real API server",
  "20-autoscale":
    "takes 6 minutes; operator/deployment/autoscaler.test.ts has the same in a simulated cluster, autoscaler.int.test.ts other writers on a real API server",
  "21-delivery":
    "takes some minutes; runtime/modelstore/weight-server/weight-server.int.test.ts has the same weight server and ranks on loopback, operator/deployment/seeding.test.ts its pod's life",
  "25-zero":
    "takes 4 minutes; operator/deployment/autoscaler-zero.test.ts has the same with a gateway played, runtime/gateway/hold.int.test.ts a real one",
  "22-hundred-faults":
    "takes an hour; test/sim/faults.test.ts has seeded faults of a simulated cluster, 3-failures and 4-outages some of these",
  "23-autoscalers": "builds KEDA, which takes half an hour; operator/deployment/roles.int.test.ts scales by /scale on a real API server",
  "26-page":
    "takes 10 minutes; npm run test:page has the page in Chromium, operator/page/proxy.int.test.ts behind the proxy of a real API server",
  "24-revision":
    "takes 10 minutes; operator/deployment/blue-green.test.ts and blue-green.int.test.ts have the same changes with played pods",
  "world.int":
    "wants a quiet machine for some minutes; deployments.int.test.ts has the same nodes and ranks, test/bench/world.test.ts the bytes of a large world",
  "31-kv-moves":
    "takes some minutes; runtime/gateway/prefill-decode.int.test.ts kills either end at each step on loopback, test/sim kv in each order",
  "16-numerics": "takes 2 minutes; operator/rebalance/status/view.test.ts has ranks of two classes, test/bench kv the KV types",
  "27-claims": "takes 2 minutes; operator/pods/claim-use.test.ts and operator/deployment/delivery.int.test.ts have both kinds of claim",
  "28-hecate": "takes 3 minutes; 2-rebalance has the same tests of the default policy, test/sim the policy itself",
  "29-oversubscribed":
    "takes 3 minutes; runtime/worker/oversubscribed.int.test.ts has such ranks, operator/rebalance the plans and test/sim their faults",
  "30-mixed-bits": "takes 3 minutes; runtime/worker/unlike-forms.int.test.ts moves such experts between three ranks on loopback",
  "cluster.int": "takes a minute; every e2e file runs on such a cluster",
  "19-rollouts": "takes 8 minutes; operator/deployment/rollout.test.ts has the same roll backs in a simulated cluster",
};

/** Scripts that write what is generated; with --check they fail on drift instead. */
const generators = [
  "crds/generate.ts",
  "runtime/net/generate.ts",
  "operator/dashboards/generate-dashboards.ts",
  "operator/deployment/generate-role.ts",
  "test/golden/make_wire.ts",
];

/** Each check is one command; all run, so that one look shows everything that is wrong. */
const checks: readonly (readonly [name: string, ...argv: string[]])[] = [
  ...generators.map((script) => [`generated by ${script}`, script, "--check"] as const),
  ["types", "node_modules/typescript/bin/tsc", "-p", "."],
  ["lint and format", "node_modules/@biomejs/biome/bin/biome", "ci", "--colors=off", "--error-on-warnings", "."],
  ["unused code", "node_modules/knip/bin/knip.js", "--no-progress"],
];

function runChecks(counts: Counts): void {
  for (const [name, ...argv] of checks) {
    const started = Date.now();
    const done = spawnSync(process.execPath, argv, { cwd: root, encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });
    const ok = done.status === 0;
    counts[ok ? "passed" : "failed"] += 1;
    process.stdout.write(`${ok ? "✔" : "✖"} check: ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)\n`);
    if (!ok) process.stdout.write(`${done.stdout}${done.stderr}\n`);
    if (!ok) counts.failures.push(`check: ${name}\n${done.stdout}${done.stderr}`);
  }
}

/** Files that take longest begin first, so that no core idles at the end while one of them runs on. */
const longestFirst = [
  "test/sim/faults.",
  "operator/planner/properties.",
  "test/contract/",
  "test/sim/",
  "test/spec-fields.",
  "operator/rebalance/loop",
];

function place(file: string): number {
  const found = longestFirst.findIndex((part) => file.startsWith(part));
  return found < 0 ? longestFirst.length : found;
}

function testFiles(kind: "unit" | "integration" | "e2e", filters: readonly string[]): string[] {
  const all = globSync("{crds,operator,runtime,test}/**/*.test.ts", { cwd: root }).sort();
  if (kind === "unit") all.sort((a, b) => place(a) - place(b));
  const suffix = { integration: ".int.test.ts", e2e: ".e2e.test.ts", gpu: ".gpu.test.ts" } as const; // the last by `npm run test:gpu`
  const mine = all.filter((file) =>
    kind === "unit" ? !Object.values(suffix).some((end) => file.endsWith(end)) : file.endsWith(suffix[kind]),
  );
  return mine.filter((file) => filters.length === 0 || filters.some((part) => file.includes(part))).map((file) => resolve(root, file));
}

function runFiles(files: readonly string[], concurrency: number, counts: Counts): Promise<void> {
  if (files.length === 0) return Promise.resolve();
  return new Promise((done) => {
    // A failed test may leave a timer or a socket behind: its file ends all the same.
    const execArgv = ["--disable-warning=ExperimentalWarning", "--test-force-exit"];
    const minutes = files.flatMap((file) =>
      Object.entries(longMinutesMax).flatMap(([name, most]) => (file.includes(`/${name}.`) ? most : [])),
    );
    const stream = run({ files: [...files], concurrency, execArgv, timeout: Math.max(fileMinutesMax, ...minutes) * 60_000 });
    // A suite is not a test: only leaves count.
    const timed = ({ file, nesting, details }: { file?: string | undefined; nesting: number; details: { duration_ms: number } }): void => {
      if (file !== undefined && nesting === 0) counts.files.set(file, (counts.files.get(file) ?? 0) + details.duration_ms);
    };
    stream.on("test:pass", (event) => {
      timed(event);
      if (event.details.type === "suite") return;
      counts[event.skip !== undefined || event.todo !== undefined ? "skipped" : "passed"] += 1;
    });
    stream.on("test:fail", (event) => {
      timed(event);
      if (event.details.type === "suite") return;
      counts.failed += 1;
      const file = event.file === undefined ? "" : `${relative(root, event.file)}: `;
      counts.failures.push(`${file}${event.name}\n${inspect(event.details.error.cause ?? event.details.error)}`);
    });
    stream.on("end", done);
    stream.compose(spec).pipe(process.stdout, { end: false });
  });
}

/** Runs a stage, and says at its end how long it took. */
async function stage(name: string, run: () => void | Promise<void>): Promise<void> {
  const started = Date.now();
  await run();
  process.stdout.write(`# ${name}: ${Math.round((Date.now() - started) / 1000)} s\n`);
}

function printSlowest(files: ReadonlyMap<string, number>): void {
  const slowest = [...files].sort(([, a], [, b]) => b - a).slice(0, slowestMax);
  for (const [file, ms] of slowest) process.stdout.write(`# ${String(Math.round(ms / 1000)).padStart(5)} s  ${relative(root, file)}\n`);
}

/** Builds the programs that tests run, whose time on a slow machine is no file's. Where that fails, tests that need one say why. */
async function buildPrograms(): Promise<void> {
  const { ensureBinaries, programNames } = await import("./cluster/binaries.ts");
  const only = programNames;
  await ensureBinaries((line) => void process.stdout.write(`# ${line}\n`), { only }).catch(() => undefined);
}

interface Integration {
  /** Files that bring up a control plane: one after another, since they share what the machine has one of. */
  readonly planes: readonly string[];
  readonly alone: readonly string[];
  readonly withPrograms: readonly string[];
}

function integrationFiles(filters: readonly string[], counts: Counts, target: Target): Integration {
  const files = toRun(testFiles("integration", filters), counts, target);
  const importing = (name: RegExp) => files.filter((file) => name.test(readFileSync(file, "utf8")));
  const planes = importing(/from "[./\w-]*\/(cluster|control-plane)\.ts"/);
  const withPrograms = importing(/from "[./\w-]*\/binaries\.ts"/).filter((file) => !planes.includes(file));
  return { planes, withPrograms, alone: files.filter((file) => !planes.includes(file) && !withPrograms.includes(file)) };
}

/** Two lanes: files with a control plane, and the others. */
function integrationLanes({ planes, alone, withPrograms }: Integration, counts: Counts): readonly Promise<void>[] {
  const built = planes.length + withPrograms.length > 0 ? stage("programs", buildPrograms) : Promise.resolve();
  const beside = runFiles(alone, 1, counts).then(() => built.then(() => runFiles(withPrograms, 1, counts)));
  return [built.then(() => runFiles(planes, 1, counts)), beside];
}

/** Unit files that a lane takes at once. */
const partFiles = 40;

/** Integration tests mostly wait: unit tests run beside their two lanes, which take unit tests as well at the end. */
async function runUnitAndIntegration(counts: Counts): Promise<void> {
  const unit = testFiles("unit", []);
  const parts = Array.from({ length: Math.ceil(unit.length / partFiles) }, (_, at) => unit.slice(at * partFiles, (at + 1) * partFiles));
  const take = async (): Promise<void> => {
    for (let part = parts.shift(); part !== undefined; part = parts.shift()) await runFiles(part, 1, counts);
  };
  const lanes = integrationLanes(integrationFiles([], counts, "all"), counts);
  await Promise.all([...lanes.map((lane) => lane.then(take)), take()]);
}

/** The files that a target runs: `held` those that `npm test` holds back, `all` the others with a line for each that is held back. */
function toRun(files: readonly string[], counts: Counts, target: Target): string[] {
  const held = files.filter((file) => reasonToHold(file) !== undefined);
  if (target === "held") return held;
  if (target !== "all") return [...files];
  for (const file of held) process.stdout.write(`- held back: ${file.slice(root.length + 1)} (${reasonToHold(file)})\n`);
  counts.skipped += held.length;
  return files.filter((file) => !held.includes(file));
}

const reasonToHold = (file: string): string | undefined => Object.entries(heldBack).find(([name]) => file.includes(`/${name}.`))?.[1];

/** Files of e2e tests that leave nodes, NATS and the operator in peace and mostly wait: two at a time, the longest first. */
const besideOthers = ["5-memory", "9-status", "8-long-streams", "19-clients"].map((name) => `/${name}.`);

/** All e2e files share one cluster, which goes when they are done; ENODIA_KEEP=1 leaves it for a look. */
async function runE2e(filters: readonly string[], counts: Counts, target: Target): Promise<void> {
  const { down } = await import("./cluster/cluster.ts");
  const name = "e2e";
  process.env.ENODIA_E2E_CLUSTER = name;
  process.once("SIGINT", () => {
    process.stdout.write("\ninterrupted: taking the e2e cluster down\n");
    down(name).finally(() => process.exit(130));
  });
  try {
    const files = toRun(testFiles("e2e", filters), counts, target);
    await stage("programs", buildPrograms);
    const beside = besideOthers.flatMap((name) => files.filter((file) => file.includes(name)));
    const alone = files.filter((file) => !beside.includes(file));
    await runFiles(alone, 1, counts);
    await runFiles(beside, alone.length > 0 ? 2 : 1, counts); // the first file of all brings the cluster up
  } finally {
    if (process.env.ENODIA_KEEP !== "1") await down(name);
  }
}

async function main(argv: readonly string[]): Promise<void> {
  const [target, ...filters] = argv;
  if (argv.includes("--help") || argv.includes("-h")) {
    process.stdout.write(`${usage}\n`);
    return;
  }
  if (!targets.includes(target as Target)) {
    process.stderr.write(`${usage}\n`);
    process.exitCode = 2;
    return;
  }
  if (target === "gen") {
    for (const script of generators) spawnSync(process.execPath, [script], { cwd: root, stdio: "inherit" });
    return;
  }
  const counts: Counts = { passed: 0, failed: 0, skipped: 0, files: new Map(), failures: [] };
  const wants = (name: Target): boolean => target === "all" || target === name;
  if (wants("check")) await stage("check", () => runChecks(counts));
  const held = target === "held";
  if (target === "all") await stage("unit and integration", () => runUnitAndIntegration(counts));
  if (target === "unit") await runFiles(testFiles("unit", filters), 2, counts);
  if (target === "integration" || held) await Promise.all(integrationLanes(integrationFiles(filters, counts, target as Target), counts));
  if (wants("e2e") || held) await stage("e2e", () => runE2e(filters, counts, target as Target));
  printSlowest(counts.files);
  for (const failure of counts.failures.slice(0, failuresMax)) process.stdout.write(`\n✖ ${failure.slice(0, failureCharsMax)}\n`);
  const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : "";
  process.stdout.write(`\n${counts.passed} passed, ${counts.failed} failed${skipped}\n`);
  process.exitCode = counts.failed === 0 && counts.passed > 0 ? 0 : 1;
}

await main(process.argv.slice(2));
