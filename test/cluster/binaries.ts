// The build of the cluster's programs, and of those that tests run beside it, from the pinned Go modules below gomod/, kept in the
// user's cache. Nothing comes from an image registry.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { homedir } from "node:os";
import { extname, join } from "node:path";
import { timeText } from "./build-estimate.ts";
import { buildAll } from "./build-progress.ts";
import { type Log, run } from "./exec.ts";
import { ClusterError } from "./names.ts";

interface Group {
  readonly name: string;
  /** The programs, in the order in which they are built. */
  readonly programs: readonly Program[];
  /** Go variables that hold the version: `go build` of a module leaves them at a placeholder. */
  readonly version?: Readonly<Record<string, string>>;
  /** Build tags, by comma. */
  readonly tags?: string;
}

/**
 * Name, Go package, and the seconds that its first build took, measured on two quiet cores with a cold Go cache: the estimate of the time
 * left goes by their proportions. The first of a group compiles what later ones share. Of a program that is several: their names.
 */
type Program = readonly [string, string, number, (readonly string[])?];

const containerd = "github.com/containerd/containerd/v2/cmd";
const kubernetes = ["kube-apiserver", "kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager"] as const;
const kubernetesVersion = { major: "1", minor: "36", patch: "3" };

/** Groups of helpers, each a Go module; one that others need is built first. */
const groups: readonly Group[] = [
  {
    name: "cluster",
    version: {
      "k8s.io/component-base/version.gitVersion": `v${Object.values(kubernetesVersion).join(".")}`,
      "k8s.io/component-base/version.gitMajor": kubernetesVersion.major,
      "k8s.io/component-base/version.gitMinor": kubernetesVersion.minor,
      "helm.sh/helm/v3/internal/version.version": "v3.21.4",
      "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": kubernetesVersion.major,
      "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": kubernetesVersion.minor,
      "github.com/containerd/containerd/v2/version.Version": "2.3.7",
    },
    programs: [
      ["kubernetes", "./kubernetes", 250, kubernetes],
      ["kubectl", "k8s.io/kubernetes/cmd/kubectl", 5],
      ["helm", "helm.sh/helm/v3/cmd/helm", 10],
      ["containerd", `${containerd}/containerd`, 25],
      ["containerd-shim-runc-v2", `${containerd}/containerd-shim-runc-v2`, 1],
      ["ctr", `${containerd}/ctr`, 2],
      ["coredns", "./coredns", 7],
      ["etcd", "go.etcd.io/etcd/server/v3", 10],
      ["nats-server", "github.com/nats-io/nats-server/v2", 8],
    ],
  },
  { name: "pause", programs: [["pause", ".", 0.5]] },
  {
    name: "prometheus",
    version: { "github.com/prometheus/common/version.Version": "3.16.0" },
    // Of all ways to discover targets the one that the chart's monitors stand for.
    tags: "remove_all_sd,enable_kubernetes_sd",
    programs: [
      ["promtool", "github.com/prometheus/prometheus/cmd/promtool", 105],
      ["prometheus", "github.com/prometheus/prometheus/cmd/prometheus", 75],
    ],
  },
  { name: "otelcol", programs: [["otelcol", ".", 50]] },
  { name: "netpol", programs: [["network-policies", ".", 120]] },
  {
    name: "keda",
    programs: [
      ["keda-operator", "github.com/kedacore/keda/v2/cmd/operator", 1500],
      ["keda-adapter", "github.com/kedacore/keda/v2/cmd/adapter", 20],
    ],
  },
  { name: "lws", programs: [["lws-manager", "sigs.k8s.io/lws/cmd", 300]] },
];

const clusterPrograms = [
  ...kubernetes,
  "kubectl",
  "helm",
  "containerd",
  "containerd-shim-runc-v2",
  "ctr",
  "coredns",
  "etcd",
  "nats-server",
  "pause",
] as const;
/** Programs that no cluster needs: single tests run them, and ask for them by name. */
const testPrograms = ["promtool", "prometheus", "otelcol"] as const;
/** Programs of single tests or comparisons that `npm test` does without: only those ask for them. */
const longPrograms = ["keda-operator", "keda-adapter", "lws-manager", "network-policies"] as const;
/** Those of all tests but the longest, for a run that should not build within one of them. */
export const programNames = [...clusterPrograms, ...testPrograms] as const;
type ProgramName = (typeof programNames)[number] | (typeof longPrograms)[number];
export type Binaries = Readonly<Record<ProgramName, string>>;

const buildTimeoutMs = 40 * 60_000;
const goMinor = 26;

export function cacheRoot(): string {
  return process.env.ENODIA_CACHE || join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "enodia");
}

const moduleFolder = (group: string): string => join(import.meta.dirname, "gomod", group);

/** Every file of a module folder counts: go.mod and go.sum pin the modules, tools.go or main.go say what is built. */
function groupFolder(group: string): string {
  const { version = {}, tags } = groups.find((one) => one.name === group) ?? {};
  const hash = createHash("sha256").update(`${process.platform} ${process.arch} ${JSON.stringify(version)}\n`);
  if (tags !== undefined) hash.update(`${tags}\n`);
  const folder = moduleFolder(group);
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
  for (const file of files.filter((one) => extname(one) !== "")) hash.update(`${file}\n`).update(readFileSync(join(folder, file)));
  return join(cacheRoot(), "bin", `${group}-${hash.digest("hex").slice(0, 12)}`);
}

/** Paths of all programs, built or not. */
export function binaryPaths(): Binaries {
  const entries = groups.flatMap((group) => {
    const folder = groupFolder(group.name);
    return group.programs.flatMap(([program, , , names = [program]]) => names.map((name) => [name, join(folder, name)] as const));
  });
  return Object.fromEntries(entries) as Record<ProgramName, string>;
}

/** True when nothing has to be built before a cluster can be brought up. */
export function clusterIsBuilt(): boolean {
  const paths = binaryPaths();
  return clusterPrograms.every((program) => existsSync(paths[program]));
}

async function checkGo(): Promise<void> {
  // Go is asked in the folder whose go.mod asks for that version: a somewhat older Go then fetches the newer one by itself.
  const found = await run("go", ["env", "GOVERSION"], { allowFailure: true, cwd: moduleFolder("pause") }).catch(() => undefined);
  const minor = Number(/^go1\.(\d+)/.exec(found?.stdout ?? "")?.[1] ?? 0);
  if (minor < goMinor) {
    const have = found === undefined || found.code !== 0 ? "none was found" : `found ${found.stdout.trim()}`;
    throw new ClusterError(
      `the local cluster is built with Go 1.${goMinor} or newer, ${have}: install Go (https://go.dev/dl) and put it on PATH`,
    );
  }
}

async function build(group: Group, [program, pkg, , names = []]: Program, signal?: AbortSignal): Promise<void> {
  const folder = groupFolder(group.name);
  mkdirSync(folder, { recursive: true });
  const unfinished = join(folder, `.${program}.${process.pid}`);
  const versions = Object.entries(group.version ?? {}).map(([variable, value]) => ` -X ${variable}=${value}`);
  const ldflags = `-s -w${versions.join("")}`;
  const tags = group.tags === undefined ? [] : ["-tags", group.tags];
  try {
    // Symbols for debuggers are stripped, so the compiler makes none, which saves an eighth of its time.
    const flags = ["-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", ...tags, "-ldflags", ldflags];
    await run("nice", ["-n", "10", "go", "build", ...flags, "-o", unfinished, pkg], {
      cwd: moduleFolder(group.name),
      env: { CGO_ENABLED: "0", GOFLAGS: "-mod=readonly", GOWORK: "off" },
      timeoutMs: buildTimeoutMs,
      signal,
    });
    renameSync(unfinished, join(folder, program));
    for (const name of names) {
      symlinkSync(program, unfinished);
      renameSync(unfinished, join(folder, name));
    }
  } finally {
    rmSync(unfinished, { force: true });
  }
}

interface EnsureOptions {
  readonly only?: readonly ProgramName[];
  readonly signal?: AbortSignal | undefined;
}

let turn: Promise<unknown> = Promise.resolve();

/**
 * Builds what is missing, one program at a time (each Go build uses all cores, at low priority), and returns all paths; a call waits for
 * those before it. `only` names the programs; without it they are those of a cluster. The paths of others may not exist.
 */
export function ensureBinaries(log: Log, options: EnsureOptions = {}): Promise<Binaries> {
  const built = turn.then(() => buildMissing(log, options));
  turn = built.catch(() => undefined);
  return built;
}

async function buildMissing(log: Log, options: EnsureOptions): Promise<Binaries> {
  const paths = binaryPaths();
  const wanted: readonly string[] = options.only ?? clusterPrograms;
  const missing = groups
    .flatMap((group) => group.programs.map((one) => ({ group, one, program: one[0], usualSeconds: one[2] })))
    .filter(({ one: [program, , , names = [program]] }) =>
      names.some((name) => wanted.includes(name) && !existsSync(paths[name as ProgramName])),
    );
  if (missing.length === 0) return paths;
  await checkGo();
  const seconds = missing.reduce((sum, { usualSeconds }) => sum + usualSeconds, 0);
  log(`building ${missing.length} programs from Go modules, once; about ${timeText(seconds)} on 2 busy cores without a warm Go cache`);
  await buildAll(missing, { log, build: ({ group, one }) => build(group, one, options.signal) });
  return paths;
}
