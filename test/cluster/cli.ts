// `npm run cluster`: the local cluster from the command line. Results go to stdout, progress and errors to stderr.

import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { cacheRoot } from "./binaries.ts";
import {
  addNode,
  type Cluster,
  cutLink,
  defaultName,
  defaultNodes,
  down,
  healLink,
  killNode,
  loadImage,
  open,
  startNode,
  status,
  up,
} from "./cluster.ts";
import { ClusterError } from "./names.ts";
import { buildProductImages } from "./product-images.ts";
import { terminalLog } from "./terminal-log.ts";

const help = `A real Kubernetes on this machine, for tests and demonstrations (Linux, root, Go for the first start).

Usage: npm run cluster -- <command> [arguments] [options]        with npm run -s, stdout holds the result alone

  up                       start a cluster; the first time builds Kubernetes from Go modules (about 8 minutes on 2 cores)
  down                     remove it and everything it made
  status                   clusters on this machine, or the one named; --json for programs
  kubeconfig               print the path of the administrator's kubeconfig
  env                      print KUBECONFIG and a PATH with kubectl and helm, for: eval "$(npm run -s cluster -- env)"
  images                   build the product's images from this checkout and load them
  load-image <tar> [node…] import an OCI image tar into all nodes, or some
  add-node                 add one node
  kill-node <node>         power off: every process of the node ends at once
  start-node <node>        power on again
  cut-link <node>          take the node off the network, its processes run on
  heal-link <node>         put it back

This machine reaches pods and Services at their own addresses (kubectl get services shows them).
Options: --name <cluster> (default ${defaultName}), --nodes <count> (up, default ${defaultNodes}), --json (status), --help
Environment: ENODIA_CACHE (programs; default ~/.cache/enodia), ENODIA_STATE (clusters; default /var/lib/enodia-clusters)`;

const log = terminalLog(process.stderr);
const print = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

interface Arguments {
  readonly name: string | undefined;
  readonly nodes: number;
  readonly json: boolean;
  readonly rest: readonly string[];
  readonly signal: AbortSignal;
}

function only(args: Arguments, what: string): string {
  const [value, ...more] = args.rest;
  if (value === undefined) throw new ClusterError(`name ${what}`);
  if (more.length > 0) throw new ClusterError(`too many arguments: ${more.join(" ")}`);
  return value;
}

const nameOf = (args: Arguments): string => args.name ?? defaultName;

function printStatus(args: Arguments): void {
  const reports = status(args.name);
  if (args.json) {
    print(JSON.stringify(reports, null, 2));
    return;
  }
  if (reports.length === 0) print("no cluster on this machine");
  for (const report of reports) {
    print(`${report.name}: ${report.phase}, control plane ${report.controlPlane}, kubeconfig ${report.kubeconfig}`);
    for (const node of report.nodes) print(`  ${node.name}  ${node.address}  zone ${node.zone}  power ${node.power}  link ${node.link}`);
  }
}

/** The environment for a shell: the cluster, and the kubectl and helm that were built for it. */
function environment({ kubeconfig, binaries }: Cluster): string {
  const folders = [binaries.kubectl, binaries.helm].map((path) => dirname(path));
  return `export KUBECONFIG=${kubeconfig} PATH=${folders.join(":")}:$PATH`;
}

const commands: Readonly<Record<string, (args: Arguments) => Promise<void> | void>> = {
  up: async (args) => {
    const cluster = await up({ name: nameOf(args), nodes: args.nodes, log, signal: args.signal });
    log(`cluster "${cluster.name}" is up. Use it with:`);
    print(environment(cluster));
  },
  down: async (args) => {
    log((await down(nameOf(args))) ? `cluster "${nameOf(args)}" is gone` : `there was no cluster "${nameOf(args)}"`);
  },
  status: printStatus,
  kubeconfig: (args) => print(open(nameOf(args)).kubeconfig),
  env: (args) => print(environment(open(nameOf(args)))),
  "load-image": async (args) => {
    const [tar, ...nodes] = args.rest;
    if (tar === undefined) throw new ClusterError("name the image tar: load-image <tar> [node…]");
    await loadImage(nameOf(args), tar, nodes.length === 0 ? {} : { nodes });
  },
  images: async (args) => {
    const { name } = open(nameOf(args));
    const out = join(cacheRoot(), "images");
    const built = await buildProductImages({ repo: join(import.meta.dirname, "../.."), out, log });
    for (const image of Object.values(built)) {
      await loadImage(name, image.out);
      print(image.ref);
    }
  },
  "add-node": async (args) => print((await addNode(nameOf(args), log)).name),
  "kill-node": (args) => killNode(nameOf(args), only(args, "the node: kill-node <node>")),
  "start-node": (args) => startNode(nameOf(args), only(args, "the node: start-node <node>")),
  "cut-link": (args) => cutLink(nameOf(args), only(args, "the node: cut-link <node>")),
  "heal-link": (args) => healLink(nameOf(args), only(args, "the node: heal-link <node>")),
};

async function main(argv: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      name: { type: "string" },
      nodes: { type: "string" },
      json: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    },
  });
  const [word, ...rest] = positionals;
  if (values.help === true || word === undefined || word === "help") {
    print(help);
    return word === undefined && values.help !== true ? 2 : 0;
  }
  const command = commands[word];
  if (command === undefined) throw new ClusterError(`no command "${word}": one of ${Object.keys(commands).join(", ")}`);
  const abort = new AbortController();
  let interrupted = false;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (!interrupted) log("interrupted: cleaning up");
      interrupted = true;
      abort.abort();
    });
  }
  const nodes = values.nodes === undefined ? defaultNodes : Number(values.nodes);
  try {
    await command({
      name: values.name,
      nodes,
      json: values.json ?? false,
      rest,
      signal: abort.signal,
    });
  } catch (cause) {
    if (interrupted) return 130;
    throw cause;
  }
  return interrupted ? 130 : 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (cause) {
  const expected = cause instanceof ClusterError || (cause as NodeJS.ErrnoException).code?.startsWith("ERR_PARSE_ARGS") === true;
  log(`error: ${expected ? (cause as Error).message : ((cause as Error).stack ?? cause)}`);
  process.exitCode = 1;
}
