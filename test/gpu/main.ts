// `npm run test:gpu`: everything that is to be tried on a machine with a GPU, in one command, or what of it runs in software: there the
// self-test alone.
import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { gpuInstalled } from "../../runtime/compute/ggml/library.ts";
import { type GpuName, gpuNames, librariesOf, packageVersion } from "../../runtime/compute/ggml/packages.ts";
import { within } from "./fetched.ts";
import { lavapipe } from "./lavapipe.ts";
import { vulkanPackage } from "./package.ts";

const usage = `usage: npm run test:gpu -- cuda|vulkan [--software]

Fetches ggml's library for that kind of GPU where it is missing, runs the self-test, and the contract suite of backends with the golden
logits. --software: vulkan on Mesa's llvmpipe, both unpacked into the cache, and the self-test alone.`;

/** For what is fetched. */
const fetchMsMax = 10 * 60_000;
/** The self-test in software: a first one compiles every kernel. */
const softwareMsMax = 30 * 60_000;
const root = resolve(import.meta.dirname, "../..");
const say = (line: string): void => void process.stdout.write(`${line}\n`);

function install(kind: GpuName): void {
  if (gpuInstalled(kind)) return;
  const [library] = librariesOf(kind, process.platform, process.arch);
  if (library === undefined) throw new Error(`there is no ${kind} library for ${process.platform} on ${process.arch}`);
  say(`installing ${library.package}@${packageVersion}, for this checkout only`);
  const npm = ["install", "--no-save", "--ignore-scripts", `${library.package}@${packageVersion}`];
  if (spawnSync("npm", npm, { cwd: root, stdio: "inherit" }).status !== 0) throw new Error(`npm ${npm.join(" ")} failed`);
}

/** True where the process ends well; what it prints is shown, and so is what ended it. */
function show(args: readonly string[], env: Readonly<Record<string, string>>, timeout?: number): boolean {
  const own = Object.assign({}, process.env, env);
  const { status, signal } = spawnSync(process.execPath, args, { cwd: root, stdio: "inherit", env: own, timeout, killSignal: "SIGKILL" });
  if (signal !== null) say(`ended by ${signal}${timeout === undefined ? "" : `; it may take ${timeout / 60_000} minutes`}`);
  return status === 0;
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
  if (values.software) {
    const asked = { log: say, timeoutMs: fetchMsMax, again: true };
    const left = within(asked);
    const env = Object.assign({}, await lavapipe(asked, left), await vulkanPackage(asked, left));
    const selftest = ["operator/cli/main.ts", "runtime", "selftest", "--backend", kind, "--no-speed"];
    process.exitCode = show(selftest, env, softwareMsMax) ? 0 : 1;
    return;
  }
  install(kind);
  const selftest = show(["operator/cli/main.ts", "runtime", "selftest", "--backend", kind], {});
  const contract = selftest && show(["--test", "--test-force-exit", "test/gpu/contract.gpu.test.ts"], { ENODIA_GPU: kind });
  process.exitCode = selftest && contract ? 0 : 1;
}

await main();
