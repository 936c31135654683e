// The writer of a MoEDeployment's status: it writes when it has something new to say, or when the object does not say what was
// written last, and records the events that go with changed conditions.
import { isDeepStrictEqual } from "node:util";
import { apiVersion } from "../../crds/common.ts";
import { type ConditionState, withTransition } from "../../crds/conditions.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { type MoEDeploymentStatus, moeDeploymentStatusSchema } from "../../crds/moe-deployment-status.ts";
import { type Kube, type KubeObject, type Ref, resources } from "../kube/kube.ts";
import type { Deployments } from "./ports.ts";

const manager = "enodia-operator-status";
/** Texts and figures alone are not worth a write more often than this: of something that goes on, and of nothing but the load. */
const softIntervalMs = { underWay: 10_000, calm: 60_000 };

/** A status that somebody else keeps changing is put right at most this often. */
const mendIntervalMs = 1_000;

/** Conditions whose change is worth an event, and which status is the bad one. */
const announced: Readonly<Record<string, "True" | "False">> = {
  Ready: "False",
  Available: "False",
  Degraded: "True",
  SpecAccepted: "False",
  FieldConflict: "True",
  ModelAvailable: "False",
  TelemetryFresh: "False",
};

interface Written {
  readonly status: MoEDeploymentStatus;
  /** The status that the API server answered with: ours, and what others own in it. */
  readonly answer: MoEDeploymentStatus | undefined;
  readonly version: string;
  readonly at: number;
}

export interface StatusWriterOptions {
  readonly kube: Kube;
  readonly event: Deployments["event"];
  /** The object as the informers have it. */
  readonly live: (ref: Ref) => KubeObject | undefined;
  readonly now: () => Date;
  /** Milliseconds for ages alone. */
  readonly ticks: () => number;
}

export class StatusWriter {
  readonly #options: StatusWriterOptions;
  readonly #written = new Map<string, Written>();
  /** What is being written; its event may come before its answer. */
  readonly #pending = new Map<string, MoEDeploymentStatus>();

  constructor(options: StatusWriterOptions) {
    this.#options = options;
  }

  /** Returns the milliseconds after which a held-back write is due. */
  async write(deployment: MoEDeployment, status: MoEDeploymentStatus): Promise<number | undefined> {
    const { uid, name, namespace } = deployment.metadata;
    const last = this.#written.get(uid);
    const known = last?.status ?? deployment.status;
    const age = this.#options.ticks() - (last?.at ?? Number.NEGATIVE_INFINITY);
    if (this.#disturbed({ namespace, name }, uid)) {
      if (age < mendIntervalMs) return mendIntervalMs - age;
    } else {
      if (same(known, status)) return undefined;
      const softMs = isCalm(status) ? softIntervalMs.calm : softIntervalMs.underWay;
      if (age < softMs && same(hard(known), hard(status))) return softMs - age;
    }
    await this.#apply(uid, { apiVersion, kind: "MoEDeployment", metadata: { name, namespace, uid }, status });
    this.#announce(deployment, known, status);
    return undefined;
  }

  /** Writes the status of an object that cannot be read: one condition says so, the rest stays as it is, if that can be read. */
  async refuse(object: KubeObject, next: ConditionState): Promise<void> {
    const { uid = "", name, namespace } = object.metadata;
    const live = readStatus(object);
    const old = this.#written.get(uid)?.status ?? live ?? {};
    const before = old.conditions ?? [];
    const changed = withTransition(before, next, this.#options.now());
    const status = { ...old, conditions: [...before.filter((condition) => condition.type !== next.type), changed] };
    if (live && same(live, status)) return;
    await this.#apply(uid, { apiVersion, kind: "MoEDeployment", metadata: { name, ...(namespace ? { namespace } : {}), uid }, status });
    this.#written.delete(uid);
  }

  forget(uid: string): void {
    this.#written.delete(uid);
  }

  /** The status that was written last, which the cache may not show yet. */
  latest(deployment: MoEDeployment): MoEDeploymentStatus {
    return this.#written.get(deployment.metadata.uid)?.status ?? deployment.status;
  }

  /** True when the status of this object is the one that we wrote, or are writing. */
  wrote(object: KubeObject): boolean {
    const { uid = "", resourceVersion } = object.metadata;
    if (this.#written.get(uid)?.version === resourceVersion) return true;
    const pending = this.#pending.get(uid);
    return pending !== undefined && same(readStatus(object), pending);
  }

  /** True when the cache is as new as our last write and shows another status than that write left: a forged one, or a late write of
   *  a former leader. */
  #disturbed(ref: Ref, uid: string): boolean {
    const last = this.#written.get(uid);
    const live = this.#options.live(ref);
    if (!last || live?.metadata.uid !== uid || isOlder(live.metadata.resourceVersion, last.version)) return false;
    return !same(readStatus(live), last.answer);
  }

  async #apply(uid: string, object: KubeObject & { readonly status: MoEDeploymentStatus }): Promise<void> {
    const { status } = object;
    this.#pending.set(uid, status);
    try {
      const answer = await this.#options.kube.applyStatus(resources.moeDeployments, object, { manager });
      const version = answer.metadata.resourceVersion ?? "";
      this.#written.set(uid, { status, answer: readStatus(answer), version, at: this.#options.ticks() });
    } finally {
      this.#pending.delete(uid);
    }
  }

  #announce(deployment: MoEDeployment, before: MoEDeploymentStatus, after: MoEDeploymentStatus): void {
    for (const condition of after.conditions ?? []) {
      const bad = announced[condition.type];
      const old = before.conditions?.find((one) => one.type === condition.type);
      if (!bad || (old?.status === condition.status && old.reason === condition.reason)) continue;
      if (old === undefined && condition.status !== "True") continue; // a condition that starts well is no event
      this.#options.event(
        deployment,
        condition.status === bad ? "Warning" : "Normal",
        condition.reason,
        `${condition.type}=${condition.status}: ${condition.message}`,
      );
    }
  }
}

function readStatus({ status }: KubeObject): MoEDeploymentStatus | undefined {
  return moeDeploymentStatusSchema.safeParse(status ?? {}).data;
}

/** True when both read the same as JSON, in which a field without a value is none. */
function same(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(plain(a), plain(b));
}

const plain = (value: unknown): unknown => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));

/** The order of versions, where they are numbers; else nothing is known to be older. */
function isOlder(version: string | undefined, than: string): boolean {
  const whole = /^\d+$/;
  return whole.test(version ?? "") && whole.test(than) && BigInt(version ?? "") < BigInt(than);
}

/** True where the deployment serves and nothing is done to it. */
function isCalm({ conditions, operation, rollout, download }: MoEDeploymentStatus): boolean {
  const ready = conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
  const done = (rollout?.phase ?? "Complete") === "Complete" && (download?.phase ?? "Done") === "Done";
  return ready && done && operation === undefined;
}

/** The status without what only tells time, or the balance of the last window. */
function hard(status: MoEDeploymentStatus): unknown {
  const { lastSampleTime: _, ...telemetry } = status.telemetry ?? {};
  const { imbalancePercent: __, boundPercent: ___, ...placement } = status.placement ?? {};
  const { operation, rollout, download, autoscale } = status;
  return {
    ...status,
    telemetry,
    placement,
    download: download && { uri: download.uri, phase: download.phase },
    operation: operation && { ...operation, message: "" },
    rollout: rollout && { ...rollout, message: "" },
    autoscale: { lastScale: autoscale?.lastScale },
    conditions: status.conditions?.map((condition) => ({ ...condition, message: "" })),
  };
}
