// `enodia train status|loss|trace|serve`: reads MoETrainingJobs of a cluster and changes nothing; serve writes a manifest to standard
// output, loss a picture where it is asked for, trace a file. ../training-text.ts says it to a person.
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type MoETrainingJob, parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { type ClusterAccess, kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { lossCommand, lossPlot } from "../loss-plot.ts";
import { writeOutput } from "../output-file.ts";
import { outputFlag } from "../output-flag.ts";
import { pictureOutput } from "../svg.ts";
import { curveText, jobTable, jobText, servingManifest, type UnreadableJob } from "../training-text.ts";
import { type TraceAsked, traceJob } from "./train-trace.ts";
import { traceColumns } from "./train-trace-text.ts";

const usage = `usage: enodia train status [JOB] [options]    the training jobs of a namespace, or one with all that is known
       enodia train loss JOB [options]        its loss over the steps, as a curve; metrics.jsonl beside its checkpoints has every step
       enodia train trace JOB [options]       where the time of its next steps goes: tables, and a file for https://ui.perfetto.dev
       enodia train serve JOB [options]       a MoEDeployment that serves its result, as a manifest for kubectl apply -f -

${kubeFlagsHelp}
      --name NAME        serve: of the MoEDeployment (default: that of the job)
      --svg FILE         loss: writes the curve as a picture too; an earlier one of this command is replaced
      --steps N          trace: how many (default 5); Ctrl-C ends with those that there are
  -o, --output json      status, loss and trace: everything, for programs
  -o, --output FILE      trace: the file (default: JOB-trace.json); an earlier one of this command is replaced

trace reaches the pods as kubectl port-forward does, by your right to do so, and shows

${traceColumns}`;

export const options = {
  ...kubeFlags,
  name: { type: "string" },
  svg: { type: "string" },
  steps: { type: "string" },
  ...outputFlag,
  help: { type: "boolean", short: "h", default: false },
} as const;

interface Asked {
  readonly cluster: ClusterAccess;
  readonly job: string | undefined;
  readonly json: boolean;
  /** Of the deployment that serves. */
  readonly name: string | undefined;
  /** File of the picture of a loss. */
  readonly svg?: string | undefined;
  /** How many steps a trace has, and its file. */
  readonly steps?: string | undefined;
  readonly output?: string | undefined;
  /** Ends what waits for a job. */
  readonly signal?: AbortSignal;
}

async function jobOf({ cluster, job }: Asked): Promise<MoETrainingJob> {
  if (job === undefined) throw new AppError("name the training job; see: enodia train status", { code: "BadOption" });
  const object = await cluster.kube.get(resources.moeTrainingJobs, { namespace: cluster.namespace, name: job });
  if (object) return parseMoETrainingJob(object);
  throw new AppError(`no MoETrainingJob "${job}" in namespace ${cluster.namespace}; see: kubectl get moet -A`, { code: "NotFound" });
}

/** One that cannot be read is no reason not to show the others. */
function readOr<Other>(object: KubeObject, other: (error: AppError) => Other): MoETrainingJob | Other {
  try {
    return parseMoETrainingJob(object);
  } catch (caught) {
    return other(AppError.from(caught));
  }
}

async function status(asked: Asked): Promise<string> {
  const { cluster, json } = asked;
  if (asked.job !== undefined) {
    const job = await jobOf(asked);
    return json ? JSON.stringify(job, undefined, 2) : jobText(job);
  }
  const { items } = await cluster.kube.list(resources.moeTrainingJobs, { namespace: cluster.namespace });
  if (json)
    return JSON.stringify(
      items.map((object) => readOr(object, () => object)),
      undefined,
      2,
    );
  const jobs = items.map((object) => readOr(object, ({ code }): UnreadableJob => ({ name: object.metadata.name, code })));
  return jobs.length === 0 ? `no MoETrainingJob in namespace ${cluster.namespace}` : jobTable(jobs);
}

async function loss(asked: Asked): Promise<string> {
  const job = await jobOf(asked);
  const curve = (job.status.curve ?? []).map((point) => ({ step: point.step, loss: Number(point.loss) }));
  const { name } = job.metadata;
  const none = `${name} has no two steps yet: enodia train status ${name}`;
  if (asked.svg !== undefined) {
    const picture = lossPlot(name, curve);
    if (picture === undefined) throw new AppError(`--svg: ${none}`, { code: "NotReady" });
    await writeOutput(pictureOutput(asked.svg, "--svg", lossCommand), picture);
  }
  return asked.json ? JSON.stringify(curve) : (curveText(curve) ?? none);
}

async function serve(asked: Asked): Promise<string> {
  const job = await jobOf(asked);
  if (job.status.result === undefined) {
    const at = `step ${job.status.step ?? 0} of ${job.spec.steps}`;
    throw new AppError(
      `${job.metadata.name} is at ${at} and has no result yet; wait: kubectl wait moet ${job.metadata.name} --for=condition=Complete`,
      {
        code: "NotReady",
      },
    );
  }
  return JSON.stringify(servingManifest(job, asked.name ?? job.metadata.name), undefined, 2); // JSON is YAML too
}

async function trace(asked: Asked): Promise<string> {
  const { cluster, json, steps, output, signal = new AbortController().signal } = asked;
  const progress = { isTTY: process.stderr.isTTY === true, write: (text: string) => void process.stderr.write(text) };
  const connect: TraceAsked["connect"] = (pod, port) => cluster.connect(pod, port);
  return traceJob(await jobOf(asked), { json, steps, output, connect, progress, signal });
}

export const verbs: Readonly<Record<string, (asked: Asked) => Promise<string>>> = { status, loss, trace, serve };

/** Options that one verb has, and no other. */
const ownOptions = { svg: "loss", steps: "trace", output: "trace", name: "serve" } as const;

export async function run(verb: string, args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args: [...args], allowPositionals: true, options });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const { name, svg, steps } = values;
  // Any other word is the file of a trace; one of the name json is ./json.
  const json = values.json || values.output === "json";
  const output = values.output === "json" ? undefined : values.output;
  for (const [option, of] of Object.entries(ownOptions))
    if ({ svg, steps, output, name }[option] !== undefined && verb !== of)
      throw new AppError(`--${option} is an option of enodia train ${of}`, { code: "BadOption" });
  const interrupted = new AbortController();
  const stop = (): void => {
    if (interrupted.signal.aborted) process.exit(130); // asked twice
    interrupted.abort();
  };
  if (verb === "trace") process.on("SIGINT", stop);
  try {
    const { signal } = interrupted;
    const told = await verbs[verb]?.({ cluster: openCluster(values), job: positionals[0], json, name, svg, steps, output, signal });
    process.stdout.write(`${told}\n`);
    return 0;
  } finally {
    process.off("SIGINT", stop);
  }
}
