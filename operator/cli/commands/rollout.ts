// `enodia rollout`: how far a roll is, and what a person does about it. status and history read; pause, resume and undo change the
// MoEDeployment as kubectl would, so the rights of the person decide. ../rollout-text.ts says it.
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { AppError, annotations, labels } from "../../../crds/common.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import { type Accepted, durable, readRevision } from "../../deployment/revision.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { type ClusterAccess, kubeFlags, kubeFlagsHelp, openCluster } from "../kube.ts";
import { whole } from "../options.ts";
import { type RevisionRow, restingStatus, rolloutHistoryText, rolloutStatusText } from "../rollout-text.ts";

const usage = `usage: enodia rollout status NAME [--watch]    how far a roll is; 1 as exit status when it was rolled back
       enodia rollout history NAME             the specs that can be gone back to, and what the operator did last
       enodia rollout pause NAME               replaces no further rank; what has begun is finished
       enodia rollout resume NAME              goes on; what was rolled back is tried again
       enodia rollout undo NAME                makes the spec one that was in force before: after a roll back the one that runs

${kubeFlagsHelp}
      --watch            status: until the roll has come to rest
      --timeout TIME     status --watch: at most so long, then 1 as exit status (default 30m)
      --to-revision N    undo: that of rollout history`;

export const options = {
  ...kubeFlags,
  watch: { type: "boolean", default: false },
  timeout: { type: "string", default: "30m" },
  "to-revision": { type: "string" },
  help: { type: "boolean", short: "h", default: false },
} as const;

/** Milliseconds between two looks of --watch. */
const lookMs = 1_000;
const revisionMax = Number.MAX_SAFE_INTEGER;
const write = { manager: "enodia" } as const;

export interface Asked {
  readonly cluster: Pick<ClusterAccess, "kube" | "namespace">;
  readonly name: string;
  readonly watch: boolean;
  readonly timeoutMs: number;
  readonly toRevision: number | undefined;
  readonly print: (text: string) => void;
}

type Verb = (asked: Asked) => Promise<number>;

export const acts: Readonly<Record<string, Verb>> = { status, history, pause, resume, undo };
export const verbs = Object.keys(acts);

export async function run(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({ args: [...args], allowPositionals: true, options });
  const [verb = "", name, ...rest] = positionals;
  const act = acts[verb];
  if (values.help || !act || name === undefined || rest.length > 0) {
    process[values.help ? "stdout" : "stderr"].write(`${usage}\n`);
    return values.help ? 0 : 2;
  }
  return act({
    cluster: openCluster(values),
    name,
    watch: values.watch,
    timeoutMs: parseDuration(values.timeout, "--timeout"),
    toRevision: whole(values["to-revision"], "--to-revision", 1, revisionMax),
    print: (text) => process.stdout.write(`${text}\n`),
  });
}

async function read({ cluster, name }: Asked): Promise<{ object: KubeObject; deployment: MoEDeployment }> {
  const object = await cluster.kube.get(resources.moeDeployments, { namespace: cluster.namespace, name });
  if (object) return { object, deployment: parseMoEDeployment(object) };
  throw new AppError(`no MoEDeployment "${name}" in namespace ${cluster.namespace}; see: kubectl get moed -A`, { code: "NotFound" });
}

interface Listed extends RevisionRow {
  readonly accepted: Accepted;
}

/** Newest first. */
async function revisionsOf({ cluster, name }: Asked, { metadata }: MoEDeployment): Promise<Listed[]> {
  const selector = { namespace: cluster.namespace, labelSelector: `${labels.deployment}=${name}` };
  const { items } = await cluster.kube.list(resources.controllerRevisions, selector);
  const ours = items.filter((object) => object.metadata.ownerReferences?.some(({ uid }) => uid === metadata.uid));
  const listed = ours.map(readRevision).flatMap(({ number, accepted }): Listed[] => {
    if (!accepted) return [];
    const { generation, template, runtimeImage } = accepted;
    return [
      { number, generation, templateHash: template.hash, image: imageOf(accepted) ?? runtimeImage, model: modelOf(accepted), accepted },
    ];
  });
  return listed.sort((a, b) => b.number - a.number);
}

const imageOf = ({ template }: Accepted): string | undefined =>
  template.pod.spec.containers.flatMap(({ name, image }) => (name === "runtime" ? String(image) : []))[0];

const modelOf = ({ spec }: Accepted): string => `${spec.model.uri} (${spec.runtime.expertCodec})`;

async function status(asked: Asked): Promise<number> {
  const end = performance.now() + asked.timeoutMs;
  for (let said = ""; ; ) {
    const { deployment } = await read(asked);
    const text = rolloutStatusText(deployment);
    if (text !== said) asked.print(text);
    said = text;
    const rests = restingStatus(deployment);
    if (!asked.watch || rests !== undefined) return rests ?? 0;
    if (performance.now() > end) {
      asked.print(`it goes on still after ${Math.round(asked.timeoutMs / 1000)} s (--timeout)`);
      return 1;
    }
    await sleep(lookMs);
  }
}

async function history(asked: Asked): Promise<number> {
  const { deployment } = await read(asked);
  asked.print(rolloutHistoryText(deployment, await revisionsOf(asked, deployment)));
  return 0;
}

async function pause(asked: Asked): Promise<number> {
  const { deployment } = await read(asked);
  await patch(asked, deployment, { spec: { rolloutStrategy: { paused: true } } });
  asked.print(`${asked.name}: rolls are paused; lost ranks are replaced all the same`);
  return 0;
}

async function resume(asked: Asked): Promise<number> {
  const { deployment } = await read(asked);
  const { paused } = deployment.spec.rolloutStrategy;
  const { rolledBack } = deployment.status.rollout ?? {};
  if (!paused && !rolledBack) {
    asked.print(`${asked.name}: nothing is paused and nothing was rolled back`);
    return 0;
  }
  await patch(asked, deployment, {
    ...(rolledBack ? { metadata: { annotations: { [annotations.retryRollout]: rolledBack.id } } } : {}),
    ...(paused ? { spec: { rolloutStrategy: { paused: false } } } : {}),
  });
  asked.print(
    `${asked.name}: ${rolledBack ? `${rolledBack.fromRevision === 0 ? "what failed" : `revision ${rolledBack.fromRevision}`} is tried again` : "rolls go on"}`,
  );
  return 0;
}

/** The uid makes it this deployment, and not a later one of its name. */
async function patch({ cluster, name }: Asked, { metadata: { uid } }: MoEDeployment, change: { metadata?: object; spec?: object }) {
  const ref = { namespace: cluster.namespace, name };
  await cluster.kube.patch(resources.moeDeployments, ref, { ...change, metadata: { ...change.metadata, uid } }, write);
}

async function undo(asked: Asked): Promise<number> {
  const { object, deployment } = await read(asked);
  const target = chosen(asked, await revisionsOf(asked, deployment), deployment);
  const { replicas, suspend, rolloutStrategy } = (object.spec ?? {}) as Record<string, unknown>;
  const spec = {
    ...durable(target.accepted.spec),
    ...(replicas === undefined ? {} : { replicas }),
    ...(suspend === undefined ? {} : { suspend }),
    ...(rolloutStrategy === undefined ? {} : { rolloutStrategy }),
  };
  await asked.cluster.kube.update(resources.moeDeployments, { ...object, spec }, write);
  asked.print(`${asked.name}: the spec is that of revision ${target.number} again (generation ${target.generation})`);
  return 0;
}

/**
 * What runs is the newest after a roll back, and while another model is held or tried; otherwise the newest is what the spec says, and
 * the one before it is meant.
 */
function chosen({ name, toRevision }: Asked, revisions: readonly Listed[], { spec, status }: MoEDeployment): Listed {
  const { rolledBack } = status.rollout ?? {};
  const kept = revisions.filter(({ templateHash }) => templateHash !== rolledBack?.templateHash);
  const newest = kept[0]?.accepted.spec;
  const isTried = newest?.model.uri !== spec.model.uri || newest.runtime.expertCodec !== spec.runtime.expertCodec;
  const found = toRevision !== undefined ? revisions.find(({ number }) => number === toRevision) : kept[rolledBack || isTried ? 0 : 1];
  if (found) return found;
  const have = revisions.map(({ number }) => number).join(", ") || "none";
  const which = toRevision === undefined ? "no revision before the one in force" : `no revision ${toRevision}`;
  throw new AppError(`${name}: ${which} is kept; there are: ${have}`, { code: "NotFound" });
}
