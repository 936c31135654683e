// `enodia bundle`: writes a support archive without secrets, which names what could not be read.
import { gzipSync } from "node:zlib";
import { AppError, ports } from "../../../crds/common.ts";
import { parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import { type Kube, type KubeObject, type Resource, resources } from "../../kube/kube.ts";
import type { Unread } from "../../views/findings/finding.ts";
import { judge } from "../../views/findings/index.ts";
import { jobReport } from "../../views/job.ts";
import { podFactsOf } from "../../views/pods.ts";
import { type BundleFacts, bundleEntries, tarStream } from "../bundle.ts";
import { argument, declare, text, value } from "../command.ts";
import { examine } from "../doctor/index.ts";
import { findOperators } from "../doctor/operator.ts";
import { doctorText } from "../doctor-text.ts";
import { findingsText } from "../findings-text.ts";
import { type ClusterAccess, objectOf, openCluster } from "../kube.ts";
import { type Subject, subjectOf } from "../log-subject.ts";
import { clusterOptions, whole } from "../options.ts";
import { type OutputFile, writeOutput } from "../output-file.ts";
import { podLogLines, podsMax, sourcesOf, whyNot } from "../pod-logs.ts";
import { gather } from "../status-reads.ts";
import { sectionsText } from "../table.ts";
import { version } from "../version.ts";
import { pause } from "../watch.ts";

const linesMax = 20_000;
/** Per pod. */
const logCharsMax = 1024 * 1024;
const metricsMsMax = 3_000;

export const command = declare({
  about:
    "Writes an archive for support: the objects of a MoEDeployment or a MoETrainingJob, logs and metrics of its pods, logs of the operator, and what status and doctor say. Secrets and ConfigMaps are not read. Of objects and log lines only what an allow-list names is written, and texts lose what looks like a credential; README.txt in it says more. Look through it before you hand it on.",
  arguments: [argument("<name>", "a MoEDeployment, or job/NAME for a MoETrainingJob", { moeDeployments: "", moeTrainingJobs: "job/" })],
  options: {
    ...clusterOptions,
    output: text("-o, --output <file>", "where to write (default: enodia-NAME-TIME.tar.gz here); a file that is there stays"),
    lines: value("--lines <number>", "newest log lines of each pod", whole(1, linesMax), 2000),
  },
  async action({ output, lines, ...options }, name) {
    const subject = subjectOf(name);
    const now = new Date();
    const path = output ?? `enodia-${subject.name}-${now.toISOString().replace(/\D/g, "").slice(0, 14)}.tar.gz`;
    const facts = await read(openCluster(options), subject, { lines, now });
    const chunks: Uint8Array[] = [];
    for await (const chunk of tarStream(bundleEntries(facts))) chunks.push(chunk);
    const archive = gzipSync(Buffer.concat(chunks));
    await writeOutput(newFile(path), archive);
    const pods = Object.keys(facts.logs).length;
    process.stdout.write(`${path}: ${archive.byteLength} bytes, of ${pods} pods; look through it before you hand it on\n`);
    for (const { what, why } of facts.unread) process.stderr.write(`enodia: not in it: ${what}: ${why}\n`);
    return 0;
  },
});

/** Readable by its owner only. */
const newFile = (path: string): OutputFile => ({
  path,
  option: "-o",
  kind: "to be replaced",
  isOurs: () => false,
  overwrite: false,
  mode: 0o600,
});

async function read(
  cluster: ClusterAccess,
  subject: Subject,
  { lines, now }: { readonly lines: number; readonly now: Date },
): Promise<BundleFacts> {
  const { kube, namespace } = cluster;
  const { name, kind, label } = subject;
  const ref = { namespace, name };
  const unread: Unread[] = [];
  const status = await statusTexts[kind](cluster, ref, unread);
  const object = await kube.get(resources[subject.resource], ref);
  const { some, one } = reader(kube, unread);
  const operators = (await findOperators(kube)) ?? [];
  const system = operators[0]?.namespace;
  const own = `${label}=${name}`;
  const [placement, pods, events, nodes, claims, crds, installs, leases] = await Promise.all([
    kind === "MoEDeployment" ? one(resources.expertPlacements, ref) : [],
    some(resources.pods, { namespace, labelSelector: own }),
    some(resources.events, { namespace }),
    some(resources.nodes, {}),
    some(resources.persistentVolumeClaims, { namespace }),
    some(resources.customResourceDefinitions, {}),
    some(resources.deployments, { labelSelector: "app.kubernetes.io/part-of=enodia" }),
    system === undefined ? [] : some(resources.leases, { namespace: system }),
  ]);
  const related = new Set([name, ...pods.map(({ metadata }) => metadata.name)]);
  const logs = await logsOf(cluster, subject, { lines, unread });
  return {
    ...ref,
    kind,
    version,
    now,
    objects: {
      [kind.toLowerCase()]: object ? [{ ...object, kind }] : [],
      expertplacement: placement,
      pods,
      events: events.filter(({ regarding }) => related.has(String((regarding as { name?: unknown } | undefined)?.name))),
      nodes,
      claims,
      crds: crds.filter(({ metadata }) => metadata.name.endsWith(".enodia.dev")),
      operators: installs,
      leases,
    },
    texts: { "status.txt": status, "doctor.txt": await doctorReport(cluster, operators, now) },
    logs,
    metrics: await metricsOf(cluster, pods, unread),
    unread,
  };
}

/** Throws AppError `NotFound` without the deployment. */
async function deploymentText(
  cluster: ClusterAccess,
  ref: { readonly namespace: string; readonly name: string },
  unread: Unread[],
): Promise<string> {
  try {
    const seen = await gather(cluster, ref);
    unread.push(...seen.unread);
    return findingsText(judge(seen), seen.unread);
  } catch (caught) {
    const { code, message } = AppError.from(caught);
    if (code === "NotFound") throw caught;
    unread.push({ what: "status", why: message });
    return `status fails: ${message}`;
  }
}

async function jobStatusText({ kube }: ClusterAccess, ref: { readonly namespace: string; readonly name: string }): Promise<string> {
  const object = await objectOf(kube, resources.moeTrainingJobs, ref);
  try {
    return sectionsText(jobReport(parseMoETrainingJob(object)));
  } catch (caught) {
    return `train status fails: ${AppError.from(caught).message}`;
  }
}

const statusTexts = { MoEDeployment: deploymentText, MoETrainingJob: jobStatusText } as const;

function reader(kube: Kube, unread: Unread[]) {
  const attempt = async (what: string, read: () => Promise<readonly KubeObject[]>): Promise<readonly KubeObject[]> => {
    try {
      return await read();
    } catch (caught) {
      unread.push({ what, why: AppError.from(caught).message });
      return [];
    }
  };
  return {
    some: (resource: Resource, where: Parameters<Kube["list"]>[1]) =>
      attempt(resource.plural, async () => (await kube.list(resource, where)).items),
    one: (resource: Resource, ref: { readonly namespace: string; readonly name: string }) =>
      attempt(`${resource.plural} ${ref.name}`, async () => {
        const found = await kube.get(resource, ref);
        return found ? [{ ...found, kind: resource.kind }] : [];
      }),
  };
}

async function doctorReport(cluster: ClusterAccess, operators: Awaited<ReturnType<typeof findOperators>>, now: Date): Promise<string> {
  const over = new AbortController();
  const { kube, transport, namespace } = cluster;
  const examined = await examine({ kube, transport, namespace, operators, version, now, sleep: pause, signal: over.signal });
  over.abort();
  return doctorText(examined);
}

async function logsOf(
  cluster: ClusterAccess,
  subject: Subject,
  { lines, unread }: { readonly lines: number; readonly unread: Unread[] },
): Promise<Record<string, readonly string[]>> {
  const found: Record<string, readonly string[]> = {};
  const sources = await sourcesOf(cluster, { namespace: cluster.namespace, subject }, subject.components).catch((caught: unknown) => {
    unread.push({ what: "logs", why: AppError.from(caught).message });
    return [];
  });
  if (sources.length > podsMax) unread.push({ what: "logs", why: `there are ${sources.length} pods, and those of ${podsMax} are in it` });
  for (const source of sources.slice(0, podsMax)) {
    for (const previous of [false, true]) {
      try {
        const own = await podLogLines(cluster.transport, source, { tail: lines, previous }, logCharsMax);
        found[`${source.pod}${previous ? ".previous" : ""}`] = own;
      } catch (caught) {
        // Most containers have no previous process.
        if (!previous) unread.push({ what: `log of ${source.pod}`, why: whyNot(caught) });
      }
    }
  }
  return found;
}

async function metricsOf({ transport }: ClusterAccess, pods: readonly KubeObject[], unread: Unread[]): Promise<Record<string, string>> {
  // The operator logs training jobs itself.
  const has = (pod: KubeObject): boolean => {
    const facts = podFactsOf(pod);
    return facts?.phase === "Running" && ["gateway", "worker"].includes(facts.component);
  };
  const running = pods.filter(has).slice(0, podsMax);
  const found = await Promise.all(
    running.map(async ({ metadata }) => {
      const path = `/api/v1/namespaces/${encodeURIComponent(metadata.namespace ?? "")}/pods/${encodeURIComponent(metadata.name)}:${ports.metrics}/proxy/metrics`;
      try {
        return [[metadata.name, await transport.request({ method: "GET", path, signal: AbortSignal.timeout(metricsMsMax) })] as const];
      } catch (caught) {
        unread.push({ what: `metrics of ${metadata.name}`, why: AppError.from(caught).message });
        return [];
      }
    }),
  );
  return Object.fromEntries(found.flat());
}
