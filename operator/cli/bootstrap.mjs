// Entry of every npm script: brings Node 24 and the locked dependencies, then runs the given file under that Node.
// Node 20 syntax, no dependencies, Linux. Set-up output goes to stderr so that a command's stdout stays its own.
// Usage: node operator/cli/bootstrap.mjs <file> [args...]
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const nodeVersion = "24.21.0";
const startedAt = Date.now();
const lockWaitMsMax = 10 * 60 * 1000; // another set-up of the same clone may be running
const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const cache = process.env.ENODIA_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "enodia");

const say = (text) => process.stderr.write(`enodia: ${text}\n`);

function fail(text) {
  say(text);
  process.exit(1);
}

/** Path of a Node 24 binary: this process's own, the cached one, or a fresh one from the npm package that ships it. */
function ensureNode() {
  if (Number(process.versions.node.split(".")[0]) >= 24) return process.execPath;
  if (process.platform !== "linux" || !["x64", "arm64"].includes(process.arch)) {
    fail(`Node ${process.versions.node} is too old and Node 24 comes along only on linux x64 and arm64; install Node 24 and run again`);
  }
  const home = join(cache, "node", `v${nodeVersion}`);
  const binary = join(home, "bin", "node");
  if (existsSync(binary)) return binary;
  say(`Node ${process.versions.node} found, fetching Node ${nodeVersion} into ${cache}`);
  mkdirSync(join(cache, "node"), { recursive: true });
  const work = mkdtempSync(join(cache, "node", "tmp-"));
  const packageName = `node-linux-${process.arch}`;
  const install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", work, `${packageName}@${nodeVersion}`];
  run("fetching Node 24", install, work);
  try {
    renameSync(join(work, "node_modules", packageName), home);
  } catch (error) {
    if (!existsSync(binary)) throw error; // another set-up was faster
  }
  rmSync(work, { recursive: true, force: true });
  return binary;
}

/** node_modules as package-lock.json says; a stamp tells whether that was done for this very lock file. */
function ensureDependencies(node) {
  const want = createHash("sha256")
    .update(readFileSync(join(root, "package-lock.json")))
    .digest("hex");
  const stamp = join(root, "node_modules", ".enodia-lock");
  const done = () => existsSync(stamp) && readFileSync(stamp, "utf8").trim() === want;
  if (done()) return;
  const lock = join(root, ".setup-lock");
  const deadline = Date.now() + lockWaitMsMax;
  for (let waits = false; !takeLock(lock); waits = true) {
    if (!waits) say(`waiting for another set-up, which holds ${lock}; remove it if none is running`);
    if (Date.now() > deadline) fail(`another set-up holds ${lock}; remove it if none is running`);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500);
  }
  try {
    if (done()) return;
    say("installing dependencies (npm ci)");
    run("installing dependencies", ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], root, node);
    writeFileSync(stamp, `${want}\n`);
  } finally {
    rmSync(lock, { recursive: true, force: true });
  }
}

function takeLock(lock) {
  try {
    mkdirSync(lock);
    return true;
  } catch {
    const held = statSync(lock, { throwIfNoEntry: false });
    if (held && Date.now() - held.mtimeMs > lockWaitMsMax) rmSync(lock, { recursive: true, force: true });
    return false;
  }
}

function run(what, [command, ...args], cwd, node = process.execPath) {
  const env = { ...process.env, PATH: `${dirname(node)}:${process.env.PATH}` };
  const done = spawnSync(command, args, { cwd, env, stdio: ["ignore", 2, 2] });
  if (done.error?.code === "ENOENT") fail(`${what}: ${command} is not on PATH; install Node.js with npm (any version from 20 on)`);
  if (done.status !== 0) fail(`${what} failed (${command} ${args.join(" ")}); the lines above say why`);
}

const [file, ...args] = process.argv.slice(2);
if (!file) fail("usage: node operator/cli/bootstrap.mjs <file> [args...]");
const node = ensureNode();
ensureDependencies(node);

const child = spawn(node, ["--disable-warning=ExperimentalWarning", resolve(root, file), ...args], {
  stdio: "inherit",
  env: { ...process.env, PATH: `${dirname(node)}:${process.env.PATH}`, ENODIA_CACHE: cache, ENODIA_STARTED_AT: String(startedAt) },
});
// Ctrl-C reaches the child through the terminal's process group; what is sent to this process alone is passed on.
for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
process.on("SIGINT", () => {});
child.on("exit", (code, signal) => {
  process.exitCode = code ?? (signal === "SIGINT" ? 130 : 1);
});
