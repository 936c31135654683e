// `enodia plan record`: listens to the load messages of a running deployment and saves them as a trace. It learns the
// model's size, the ranks and the subjects from the MoEDeployment; NATS must be reachable from here (--nats).
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { decodeLoad, type LoadWindow, loadSubject, type Phase, phases } from "../../../crds/telemetry.ts";
import { type Bus, createBus } from "../../../runtime/wire/nats.ts";
import { resources } from "../../kube/kube.ts";
import { encodeTrace } from "../../planner/traces.ts";
import { kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { whole } from "../options.ts";

const usage = `usage: enodia plan record NAME --out FILE [options]

Saves the expert load of a running MoEDeployment as a trace for "enodia plan simulate".

${kubeFlagsHelp}
      --out FILE         where to write the trace
      --windows N        how many windows (default 20); ctrl-c ends earlier and keeps what there is
      --window-seconds S length of a window (default 15)
      --phase NAME       prefill or decode only (default: both together)
      --nats URL         NATS as reachable from here (default: spec.telemetry.nats.url)
      --creds FILE       .creds file or token of that NATS`;

const windowsMax = 100_000;
const connectTimeoutMs = 15_000;

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      ...kubeFlags,
      out: { type: "string" },
      windows: { type: "string" },
      "window-seconds": { type: "string" },
      phase: { type: "string" },
      nats: { type: "string" },
      creds: { type: "string" },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const [name] = positionals;
  if (name === undefined || values.out === undefined)
    throw new AppError("NAME and --out are needed; see enodia plan record --help", { code: "InvalidOption" });
  const cluster = openCluster(values);
  const object = await cluster.kube.get(resources.moeDeployments, { namespace: cluster.namespace, name });
  if (!object) throw new AppError(`no MoEDeployment "${name}" in namespace ${cluster.namespace}`, { code: "NotFound" });
  const deployment = parseMoEDeployment(object);
  const url = values.nats ?? deployment.spec.telemetry.nats.url;
  if (url === undefined)
    throw new AppError("--nats: the deployment names no NATS server (spec.telemetry.nats.url)", { code: "InvalidOption" });
  const bus = createBus({ url, name: "enodia-plan-record", credsFile: values.creds });
  try {
    await connected(bus, url);
    const recorder = new Recorder(deployment, phaseOf(values.phase));
    const counted = await listen(bus, recorder, {
      subject: loadSubject(deployment.spec.telemetry.nats.subjectPrefix, cluster.namespace, name, "*"),
      windows: whole(values.windows, "--windows", 1, windowsMax) ?? 20,
      windowMs: (whole(values["window-seconds"], "--window-seconds", 1, 86_400) ?? 15) * 1000,
    });
    if (counted === 0) throw new AppError(`nothing was heard from the workers of ${name} on ${url}: is there traffic?`, { code: "NoLoad" });
    await writeFile(values.out, await encodeTrace(recorder.trace(name)));
    process.stdout.write(`${values.out}: ${counted} windows, ${recorder.messages} load messages, ${recorder.refused} refused\n`);
    return 0;
  } finally {
    await bus.close();
  }
}

function phaseOf(text: string | undefined): Phase | undefined {
  const found = phases.find((phase) => phase === text);
  if (text !== undefined && !found) throw new AppError(`--phase: "${text}" is not ${phases.join(" or ")}`, { code: "InvalidOption" });
  return found;
}

async function connected(bus: Bus, url: string): Promise<void> {
  const deadline = Date.now() + connectTimeoutMs;
  while (!bus.status.connected) {
    if (Date.now() > deadline) throw new AppError(`NATS at ${url} does not answer: ${bus.status.reason}`, { code: "TelemetryUnavailable" });
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

interface Listen {
  readonly subject: string;
  readonly windows: number;
  readonly windowMs: number;
}

/** Ends after that many windows, or at SIGINT. Windows without any message are not kept: missing is not zero. */
async function listen(bus: Bus, recorder: Recorder, options: Listen): Promise<number> {
  let stopped = false;
  let wake = (): void => {};
  const stop = (): void => {
    stopped = true;
    wake();
  };
  process.once("SIGINT", stop);
  const unsubscribe = bus.subscribe(options.subject, (bytes) => recorder.receive(bytes));
  try {
    for (let n = 0; n < options.windows && !stopped; n++) {
      await new Promise<void>((resolve) => {
        wake = resolve;
        setTimeout(resolve, options.windowMs).unref();
      });
      const rows = recorder.close();
      process.stderr.write(`window ${n + 1}/${options.windows}: ${rows} selections\n`);
    }
  } finally {
    unsubscribe();
    process.off("SIGINT", stop);
  }
  return recorder.windows;
}

class Recorder {
  messages = 0;
  refused = 0;
  readonly #uid: string;
  readonly #phase: Phase | undefined;
  #layers = 0;
  #experts = 0;
  #open: Uint32Array | undefined;
  readonly #closed: Uint32Array[] = [];
  /** Highest seq by rank and boot: NATS may deliver twice around a reconnect. */
  readonly #seen = new Map<string, number>();

  constructor(deployment: MoEDeployment, phase: Phase | undefined) {
    this.#uid = deployment.metadata.uid;
    this.#phase = phase;
  }

  get windows(): number {
    return this.#closed.length;
  }

  receive(bytes: Uint8Array): void {
    let load: LoadWindow;
    try {
      load = decodeLoad(bytes);
    } catch {
      this.refused++;
      return;
    }
    if (!this.#accept(load)) {
      this.refused++;
      return;
    }
    this.messages++;
    if (this.#phase !== undefined && load.phase !== this.#phase) return;
    this.#open ??= new Uint32Array(this.#layers * this.#experts);
    for (let i = 0; i < load.routed.length; i++) this.#open[i] = (this.#open[i] as number) + (load.routed[i] as number);
  }

  #accept(load: LoadWindow): boolean {
    if (load.deploymentUID !== this.#uid) return false;
    if (this.#layers === 0) {
      this.#layers = load.layers;
      this.#experts = load.experts;
    }
    if (load.layers !== this.#layers || load.experts !== this.#experts) return false;
    const key = `${load.rank}/${load.bootId}`;
    if (load.seq <= (this.#seen.get(key) ?? -1)) return false;
    this.#seen.set(key, load.seq);
    return true;
  }

  close(): number {
    if (!this.#open) return 0;
    const rows = this.#open.reduce((a, b) => a + b, 0);
    this.#closed.push(this.#open);
    this.#open = undefined;
    return rows;
  }

  trace(name: string) {
    const cells = this.#layers * this.#experts;
    const counts = new Uint32Array(this.#closed.length * cells);
    this.#closed.forEach((window, t) => {
      counts.set(window, t * cells);
    });
    return { name, windows: this.#closed.length, layers: this.#layers, experts: this.#experts, counts };
  }
}
