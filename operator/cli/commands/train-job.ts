// `enodia train status|loss|serve`: reads MoETrainingJobs of a cluster and changes nothing; serve writes a manifest to standard output.
// ../training-text.ts says it to a person.
import { parseArgs } from "node:util";
import { AppError } from "../../../crds/common.ts";
import { type MoETrainingJob, parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { type ClusterAccess, kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { curveText, jobTable, jobText, servingManifest, type UnreadableJob } from "../training-text.ts";

const usage = `usage: enodia train status [JOB] [options]    the training jobs of a namespace, or one with all that is known
       enodia train loss JOB [options]        its loss over the steps, as a curve; metrics.jsonl beside its checkpoints has every step
       enodia train serve JOB [options]       a MoEDeployment that serves its result, as a manifest for kubectl apply -f -

${kubeFlagsHelp}
      --name NAME        serve: of the MoEDeployment (default: that of the job)
      --json             status and loss: everything, for programs`;

const options = {
  ...kubeFlags,
  name: { type: "string" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

interface Asked {
  readonly cluster: ClusterAccess;
  readonly job: string | undefined;
  readonly json: boolean;
  /** Of the deployment that serves. */
  readonly name: string | undefined;
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
  if (asked.json) return JSON.stringify(curve);
  return curveText(curve) ?? `${job.metadata.name} has no two steps yet: enodia train status ${job.metadata.name}`;
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

export const verbs: Readonly<Record<string, (asked: Asked) => Promise<string>>> = { status, loss, serve };

export async function run(verb: string, args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args: [...args], allowPositionals: true, options });
  if (values.help) {
    process.stdout.write(`${usage}\n`);
    return 0;
  }
  const told = await verbs[verb]?.({ cluster: openCluster(values), job: positionals[0], json: values.json, name: values.name });
  process.stdout.write(`${told}\n`);
  return 0;
}
