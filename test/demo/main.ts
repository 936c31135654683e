// `npm run demo` shows the product, live, on a real Kubernetes: serving, or training (shows.ts). Its exit code is 0 only if every step
// held; how long it took is shown beside its aims (aims.ts) and fails nothing.
import { parseArgs } from "node:util";
import { clusterIsBuilt } from "../cluster/binaries.ts";
import { down, up } from "../cluster/cluster.ts";
import { isRunning } from "../cluster/processes.ts";
import { terminalLog } from "../cluster/terminal-log.ts";
import { buildImages } from "../kit/deployment/product.ts";
import { unlessAborted } from "../kit/processes/process.ts";
import { exitCode, totalRow } from "./aims.ts";
import type { Demo, Show } from "./show.ts";
import { shows } from "./shows.ts";
import { ensureClusterTools } from "./tools.ts";
import { dim, heading, print, type Result, red, summary } from "./view.ts";

const names = Object.keys(shows);
const [first = ""] = names;

const usage = `usage: npm run demo -- [${names.join(" | ")}] [options]        (default ${first})

Brings up a real local Kubernetes (3 nodes), installs Enodia by Helm, and
${Object.entries(shows)
  .map(([name, { about }]) => `  ${name.padEnd(10)}${about}`)
  .join("\n")}
Needs root, Linux, Go >= 1.26 and Python 3 with pip for the local cluster.

  --keep                leave everything running and print how to use it
  --name NAME           name of the local cluster (default enodia)
  --nodes N             its nodes (default 3)
  --kubeconfig FILE     use your own cluster instead; its nodes must see this machine's ~/.cache/enodia at the same path
                        (kind: extraMounts), since the demo's models and runs lie there
  --context NAME        context of that kubeconfig (kind-* and k3d-* get the images loaded)
  --image-registry REG  where your own cluster pulls enodia/operator, enodia/runtime, enodia/training and enodia/nats from, each
                        with this version as tag (README: Install; enodia/nats is the official nats image by that name)
  --namespace NS        namespace to work in (default ${Object.entries(shows)
    .map(([name, { namespace }]) => `${namespace} for ${name}`)
    .join(", ")})
  --help`;

/** The exit code that shells report of a program that Ctrl-C ended. */
const interruptedCode = 130;
/** A cluster that is half up takes itself down within this time; everything else ends at once. */
const stepEndMsMax = 15_000;

const log = terminalLog(process.stdout, (line) => dim(`  ${line}`));

function options() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      keep: { type: "boolean", default: false },
      name: { type: "string", default: "enodia" },
      nodes: { type: "string", default: "3" },
      kubeconfig: { type: "string" },
      context: { type: "string" },
      "image-registry": { type: "string" },
      namespace: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const [name = first, ...more] = positionals;
  const show = shows[name];
  if (show === undefined || more.length > 0) throw new Error(`"${positionals.join(" ")}": a demo is one of ${names.join(", ")}`);
  return { flags: values, show };
}

/** `late`: when aborted, the running step is left behind. */
async function runSteps({ steps }: Show, demo: Demo, late: AbortSignal, results: Result[]): Promise<void> {
  const total = steps.length;
  for (const [index, step] of steps.entries()) {
    heading(index + 1, total, step.title);
    const started = performance.now();
    const seconds = (): number => (performance.now() - started) / 1000;
    try {
      const note = await unlessAborted(step.run(demo), late);
      demo.signal.throwIfAborted();
      results.push({ step: step.title, ok: true, seconds: seconds(), note });
    } catch (error) {
      const note = error instanceof Error ? error.message : String(error);
      results.push({ step: step.title, ok: false, seconds: seconds(), note: note.split("\n")[0] ?? "" });
      print(red(`  ${note}`));
      if (demo.signal.aborted || step.needed) return;
    }
  }
}

/** Aborted some time after `signal`: a step ends by itself when it is interrupted, and one that does not is left behind. */
function lateAfter(signal: AbortSignal): AbortSignal {
  const late = new AbortController();
  signal.addEventListener("abort", () => setTimeout(() => late.abort(signal.reason), stepEndMsMax));
  return late.signal;
}

/** Ctrl-C: the first one ends the running step and cleans up, the second says so, the third leaves what is there. */
function abortOnInterrupt(remedy: string): AbortSignal {
  const abort = new AbortController();
  let times = 0;
  const interrupted = (): void => {
    times += 1;
    if (times > 2) process.exit(interruptedCode);
    if (times === 1) {
      print(red("\n  interrupted: cleaning up"));
      abort.abort(new Error("interrupted"));
    } else print(red(`\n  cleaning up already; Ctrl-C once more leaves the rest as it is${remedy}`));
  };
  process.on("SIGINT", interrupted);
  process.on("SIGTERM", interrupted);
  return abort.signal;
}

/** True when anything that is kept between runs has to be made. */
function isCold(show: Show): boolean {
  return show.makesModel() || !clusterIsBuilt();
}

/** The time at which the command was given: the set-up of Node and of the dependencies is a part of it. */
const startedAt = Number(process.env.ENODIA_STARTED_AT ?? performance.timeOrigin);

async function takeDown(name: string, results: Result[]): Promise<void> {
  log("taking the cluster down");
  const started = performance.now();
  await down(name).catch((error: unknown) => {
    results.push({ step: "Take it down", ok: false, seconds: (performance.now() - started) / 1000, note: String(error) });
  });
}

async function main(): Promise<number> {
  const { flags, show } = options();
  if (flags.help) {
    print(usage);
    return 0;
  }
  const nodes = Number(flags.nodes);
  if (!Number.isInteger(nodes) || nodes < 1) throw new Error(`--nodes ${flags.nodes}: must be a whole number from 1 on`);
  const foreign = flags.kubeconfig !== undefined || flags.context !== undefined;
  const signal = abortOnInterrupt(foreign ? "" : ` (npm run cluster -- down --name ${flags.name} removes it)`);
  const machine = foreign ? "unknown" : isCold(show) ? "cold" : "warm";
  const results: Result[] = [];
  const before = !foreign && isRunning(flags.name);
  const own = { kubeconfig: flags.kubeconfig, context: flags.context, imageRegistry: flags["image-registry"], signal };
  const demo: Demo = {
    namespace: flags.namespace ?? show.namespace,
    signal,
    log,
    closers: [],
    target: foreign
      ? () => ensureClusterTools(own)
      : async () => {
          // What the cluster is to run is made while its programs are built.
          demo.images = buildImages(log, signal);
          const [cluster] = await Promise.all([up({ name: flags.name, nodes, log, signal }), demo.images, show.makeModel?.(log, signal)]);
          return { kubeconfig: cluster.kubeconfig, kubectl: cluster.binaries.kubectl, helm: cluster.binaries.helm, local: cluster };
        },
  };
  const late = lateAfter(signal);
  await runSteps(show, demo, late, results);
  for (const close of demo.closers.reverse()) await close().catch(() => undefined);
  const complete = results.length === show.steps.length;
  const keep = flags.keep && !signal.aborted;
  // A cluster that did not come up removed itself; one of this name that was there before is somebody's.
  const made = !foreign && !before && (demo.cluster !== undefined || late.aborted);
  if (!keep && made) await takeDown(flags.name, results);
  results.push(...show.times(demo, machine), totalRow((Date.now() - startedAt) / 1000, machine));
  summary(results);
  for (const line of show.files(demo)) print(line);
  if (keep && demo.cluster) for (const line of show.next(demo, demo.cluster)) print(line);
  // Work that a step left behind may still wait for something.
  if (signal.aborted) process.exit(interruptedCode);
  return complete ? exitCode(results) : 1;
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`demo: ${error instanceof Error ? error.message : String(error)}\n`);
  return 1;
});
