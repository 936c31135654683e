// `npm run test:gpu`: everything that is to be tried on a machine with a GPU, in one command, or what of it runs in software. Each case
// of an op has a process of its own in software, where drivers end processes; on a GPU one process has them all, then the contract.
import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { gpuInstalled } from "../../runtime/compute/ggml/library.ts";
import { type GpuName, gpuNames, librariesOf, packageVersion } from "../../runtime/compute/ggml/packages.ts";
import type { OpResult } from "../../runtime/compute/trial.ts";
import { allCases } from "../../runtime/kernels/index.ts";
import { lavapipe } from "./lavapipe.ts";

const usage = `usage: npm run test:gpu -- cuda|vulkan [--software]

Fetches ggml's library for that kind of GPU where it is missing, runs the self-test, and the contract suite of backends with the golden
logits. --software: vulkan on Mesa's llvmpipe, from Debian's packages unpacked into the cache; every case of the self-test in a process
of its own, and no contract suite.`;

const root = resolve(import.meta.dirname, "../..");
/** One case compiles kernels, which takes seconds in software; longer than this, it hangs. */
const caseMsMax = 120_000;
/** A driver in software may end a process; a case that is wrong stays wrong. */
const triesMax = 3;

const say = (line: string): void => void process.stdout.write(`${line}\n`);

function install(kind: GpuName): void {
  if (gpuInstalled(kind)) return;
  const [library] = librariesOf(kind, process.platform, process.arch);
  if (library === undefined) throw new Error(`there is no ${kind} library for ${process.platform} on ${process.arch}`);
  say(`installing ${library.package}@${packageVersion}, for this checkout only`);
  const npm = ["install", "--no-save", "--ignore-scripts", `${library.package}@${packageVersion}`];
  if (spawnSync("npm", npm, { cwd: root, stdio: "inherit" }).status !== 0) throw new Error(`npm ${npm.join(" ")} failed`);
}

/** True where the process ends well; what it prints is shown. */
function show(args: readonly string[], env: Readonly<Record<string, string>>): boolean {
  return spawnSync(process.execPath, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } }).status === 0;
}

/** The verdict on one case: undefined where its process ended before it said one. */
function tryCase(
  kind: GpuName,
  name: string,
  env: Readonly<Record<string, string>>,
): { readonly ok: boolean; readonly said: string } | undefined {
  const args = ["operator/cli/main.ts", "runtime", "selftest", "--backend", kind, "--no-speed", "--json", "--case", name];
  const done = spawnSync(process.execPath, args, { cwd: root, encoding: "utf8", timeout: caseMsMax, env: { ...process.env, ...env } });
  const line = done.stdout.split("\n").find((each) => each.startsWith("{"));
  if (line === undefined) return done.status === 1 ? { ok: false, said: done.stderr.trim().split("\n").at(-1) ?? "" } : undefined;
  const { passed, ops } = JSON.parse(line);
  // Attention has more than one: of them the one that is wrong.
  const { error, bound, refused } =
    ops.find((each: OpResult) => each.refused === undefined && !((each.error ?? Number.NaN) <= each.bound)) ?? ops[0];
  return {
    ok: passed || ops.every((each: OpResult) => each.refused !== undefined),
    said: refused ?? `error ${error?.toExponential?.(1) ?? error}, bound ${bound.toExponential(0)}`,
  };
}

function casesApart(kind: GpuName, env: Readonly<Record<string, string>>): boolean {
  let [wrong, ended] = [0, 0];
  for (const { op, case: each } of allCases()) {
    const name = `${op}: ${each.name}`;
    let found: ReturnType<typeof tryCase>;
    let tries = 0;
    for (; found === undefined && tries < triesMax; tries++) found = tryCase(kind, name, env);
    ended += found === undefined ? tries : tries - 1;
    if (found?.ok !== true) wrong++;
    say(
      `${found?.ok === true ? "✔" : "✖"} ${name}  ${found?.said ?? "the driver ends the process"}${tries > 1 ? `  (${tries} tries)` : ""}`,
    );
  }
  say(`${allCases().length - wrong} of ${allCases().length} cases hold; the driver ended ${ended} processes`);
  return wrong === 0;
}

async function main(): Promise<void> {
  const options = { software: { type: "boolean", default: false }, help: { type: "boolean", short: "h", default: false } } as const;
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const kind = gpuNames.find((name) => name === positionals[0]);
  if (values.help || kind === undefined || (values.software && kind !== "vulkan")) {
    say(usage);
    process.exitCode = values.help ? 0 : 2;
    return;
  }
  install(kind);
  if (values.software) {
    process.exitCode = casesApart(kind, await lavapipe(say)) ? 0 : 1;
    return;
  }
  const selftest = show(["operator/cli/main.ts", "runtime", "selftest", "--backend", kind], {});
  const contract = selftest && show(["--test", "--test-force-exit", "test/gpu/contract.gpu.test.ts"], { ENODIA_GPU: kind });
  process.exitCode = selftest && contract ? 0 : 1;
}

await main();
