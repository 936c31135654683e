// The build of the cluster's programs, and of those that tests run beside it, from the pinned Go modules below gomod/, kept in the
// user's cache. Nothing comes from an image registry.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
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
 * Name, Go package, and the seconds that its first build took, measured on 2026-11-26 on 2 busy cores with a cold Go cache: the
 * estimate of the time left goes by their proportions. Programs that come first in a group compile what later ones share.
 */
type Program = readonly [string, string, number];

const kubernetes = "k8s.io/kubernetes/cmd";
const containerd = "github.com/containerd/containerd/v2/cmd";

/** Groups of helpers; one that others need is built first. */
const groups: readonly Group[] = [
  { name: "nats", programs: [["nats-server", "github.com/nats-io/nats-server/v2", 36]] },
  {
    name: "helm",
    version: { "helm.sh/helm/v3/internal/version.version": "v3.22.0" },
    programs: [["helm", "helm.sh/helm/v3/cmd/helm", 85]],
  },
  { name: "pause", programs: [["pause", ".", 0.5]] },
  {
    name: "kubernetes",
    version: {
      "k8s.io/component-base/version.gitVersion": "v1.36.3",
      "k8s.io/component-base/version.gitMajor": "1",
      "k8s.io/component-base/version.gitMinor": "36",
    },
    programs: [
      ["kubectl", `${kubernetes}/kubectl`, 77],
      ["kube-apiserver", `${kubernetes}/kube-apiserver`, 319],
      ["kubelet", `${kubernetes}/kubelet`, 53],
      ["kube-proxy", `${kubernetes}/kube-proxy`, 6],
      ["kube-scheduler", `${kubernetes}/kube-scheduler`, 4],
      ["kube-controller-manager", `${kubernetes}/kube-controller-manager`, 26],
    ],
  },
  { name: "etcd", programs: [["etcd", "go.etcd.io/etcd/server/v3", 25]] },
  {
    name: "containerd",
    version: { "github.com/containerd/containerd/v2/version.Version": "2.4.2" },
    programs: [
      ["containerd", `${containerd}/containerd`, 50],
      ["containerd-shim-runc-v2", `${containerd}/containerd-shim-runc-v2`, 1],
      ["ctr", `${containerd}/ctr`, 4],
    ],
  },
  { name: "coredns", programs: [["coredns", ".", 56]] },
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
  "nats-server",
  "helm",
  "pause",
  "kubectl",
  "kube-apiserver",
  "kubelet",
  "kube-proxy",
  "kube-scheduler",
  "kube-controller-manager",
  "etcd",
  "containerd",
  "containerd-shim-runc-v2",
  "ctr",
  "coredns",
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
  for (const file of readdirSync(folder).sort()) hash.update(`${file}\n`).update(readFileSync(join(folder, file)));
  return join(cacheRoot(), "bin", `${group}-${hash.digest("hex").slice(0, 12)}`);
}

/** Paths of all programs, built or not. */
export function binaryPaths(): Binaries {
  const entries = groups.flatMap((group) => {
    const folder = groupFolder(group.name);
    return group.programs.map(([program]) => [program, join(folder, program)] as const);
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

async function build(group: Group, program: string, pkg: string, signal?: AbortSignal): Promise<void> {
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
  const names: readonly string[] = options.only ?? clusterPrograms;
  const missing = groups
    .flatMap((group) => group.programs.map(([program, pkg, usualSeconds]) => ({ group, program, pkg, usualSeconds })))
    .filter(({ program }) => names.includes(program) && !existsSync(paths[program as ProgramName]));
  if (missing.length === 0) return paths;
  await checkGo();
  const seconds = missing.reduce((sum, { usualSeconds }) => sum + usualSeconds, 0);
  log(`building ${missing.length} programs from Go modules, once; about ${timeText(seconds)} on 2 busy cores without a warm Go cache`);
  await buildAll(missing, { log, build: ({ group, program, pkg }) => build(group, program, pkg, options.signal) });
  return paths;
}
