// `npm run demo`: the whole product, live, on a real Kubernetes. Exit code 0 only if every step held.
import { parseArgs } from "node:util";
import { down, up } from "../cluster/cluster.ts";
import { type Demo, steps } from "./steps.ts";
import { ensureClusterTools } from "./tools.ts";
import { bold, dim, heading, print, type Result, red, summary } from "./view.ts";

const usage = `usage: npm run demo -- [options]

Brings up a real local Kubernetes (3 nodes), installs Enodia by Helm, serves a model, and shows experts move, a worker
die and the deployment scale, under traffic. Needs root, Linux, Go >= 1.26 and Python 3 with pip for the local cluster.

  --keep                leave everything running and print how to use it
  --name NAME           name of the local cluster (default enodia)
  --nodes N             its nodes (default 3)
  --kubeconfig FILE     use your own cluster instead; its nodes must see this machine's ~/.cache/enodia at the same path
                        (kind: extraMounts), since the demo's model lies there
  --context NAME        context of that kubeconfig (kind-* and k3d-* get the images loaded)
  --image-registry REG  where your own cluster pulls enodia/operator, enodia/runtime and enodia/nats from, each with this
                        version as tag (README: Quick start; enodia/nats is the official nats image under that name)
  --namespace NS        namespace of the deployment (default demo)
  --help`;

const log = (line: string): void => print(dim(`  ${line}`));

function options() {
  return parseArgs({
    options: {
      keep: { type: "boolean", default: false },
      name: { type: "string", default: "enodia" },
      nodes: { type: "string", default: "3" },
      kubeconfig: { type: "string" },
      context: { type: "string" },
      "image-registry": { type: "string" },
      namespace: { type: "string", default: "demo" },
      help: { type: "boolean", short: "h", default: false },
    },
  }).values;
}

async function runSteps(demo: Demo, results: Result[]): Promise<void> {
  const total = steps.length;
  for (const [index, step] of steps.entries()) {
    heading(index + 1, total, step.title);
    const started = performance.now();
    const seconds = (): number => (performance.now() - started) / 1000;
    try {
      const note = await step.run(demo);
      results.push({ step: step.title, ok: true, seconds: seconds(), note });
    } catch (error) {
      const note = error instanceof Error ? error.message : String(error);
      results.push({ step: step.title, ok: false, seconds: seconds(), note: note.split("\n")[0] ?? "" });
      print(red(`  ${note}`));
      if (demo.signal.aborted || step.needed) return;
    }
  }
}

async function main(): Promise<number> {
  const flags = options();
  if (flags.help) {
    print(usage);
    return 0;
  }
  const nodes = Number(flags.nodes);
  if (!Number.isInteger(nodes) || nodes < 1) throw new Error(`--nodes ${flags.nodes}: must be a whole number from 1 on`);
  const abort = new AbortController();
  const interrupted = (): void => {
    if (abort.signal.aborted) process.exit(130); // asked twice
    print(red("\n  interrupted: cleaning up (Ctrl-C again to leave it as it is)"));
    abort.abort();
  };
  process.on("SIGINT", interrupted);
  process.on("SIGTERM", interrupted);

  const results: Result[] = [];
  const foreign = flags.kubeconfig !== undefined || flags.context !== undefined;
  const demo: Demo = {
    namespace: flags.namespace,
    signal: abort.signal,
    log,
    closers: [],
    target: foreign
      ? () => ensureClusterTools({ kubeconfig: flags.kubeconfig, context: flags.context, imageRegistry: flags["image-registry"] })
      : async () => {
          const cluster = await up({ name: flags.name, nodes, log, signal: abort.signal });
          return { kubeconfig: cluster.kubeconfig, kubectl: cluster.binaries.kubectl, helm: cluster.binaries.helm, local: cluster };
        },
  };
  try {
    await runSteps(demo, results);
  } finally {
    for (const close of demo.closers.reverse()) await close().catch(() => undefined);
    summary(results);
  }
  const held = results.length === steps.length && results.every((result) => result.ok);
  if (flags.keep && !abort.signal.aborted) printNext(demo, foreign ? undefined : flags.name);
  else if (!foreign) {
    log("taking the cluster down");
    await down(flags.name);
  }
  return abort.signal.aborted ? 130 : held ? 0 : 1;
}

/** `name`: of the local cluster, when it was that. */
function printNext(demo: Demo, name: string | undefined): void {
  print(`\n${bold("Left running.")} Try:`);
  if (name !== undefined) print(`  eval "$(npm run -s cluster -- env --name ${name})"    # KUBECONFIG; kubectl and helm on PATH`);
  if (demo.url) print(`  export ENDPOINT=${demo.url}`);
  print(`  npm run -s enodia -- status -n ${demo.namespace}`);
  if (demo.url) print(`  npm run -s enodia -- chat --url ${demo.url} "Why is the sky blue?"`);
  print(`  kubectl -n ${demo.namespace} get moed,eplace,pods`);
  print(`  kubectl -n ${demo.namespace} scale moed/smol-moe --replicas=2`);
  if (name !== undefined) print(`  npm run cluster -- down --name ${name}`);
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`demo: ${error instanceof Error ? error.message : String(error)}\n`);
  return 1;
});
