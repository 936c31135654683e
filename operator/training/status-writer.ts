// The writer of a training job's status: at once where something is decided, now and then where only progress is told, never where nothing
// is new. What it wrote last counts until the cache shows it, and events go with changed conditions.
import { isDeepStrictEqual } from "node:util";
import { apiVersion } from "../../crds/common.ts";
import { type ConditionState, withTransition } from "../../crds/conditions.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { type MoETrainingJobStatus, moeTrainingJobStatusSchema } from "../../crds/moe-training-job-status.ts";
import { type Kube, type KubeObject, resources } from "../kube/kube.ts";
import type { Subject } from "../pki/authorities.ts";

const manager = "enodia-operator-status";
/** Progress alone is written at most this often. */
const progressWriteMs = 5_000;

export type JobEvent = (job: Subject, type: "Normal" | "Warning", reason: string, note: string) => void;

/** Conditions whose change is an event -> the status that is bad news, if any. */
const announced: Readonly<Record<string, "True" | "False" | undefined>> = {
  SpecAccepted: "False",
  Running: undefined,
  Complete: undefined,
  Failed: "True",
};

/** Reasons that are bad news by themselves. */
const warned: readonly string[] = ["Restarting", "RankLost", "FewerRanks"];

export interface StatusWriterOptions {
  readonly kube: Pick<Kube, "applyStatus">;
  readonly event: JobEvent;
  readonly now: () => Date;
  /** Milliseconds for ages alone. */
  readonly ticks: () => number;
}

export class StatusWriter {
  readonly #options: StatusWriterOptions;
  readonly #written = new Map<string, { readonly status: MoETrainingJobStatus; readonly at: number }>();

  constructor(options: StatusWriterOptions) {
    this.#options = options;
  }

  /** The status that was written last, which the cache may not show yet. */
  latest({ metadata, status }: MoETrainingJob): MoETrainingJobStatus {
    return this.#written.get(metadata.uid)?.status ?? status;
  }

  forget(uid: string): void {
    this.#written.delete(uid);
  }

  /** Writes the status of an object that cannot be read: one condition says so, the rest stays as it is, if that can be read. */
  async refuse(object: KubeObject, next: ConditionState): Promise<void> {
    const { name, namespace = "", uid = "" } = object.metadata;
    const live = moeTrainingJobStatusSchema.safeParse(object.status ?? {}).data;
    const old = this.#written.get(uid)?.status ?? live ?? {};
    const before = old.conditions ?? [];
    const changed = withTransition(before, next, this.#options.now());
    const status = { ...old, conditions: [...before.filter(({ type }) => type !== next.type), changed] };
    if (live !== undefined && isDeepStrictEqual(plain(live), plain(status))) return;
    await this.#apply({ name, namespace, uid }, status);
    this.#written.delete(uid);
  }

  async write(job: MoETrainingJob, status: MoETrainingJobStatus): Promise<void> {
    const { name, namespace, uid } = job.metadata;
    const before = this.latest(job);
    if (isDeepStrictEqual(plain(before), plain(status))) return;
    const age = this.#options.ticks() - (this.#written.get(uid)?.at ?? Number.NEGATIVE_INFINITY);
    if (age < progressWriteMs && isDeepStrictEqual(decided(before), decided(status))) return;
    await this.#apply({ name, namespace, uid }, status);
    this.#written.set(uid, { status, at: this.#options.ticks() });
    this.#announce(job, before, status);
  }

  async #apply(metadata: KubeObject["metadata"], status: MoETrainingJobStatus): Promise<void> {
    const object = { apiVersion, kind: "MoETrainingJob", metadata, status };
    await this.#options.kube.applyStatus(resources.moeTrainingJobs, object, { manager });
  }

  #announce(job: MoETrainingJob, before: MoETrainingJobStatus, after: MoETrainingJobStatus): void {
    const { world } = after;
    if (world !== undefined && world.epoch !== before.world?.epoch && world.ranks.length > 1)
      this.#options.event(job, "Normal", "NewWorld", `world ${world.epoch}: ${world.ranks.length} ranks train together`);
    for (const { type, status, reason, message } of after.conditions ?? []) {
      if (!(type in announced)) continue;
      const old = before.conditions?.find((one) => one.type === type);
      if (old?.status === status && old.reason === reason) continue;
      if (old === undefined && type === "SpecAccepted" && status === "True") continue; // that a spec is accepted is no news
      const bad = announced[type] === status || warned.includes(reason);
      this.#options.event(job, bad ? "Warning" : "Normal", reason, message);
    }
  }
}

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

/** The status without what only tells how far it is. */
function decided(status: MoETrainingJobStatus): unknown {
  const { step: _step, progress: _progress, loss: _loss, validationLoss: _validation, curve: _curve, ...rest } = status;
  const {
    tokensPerSecond: _speed,
    eta: _eta,
    gradientNorm: _norm,
    imbalance: _imbalance,
    spread: _spread,
    copies: _copies,
    ...left
  } = rest;
  return plain({ ...left, conditions: status.conditions?.map(({ message: _message, ...condition }) => condition) });
}
