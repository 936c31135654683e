// `enodia rollout`: status and history read; pause, resume and undo change the MoEDeployment.
import { setTimeout as sleep } from "node:timers/promises";
import { AppError, annotations, labels } from "../../../crds/common.ts";
import { type MoEDeployment, parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { parseDuration } from "../../../crds/quantity.ts";
import type { RolloutPhase } from "../../../crds/rollout.ts";
import { type Accepted, durable, readRevision } from "../../deployment/objects/revision.ts";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { historySections, type RevisionRow, rolloutSections } from "../../views/deployment.ts";
import { argument, declare, flag, value } from "../command.ts";
import { type ClusterAccess, objectOf, openCluster } from "../kube.ts";
import { clusterOptions, whole } from "../options.ts";
import { sectionsText } from "../table.ts";

const lookMs = 1_000;
const write = { manager: "enodia" } as const;

export interface RolloutRequest {
  readonly cluster: Pick<ClusterAccess, "kube" | "namespace">;
  readonly name: string;
  readonly watch: boolean;
  readonly timeoutMs: number;
  readonly toRevision: number | undefined;
  readonly print: (text: string) => void;
}

const name = argument("<name>", "a MoEDeployment", { moeDeployments: "" });
const print = (text: string): void => void process.stdout.write(`${text}\n`);
const still = { watch: false, timeoutMs: 0, toRevision: undefined, print } as const;

export const status = declare({
  about: "How far a rollout is. Exits with 1 when it was rolled back.",
  arguments: [name],
  options: {
    ...clusterOptions,
    watch: flag("--watch", "until the rollout has come to rest"),
    timeout: value(
      "--timeout <time>",
      "with --watch: exits with 1 after so long (default: 30m)",
      (text) => parseDuration(text, "--timeout"),
      1_800_000,
    ),
  },
  action: ({ watch, timeout, ...options }, of) =>
    acts.status({ ...still, cluster: openCluster(options), name: of, watch, timeoutMs: timeout }),
});

/** A command without options of its own. */
const verb = (about: string, act: "history" | "pause" | "resume") =>
  declare({
    about,
    arguments: [name],
    options: clusterOptions,
    action: (options, of) => acts[act]({ ...still, cluster: openCluster(options), name: of }),
  });

export const history = verb("The specs that can be gone back to, and what the operator did last.", "history");
export const pause = verb("Replaces no further rank. What has begun is finished, and lost ranks are replaced all the same.", "pause");
export const resume = verb("Goes on with a rollout that is paused, and tries again what was rolled back.", "resume");

export const undo = declare({
  about: "Makes the spec one that was in effect before: after a rollback the one that runs.",
  arguments: [name],
  options: {
    ...clusterOptions,
    toRevision: value("--to-revision <number>", "that of rollout history", whole(1, Number.MAX_SAFE_INTEGER)),
  },
  action: ({ toRevision, ...options }, of) => acts.undo({ ...still, cluster: openCluster(options), name: of, toRevision }),
});

async function read({ cluster, name }: RolloutRequest): Promise<{ object: KubeObject; deployment: MoEDeployment }> {
  const object = await objectOf(cluster.kube, resources.moeDeployments, { namespace: cluster.namespace, name });
  return { object, deployment: parseMoEDeployment(object) };
}

interface Listed extends RevisionRow {
  readonly accepted: Accepted;
}

async function revisionsOf({ cluster, name }: RolloutRequest, { metadata }: MoEDeployment): Promise<Listed[]> {
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

/** Exit codes of finished rolls; undefined while one goes on. */
const restsWith: Readonly<Record<RolloutPhase, number | undefined>> = {
  Complete: 0,
  Paused: 0,
  Partitioned: 0,
  OnDelete: 0,
  RolledBack: 1,
  Progressing: undefined,
  Baking: undefined,
  RollingBack: undefined,
};

function restingStatus({ metadata, status }: MoEDeployment): number | undefined {
  const seen = (status.observedGeneration ?? 0) >= metadata.generation;
  return seen && status.rollout ? restsWith[status.rollout.phase] : undefined;
}

async function showStatus(request: RolloutRequest): Promise<number> {
  const end = performance.now() + request.timeoutMs;
  for (let printed = ""; ; ) {
    const { deployment } = await read(request);
    const text = sectionsText(rolloutSections(deployment));
    if (text !== printed) request.print(text);
    printed = text;
    const rests = restingStatus(deployment);
    if (!request.watch || rests !== undefined) return rests ?? 0;
    if (performance.now() > end) {
      request.print(`it goes on still after ${Math.round(request.timeoutMs / 1000)} s (--timeout)`);
      return 1;
    }
    await sleep(lookMs);
  }
}

async function showHistory(request: RolloutRequest): Promise<number> {
  const { deployment } = await read(request);
  request.print(sectionsText(historySections(deployment, await revisionsOf(request, deployment))));
  return 0;
}

async function pauseRollouts(request: RolloutRequest): Promise<number> {
  const { deployment } = await read(request);
  await patch(request, deployment, { spec: { rolloutStrategy: { paused: true } } });
  request.print(`${request.name}: rolls are paused; lost ranks are replaced all the same`);
  return 0;
}

async function resumeRollouts(request: RolloutRequest): Promise<number> {
  const { deployment } = await read(request);
  const { paused } = deployment.spec.rolloutStrategy;
  const { rolledBack } = deployment.status.rollout ?? {};
  if (!paused && !rolledBack) {
    request.print(`${request.name}: nothing is paused and nothing was rolled back`);
    return 0;
  }
  await patch(request, deployment, {
    ...(rolledBack ? { metadata: { annotations: { [annotations.retryRollout]: rolledBack.id } } } : {}),
    ...(paused ? { spec: { rolloutStrategy: { paused: false } } } : {}),
  });
  request.print(
    `${request.name}: ${rolledBack ? `${rolledBack.fromRevision === 0 ? "what failed" : `revision ${rolledBack.fromRevision}`} is tried again` : "rolls go on"}`,
  );
  return 0;
}

/** The uid excludes a later namesake. */
async function patch(
  { cluster, name }: RolloutRequest,
  { metadata: { uid } }: MoEDeployment,
  change: { metadata?: object; spec?: object },
) {
  const ref = { namespace: cluster.namespace, name };
  await cluster.kube.patch(resources.moeDeployments, ref, { ...change, metadata: { ...change.metadata, uid } }, write);
}

async function undoRollout(request: RolloutRequest): Promise<number> {
  const { object, deployment } = await read(request);
  const target = chosen(request, await revisionsOf(request, deployment), deployment);
  const { replicas, suspend, rolloutStrategy } = (object.spec ?? {}) as Record<string, unknown>;
  const spec = {
    ...durable(target.accepted.spec),
    ...(replicas === undefined ? {} : { replicas }),
    ...(suspend === undefined ? {} : { suspend }),
    ...(rolloutStrategy === undefined ? {} : { rolloutStrategy }),
  };
  await request.cluster.kube.update(resources.moeDeployments, { ...object, spec }, write);
  request.print(`${request.name}: the spec is that of revision ${target.number} again (generation ${target.generation})`);
  return 0;
}

/** After a rollback, and while another model is tried, undo means the newest revision; otherwise the one before. */
function chosen({ name, toRevision }: RolloutRequest, revisions: readonly Listed[], { spec, status }: MoEDeployment): Listed {
  const { rolledBack } = status.rollout ?? {};
  const usable = revisions.filter(({ templateHash }) => templateHash !== rolledBack?.templateHash);
  const newest = usable[0]?.accepted.spec;
  const isTried = newest?.model.uri !== spec.model.uri || newest.runtime.expertCodec !== spec.runtime.expertCodec;
  const found = toRevision !== undefined ? revisions.find(({ number }) => number === toRevision) : usable[rolledBack || isTried ? 0 : 1];
  if (found) return found;
  const have = revisions.map(({ number }) => number).join(", ") || "none";
  const which = toRevision === undefined ? "no revision before the one in effect" : `no revision ${toRevision}`;
  throw new AppError(`${name}: ${which} is kept; there are: ${have}`, { code: "NotFound" });
}

export const acts = { status: showStatus, history: showHistory, pause: pauseRollouts, resume: resumeRollouts, undo: undoRollout };
