// `enodia plan record`: listens to the load messages of a running deployment and saves them as a trace (../recorder.ts). It
// learns the uid and the subjects from the MoEDeployment, the model's size from the messages; NATS must be reachable from
// here (--nats).
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { loadSubject, type Phase, phases } from "../../../crds/telemetry.ts";
import { type Bus, createBus, credentialsAt } from "../../../runtime/wire/nats.ts";
import { resources } from "../../kube/kube.ts";
import { encodeTrace } from "../../planner/traces.ts";
import { kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { whole } from "../options.ts";
import { Recorder } from "../recorder.ts";

const usage = `usage: enodia plan record NAME --out FILE [options]

Saves the expert load of a running MoEDeployment as a trace for "enodia plan simulate". Transitions between layers are in
it when the deployment's policy asks workers for them (exflow, moetuner): one token in 64 is followed.

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
  const bus = createBus({
    url,
    name: "enodia-plan-record",
    credentials: values.creds === undefined ? undefined : credentialsAt(values.creds),
  });
  try {
    await connected(bus, url);
    const recorder = new Recorder(deployment.metadata.uid, phaseOf(values.phase));
    const counted = await listen(bus, recorder, {
      subject: loadSubject(deployment.spec.telemetry.nats.subjectPrefix, cluster.namespace, name, "*"),
      windows: whole(values.windows, "--windows", 1, windowsMax) ?? 20,
      windowMs: (whole(values["window-seconds"], "--window-seconds", 1, 86_400) ?? 15) * 1000,
    });
    if (counted === 0) throw new AppError(`nothing was heard from the workers of ${name} on ${url}: is there traffic?`, { code: "NoLoad" });
    await writeFile(values.out, await encodeTrace(recorder.trace(name)));
    const { messages, refused, transitions } = recorder;
    const followed = transitions > 0 ? `, ${transitions} transitions` : "";
    process.stdout.write(`${values.out}: ${counted} windows, ${messages} load messages, ${refused} refused${followed}\n`);
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
    if (Date.now() > deadline)
      throw new AppError(`NATS at ${url} does not answer: ${bus.status.message ?? bus.status.reason}`, { code: "TelemetryUnavailable" });
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

interface Listen {
  readonly subject: string;
  readonly windows: number;
  readonly windowMs: number;
}

/** Ends after that many windows, or at SIGINT. Windows without any message are not kept: missing is not zero. */
export async function listen(bus: Pick<Bus, "subscribe">, recorder: Recorder, options: Listen): Promise<number> {
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
