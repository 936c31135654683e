// `enodia train status|loss|trace|serve`: reads MoETrainingJobs of a cluster.
import { AppError } from "../../../crds/common.ts";
import { type MoETrainingJob, parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import { tracedStepsMax } from "../../../crds/training-process.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { unreadable } from "../../views/health.ts";
import { type JobRow, jobReport, jobState, jobTable } from "../../views/job.ts";
import { argument, declare, text, value } from "../command.ts";
import { type ClusterAccess, objectOf, openCluster } from "../kube.ts";
import { curveText, lossCommand, lossPlot } from "../loss-plot.ts";
import { asksForJson, clusterOptions, outputOptions, whole } from "../options.ts";
import { writeOutput } from "../output-file.ts";
import { svgOutput } from "../svg.ts";
import { sectionsText } from "../table.ts";
import { stepsDefault, type TraceRequest, traceJob } from "./train-trace.ts";
import { traceColumns } from "./train-trace-text.ts";

interface JobRequest {
  readonly cluster: ClusterAccess;
  readonly job: string | undefined;
  readonly json: boolean;
  readonly name: string | undefined;
  /** File for the loss curve. */
  readonly svg?: string | undefined;
  /** Steps of a trace. */
  readonly steps?: number;
  readonly output?: string | undefined;
  /** Ends waiting for a job. */
  readonly signal?: AbortSignal;
}

async function jobOf({ cluster, job }: JobRequest): Promise<MoETrainingJob> {
  if (job === undefined) throw new AppError("name the training job; see: enodia train status", { code: "BadOption" });
  return parseMoETrainingJob(await objectOf(cluster.kube, resources.moeTrainingJobs, { namespace: cluster.namespace, name: job }));
}

function readOr<Other>(object: KubeObject, other: (error: AppError) => Other): MoETrainingJob | Other {
  try {
    return parseMoETrainingJob(object);
  } catch (caught) {
    return other(AppError.from(caught));
  }
}

function jobRow(object: KubeObject): JobRow {
  const { namespace = "", name } = object.metadata;
  const read = readOr(object, ({ code, message }): JobRow => ({ namespace, name, health: unreadable(code, message) }));
  return "spec" in read ? jobState(read) : read;
}

async function jobStatus(request: JobRequest): Promise<string> {
  const { cluster, json } = request;
  if (request.job !== undefined) {
    const job = await jobOf(request);
    return json ? JSON.stringify(job, undefined, 2) : sectionsText(jobReport(job));
  }
  const { items } = await cluster.kube.list(resources.moeTrainingJobs, { namespace: cluster.namespace });
  const read = (object: KubeObject) => readOr<unknown>(object, () => object);
  if (json) return JSON.stringify(items.map(read), undefined, 2);
  const jobs = items.map(jobRow);
  return jobs.length === 0 ? `no MoETrainingJob in namespace ${cluster.namespace}` : sectionsText([jobTable(jobs)]);
}

async function jobLoss(request: JobRequest): Promise<string> {
  const job = await jobOf(request);
  const curve = (job.status.curve ?? []).map((point) => ({ step: point.step, loss: Number(point.loss) }));
  const { name } = job.metadata;
  const none = `${name} has no two steps yet: enodia train status ${name}`;
  if (request.svg !== undefined) {
    const drawn = lossPlot(name, curve);
    if (drawn === undefined) throw new AppError(`--svg: ${none}`, { code: "NotReady" });
    await writeOutput(svgOutput(request.svg, "--svg", lossCommand), drawn);
  }
  return request.json ? JSON.stringify(curve) : (curveText(curve) ?? none);
}

async function servingOf(request: JobRequest): Promise<string> {
  const job = await jobOf(request);
  if (job.status.result === undefined) {
    const at = `step ${job.status.step ?? 0} of ${job.spec.steps}`;
    const wait = `kubectl wait moet ${job.metadata.name} --for=condition=Complete`;
    throw new AppError(`${job.metadata.name} is at ${at} and has no result yet; wait: ${wait}`, { code: "NotReady" });
  }
  return JSON.stringify(servingManifest(job, request.name ?? job.metadata.name), undefined, 2);
}

export function servingManifest({ metadata, spec }: MoETrainingJob, name: string): object {
  return {
    apiVersion: "enodia.dev/v1alpha1",
    kind: "MoEDeployment",
    metadata: { name, namespace: metadata.namespace },
    spec: { model: { uri: `${spec.output.uri}/store` }, replicas: 1, runtime: { expertCodec: spec.output.codecs[0] } },
  };
}

async function traceOf(request: JobRequest): Promise<string> {
  const { cluster, json, steps = stepsDefault, output, signal = new AbortController().signal } = request;
  const progress = { isTTY: process.stderr.isTTY === true, write: (text: string) => void process.stderr.write(text) };
  const connect: TraceRequest["connect"] = (pod, port) => cluster.connect(pod, port);
  return traceJob(await jobOf(request), { json, steps, output, connect, progress, signal });
}

export const acts = { status: jobStatus, loss: jobLoss, trace: traceOf, serve: servingOf };

const none = { job: undefined, json: false, name: undefined } as const;
const print = (text: string): number => {
  process.stdout.write(`${text}\n`);
  return 0;
};
const named = argument("<job>", "a MoETrainingJob", { moeTrainingJobs: "" });

export const status = declare({
  about: "The training jobs of a namespace, or one with all that is known.",
  arguments: [argument("[job]", "a MoETrainingJob", { moeTrainingJobs: "" })],
  options: { ...clusterOptions, ...outputOptions },
  action: async (options, job) => print(await acts.status({ ...none, cluster: openCluster(options), job, json: asksForJson(options) })),
});

export const loss = declare({
  about: "The loss of a job over its steps, as a curve; metrics.jsonl beside its checkpoints has every step.",
  arguments: [named],
  options: {
    ...clusterOptions,
    ...outputOptions,
    svg: text("--svg <file>", "writes the curve as a picture too; an earlier one of this command is replaced"),
  },
  action: async ({ svg, ...options }, job) =>
    print(await acts.loss({ ...none, cluster: openCluster(options), job, json: asksForJson(options), svg })),
});

export const trace = declare({
  about:
    "Where the time of a job's next steps goes: tables, and a file for https://ui.perfetto.dev. It reaches the pods as kubectl port-forward does, by your right to do so.",
  arguments: [named],
  options: {
    ...clusterOptions,
    steps: value("--steps <number>", "how many; Ctrl-C ends with those that there are", whole(1, tracedStepsMax), stepsDefault),
    output: text(
      "-o, --output <file>",
      "json: everything, for programs; else the file (default: JOB-trace.json); an earlier one of this command is replaced",
    ),
    json: outputOptions.json,
  },
  notes: traceColumns,
  async action({ steps, ...options }, job) {
    // Any other value is a trace file; for one named json write ./json.
    const json = options.json || options.output === "json";
    const output = options.output === "json" ? undefined : options.output;
    const interrupted = new AbortController();
    const stop = (): void => {
      if (interrupted.signal.aborted) process.exit(130); // at the second Ctrl-C
      interrupted.abort();
    };
    process.on("SIGINT", stop);
    try {
      return print(await acts.trace({ ...none, cluster: openCluster(options), job, json, steps, output, signal: interrupted.signal }));
    } finally {
      process.off("SIGINT", stop);
    }
  },
});

export const serve = declare({
  about: "A MoEDeployment that serves the result of a job, as a manifest for kubectl apply -f -",
  arguments: [named],
  options: { ...clusterOptions, name: text("--name <name>", "of the MoEDeployment (default: that of the job)") },
  action: async ({ name, ...options }, job) => print(await acts.serve({ ...none, cluster: openCluster(options), job, name })),
});
