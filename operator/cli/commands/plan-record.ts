// `enodia plan record`: saves the load messages of a running deployment as a trace (recorder.ts).
import { AppError } from "../../../crds/common.ts";
import { type ExpertPlacement, parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { type NatsAccess, natsAccessOf } from "../../../crds/nats-access.ts";
import { loadSubject, phases } from "../../../crds/telemetry.ts";
import { decodeTelemetryKeys, type TelemetryKeys, telemetrySecretEntries, telemetrySecretName } from "../../../crds/telemetry-keys.ts";
import { accessAt, type Bus, createBus } from "../../../runtime/net/nats.ts";
import { type Kube, type Ref, resources } from "../../kube/kube.ts";
import { encodeTrace } from "../../planner/offline/traces.ts";
import { argument, choice, declare, flag, text, type Values, value } from "../command.ts";
import { objectOf, openCluster } from "../kube.ts";
import { clusterOptions, whole } from "../options.ts";
import { checkOutput, traceOutput, writeOutput } from "../output-file.ts";
import { type Closed, gridIn, type Member, membersOf, Recorder } from "../recorder.ts";

const connectTimeoutMs = 15_000;

const options = {
  ...clusterOptions,
  out: text("--out <file>", "where to write the trace"),
  overwrite: flag("--overwrite", "replace the trace that is there"),
  windows: value("--windows <number>", "how many windows; Ctrl-C ends earlier and keeps those", whole(1, 100_000), 20),
  windowSeconds: value("--window-seconds <seconds>", "length of a window; workers report every 5 s or more often", whole(1, 86_400), 15),
  phase: choice("--phase <name>", "one phase only (default: both together)", phases),
  nats: text("--nats <url>", "NATS as reachable from here (default: spec.telemetry.nats.url)"),
  creds: text(
    "--creds <path>",
    ".creds file or token of that NATS, or a folder with one of them and ca.crt, its CA (default: what the workers have)",
  ),
};

export const command = declare({
  about:
    'Saves the expert load of a running MoEDeployment as a trace for "enodia plan simulate". A window in which not every rank reported is left out; the name of the trace says how many. Messages are checked with the keys in the Secret NAME-telemetry, which you must be allowed to read.',
  arguments: [argument("<name>", "a MoEDeployment", { moeDeployments: "" })],
  options,
  action: record,
});

async function record(values: Values<typeof options>, name: string): Promise<number> {
  if (values.out === undefined) throw new AppError("--out: the file to write", { code: "InvalidOption" });
  const out = traceOutput(values.out, values.overwrite);
  await checkOutput(out); // before windows are waited for
  const cluster = openCluster(values);
  const object = await objectOf(cluster.kube, resources.moeDeployments, { namespace: cluster.namespace, name });
  const deployment = parseMoEDeployment(object);
  const url = values.nats ?? deployment.spec.telemetry.nats.url;
  if (url === undefined)
    throw new AppError("--nats: the deployment names no NATS server (spec.telemetry.nats.url)", { code: "InvalidOption" });
  const secret = { namespace: cluster.namespace, name: telemetrySecretName(name) };
  const bus = createBus({
    url,
    name: "enodia-plan-record",
    access: values.creds === undefined ? () => ownAccess(cluster.kube, secret) : accessAt(values.creds),
  });
  try {
    await connected(bus, url);
    const keys = await signingKeys(cluster.kube, secret);
    const recorder = new Recorder(deployment.metadata.uid, values.phase, keys.current);
    const placement = placementReader(cluster.kube, { namespace: cluster.namespace, name });
    const members = async (): Promise<readonly Member[]> => {
      await keys.refresh();
      return membersOf((await placement())?.status ?? {});
    };
    const plan = await placement();
    if (plan === undefined || membersOf(plan.status).length === 0)
      throw new AppError(`"${name}" has no plan that its workers run yet; see: enodia status ${name}`, { code: "NotFound" });
    const grid = gridIn(plan.spec);
    const counted = await listen(bus, recorder, {
      members,
      subject: loadSubject(deployment.spec.telemetry.nats.subjectPrefix, cluster.namespace, name, "*"),
      windows: values.windows,
      windowMs: values.windowSeconds * 1000,
    });
    if (counted === 0) throw new AppError(`no window in which every rank of ${name} reported on ${url}`, { code: "NoLoad" });
    await writeOutput(out, await encodeTrace(recorder.trace(name, grid)));
    const { messages, refused, dropped } = recorder;
    const left = dropped > 0 ? ` (${dropped} left out: not every rank reported)` : "";
    process.stdout.write(`${values.out}: ${counted} windows${left}, ${messages} load messages, ${refused} refused\n`);
    return 0;
  } finally {
    await bus.close();
  }
}

async function connected(bus: Bus, url: string): Promise<void> {
  const deadline = Date.now() + connectTimeoutMs;
  while (!bus.status.connected) {
    if (Date.now() > deadline)
      throw new AppError(`NATS at ${url} does not answer: ${bus.status.message ?? bus.status.reason}`, { code: "TelemetryUnavailable" });
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** The last known one while the API server does not answer. */
function placementReader(kube: Kube, ref: { readonly namespace: string; readonly name: string }) {
  let last: { readonly placement: ExpertPlacement | undefined } | undefined;
  return async (): Promise<ExpertPlacement | undefined> => {
    try {
      const object = await kube.get(resources.expertPlacements, ref);
      last = { placement: object ? parseExpertPlacement(object) : undefined };
    } catch (caught) {
      if (last === undefined) throw caught;
    }
    return last.placement;
  };
}

async function entriesIn(kube: Kube, ref: Ref): Promise<Readonly<Record<string, string>>> {
  const data = ((await kube.get(resources.secrets, ref))?.data ?? {}) as Record<string, string>;
  return Object.fromEntries(Object.entries(data).map(([entry, text]) => [entry, Buffer.from(text, "base64").toString("utf8")]));
}

/** The workers' own: it may hear the deployment's load. */
const ownAccess = async (kube: Kube, ref: Ref): Promise<NatsAccess> => natsAccessOf(await entriesIn(kube, ref)) ?? {};

/** Read again at every window. */
async function signingKeys(kube: Kube, ref: Ref) {
  const read = async (): Promise<TelemetryKeys> => {
    const text = (await entriesIn(kube, ref))[telemetrySecretEntries.keys];
    if (text === undefined) throw new AppError(`Secret ${ref.name} has no keys: the operator makes them`, { code: "NotFound" });
    return decodeTelemetryKeys(text);
  };
  let known = await read();
  return {
    current: (): TelemetryKeys => known,
    refresh: async (): Promise<void> => {
      known = await read().catch(() => known);
    },
  };
}

interface Listen {
  readonly members: () => Promise<readonly Member[]>;
  readonly subject: string;
  readonly windows: number;
  readonly windowMs: number;
}

/** Ends after that many windows, or at SIGINT; returns the number of complete ones. */
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
      process.stderr.write(`window ${n + 1}/${options.windows}: ${windowText(recorder.close(await options.members()))}\n`);
    }
  } finally {
    unsubscribe();
    process.off("SIGINT", stop);
  }
  return recorder.windows;
}

function windowText({ counted, selections, missing, unknown }: Closed): string {
  if (counted) return `${selections} selections`;
  const why = [
    ...(missing.length > 0 ? [`ranks ${missing.join(", ")} did not report`] : []),
    ...(unknown.length > 0 ? [`ranks ${unknown.join(", ")} are not in the ExpertPlacement yet`] : []),
  ];
  return `left out: ${why.length > 0 ? why.join("; ") : "no rank serves"}`;
}
