// The package as somebody installs it: packed, put into an empty folder, and run there without a clone, as enodia and as a plugin of
// kubectl.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { down, open } from "../../test/cluster/cluster.ts";
import { controlPlane, root } from "../../test/integration/control-plane.ts";
import { modelShapes, writeRandomGguf } from "../../test/kit/models/random-gguf.ts";
import { exec, execOk } from "../../test/kit/processes/process.ts";
import { version } from "./version.ts";

const name = "package-int";
let folder: string;
let env: NodeJS.ProcessEnv;

before(
  async () => {
    await controlPlane(name, 0);
    const { kubeconfig, binaries } = open(name);
    folder = mkdtempSync(join(tmpdir(), "enodia-package-"));
    const path = [dirname(process.execPath), process.env.PATH].join(":");
    const there = { cwd: folder, env: { ...process.env, PATH: path } };
    await execOk(process.execPath, [join(root, "operator/cli/pack.ts")], there);
    const [tarball] = readdirSync(folder).filter((file) => file.endsWith(".tgz"));
    const quiet = ["--omit=optional", "--prefer-offline", "--no-audit", "--no-fund", "--loglevel=error"];
    await execOk("npm", ["install", join(folder, tarball ?? ""), "--prefix", folder, ...quiet], there);
    const bins = join(folder, "node_modules/.bin");
    env = { ...process.env, PATH: [bins, dirname(binaries.kubectl), path].join(":"), KUBECONFIG: kubeconfig };
  },
  { timeout: 600_000 },
);
after(async () => {
  await down(name);
  if (folder) rmSync(folder, { recursive: true });
});

const run = (command: string, ...args: readonly string[]) => exec(command, args, { env, cwd: folder });

test("the package brings all that it needs but optional parts, and no source or test", () => {
  assert.deepEqual(
    readdirSync(join(folder, "node_modules")).filter((each) => !each.startsWith(".")),
    ["enodia"],
  );
  const files = readdirSync(join(folder, "node_modules/enodia"), { recursive: true, encoding: "utf8" });
  assert.deepEqual(
    files.filter((file) => !/^[\w-]+\.js$|^topics(\/\w+\.txt)?$|^(LICENSE|README\.md|package\.json)$/.test(file)).sort(),
    [],
  );
});

test("each command tells of a Node that is too old, and of an optional part that it lacks", async () => {
  const old = "data:text/javascript,Object.defineProperty(process,'versions',{value:{node:'20.1.0'}})";
  for (const line of [["doctor"], ["model", "import", "x"], ["--help"]]) {
    const { code, stderr } = await exec("enodia", line, { env: { ...env, NODE_OPTIONS: `--import ${old}` }, cwd: folder });
    assert.deepEqual([code, stderr], [1, "enodia: Node 20.1.0 is too old: install Node 24 or newer\n"], line.join(" "));
  }
  const { stderr } = await run("enodia", "runtime", "selftest");
  assert.match(stderr, /^enodia: the package koffi is not installed: install enodia without --omit=optional$/m);
});

test("enodia runs without a clone", async () => {
  const help = await run("enodia", "--help");
  assert.equal(help.code, 0, help.stderr);
  assert.match(help.stdout, /^ {2}status +what is wrong/m);
  const narrow = await exec("enodia", ["--help"], { env: { ...env, COLUMNS: "60" }, cwd: folder });
  assert.match(narrow.stdout, /^ {2}status +what is wrong with deployments and training\n +jobs/m);
  assert.equal((await run("enodia", "--version")).stdout, `${version}\n`);
});

test("a model so large that threads encode it is imported", async () => {
  const file = join(folder, "model.gguf");
  const shape = { ...modelShapes.olmoe, layers: 1, hidden: 1024, experts: 32, heads: 8, kvHeads: 8, queryNorm: 1024, keyNorm: 1024 };
  await writeRandomGguf(file, { shape }, 1);
  const { code, stderr } = await run("enodia", "model", "import", file, "--out", join(folder, "store"));
  assert.equal(code, 0, stderr);
});

/** The aim on a quiet machine is 0.25; a busy one shares cores and caches. */
const helpCpuSecondsMax = 0.5;

test("enodia --help loads little", async (t) => {
  const runs: number[] = [];
  for (let i = 0; i < 3; i++) {
    const { stdout } = await run("bash", "-c", "enodia --help >/dev/null; times"); // its second line is of the children
    const parts = [...(stdout.split("\n")[1] ?? "").matchAll(/(\d+)m([\d.]+)s/g)];
    assert.equal(parts.length, 2, stdout);
    runs.push(parts.reduce((sum, [, minutes, seconds]) => sum + 60 * Number(minutes) + Number(seconds), 0));
  }
  t.diagnostic(`${Math.min(...runs).toFixed(3)} s of CPU`);
  assert.ok(Math.min(...runs) < helpCpuSecondsMax, `${runs.join(", ")} s of CPU`);
});

test("every command loads, also without the optional dependencies", async () => {
  for (const command of [
    "status",
    "doctor",
    "top",
    "experts",
    "page",
    "logs",
    "bundle",
    "chat",
    "plan simulate",
    "model",
    "data",
    "train",
    "runtime",
  ]) {
    const { code, stderr } = await run("enodia", ...command.split(" "), "--help");
    assert.equal(code, 0, `${command}: ${stderr}`);
  }
});

test("kubectl finds the plugin, its status and its completion", async () => {
  const status = await run("kubectl", "enodia", "status", "-A");
  assert.equal(status.stdout, "no MoEDeployment and no MoETrainingJob in all namespaces\n", status.stderr);
  assert.match((await run("kubectl", "enodia", "doctor")).stdout, /^ok +CRDs +moedeployments/m);
  assert.equal((await run("kubectl_complete-enodia", "sta")).stdout, "status\n:4\n");
  assert.match((await run("kubectl", "__complete", "enodia", "sta")).stdout, /^status$/m);
});
