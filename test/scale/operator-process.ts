// The operator as a process of its own, as it runs in its pod, and what a look from outside shows of it: its metrics, and its CPU time and
// memory as the kernel counts them.
import { type ChildProcess, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { join } from "node:path";
import { parseSamples, type Sample } from "../../operator/views/prometheus-text.ts";
import { joinFiles, killCgroup, limitMemory, makeCgroup, removeCgroup } from "../cluster/cgroups.ts";
import { root } from "../integration/control-plane.ts";
import { freePort } from "../kit/network/free-port.ts";
import { stop, until } from "../kit/processes/process.ts";
import { cpuSecondsOf, memoryOf } from "./process-use.ts";

export const operatorNamespace = "enodia-system";
/** The operator as the API server knows it. */
export const operatorUser = `system:serviceaccount:${operatorNamespace}:operator`;
const readyTimeoutMs = 120_000;
/** The chart's limit of the operator's container, in MiB. */
export const chartMemoryMiB = 512;
const cgroupOf = (fleet: string): string => `enodia-${fleet}-operator`;
/** Becomes a member of the cgroup, and then the program. */
const joining = 'while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; exec "$@"';

interface OperatorOptions {
  /** Of the fleet. */
  readonly name: string;
  readonly kubeconfig: string;
  readonly natsUrl: string;
  /** The folder of its log. */
  readonly folder: string;
  /** Where the profile of its CPU is written when it ends; unset: none is taken. */
  readonly profileFolder: string | undefined;
  /** The limit of its memory. */
  readonly memoryMiB: number;
}

export class OperatorProcess {
  readonly #child: ChildProcess;
  readonly #metricsPort: number;
  readonly #cgroup: string;

  private constructor(child: ChildProcess, metricsPort: number, cgroup: string) {
    this.#child = child;
    this.#cgroup = cgroup;
    this.#metricsPort = metricsPort;
  }

  /** Starts it, and returns when it leads. */
  static async start({ name, kubeconfig, natsUrl, folder, profileFolder, memoryMiB }: OperatorOptions): Promise<OperatorProcess> {
    const [metricsPort, probePort] = [await freePort(), await freePort()];
    const env = {
      ...{ PATH: process.env.PATH, HOME: folder },
      ...{ ENODIA_POD_NAME: "operator-0", ENODIA_NAMESPACE: operatorNamespace, ENODIA_NATS_URL: natsUrl },
      ...{ ENODIA_METRICS_PORT: String(metricsPort), ENODIA_PROBE_PORT: String(probePort), ENODIA_NETWORK_POLICIES: "true" },
    };
    const cgroup = cgroupOf(name);
    makeCgroup(cgroup);
    limitMemory(cgroup, memoryMiB * 2 ** 20);
    const profile = profileFolder === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profileFolder}`];
    const command = [process.execPath, ...profile, join(root, "operator/main.ts"), "--kubeconfig", kubeconfig];
    const child = spawn("sh", ["-c", joining, "sh", ...joinFiles(cgroup), "--", ...command], { env, stdio: ["ignore", "pipe", "pipe"] });
    const log = createWriteStream(join(folder, "operator.log"));
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    const operator = new OperatorProcess(child, metricsPort, cgroup);
    const leads = async () => (gauge(await operator.metrics(), "enodia_operator_leader") === 1 ? true : undefined);
    await until("the operator to lead", leads, { timeoutMs: readyTimeoutMs });
    return operator;
  }

  async metrics(): Promise<readonly Sample[]> {
    if (this.#child.exitCode !== null) throw new Error(`the operator has ended with exit code ${this.#child.exitCode}`);
    const answer = await fetch(`http://127.0.0.1:${this.#metricsPort}/metrics`, { signal: AbortSignal.timeout(30_000) });
    return parseSamples(await answer.text());
  }

  /** Seconds of CPU since its start, of all its threads. */
  cpuSeconds(): number {
    return cpuSecondsOf(this.#pid);
  }

  /** MiB now, and the most so far. */
  memory(): { readonly rss: number; readonly peak: number } {
    return memoryOf(this.#pid);
  }

  get #pid(): number {
    const { pid } = this.#child;
    if (pid === undefined) throw new Error("the operator did not start");
    return pid;
  }

  async stop(): Promise<void> {
    await stop(this.#child, 20_000);
    await killCgroup(this.#cgroup);
    await removeCgroup(this.#cgroup);
  }
}

const gauge = (samples: readonly Sample[], name: string): number | undefined => samples.find((sample) => sample.name === name)?.value;
