// The writer of a MoEDeployment's status: it writes when it says something new, and the events that go with changed conditions.
import { isDeepStrictEqual } from "node:util";
import { apiVersion } from "../../crds/common.ts";
import { type ConditionState, withTransition } from "../../crds/conditions.ts";
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { type MoEDeploymentStatus, moeDeploymentStatusSchema } from "../../crds/moe-deployment-status.ts";
import { type Kube, type KubeObject, resources } from "../kube/kube.ts";
import type { Deployments } from "./ports.ts";

const manager = "enodia-operator-status";
/** Texts and times alone are not worth a write more often than this. */
const softIntervalMs = 10_000;

/** Conditions whose change is worth an event, and which status is the bad one. */
const announced: Readonly<Record<string, "True" | "False">> = {
  Ready: "False",
  Available: "False",
  Degraded: "True",
  SpecAccepted: "False",
  ModelAvailable: "False",
  TelemetryFresh: "False",
};

export class StatusWriter {
  readonly #kube: Kube;
  readonly #event: Deployments["event"];
  readonly #now: () => number;
  readonly #written = new Map<string, { status: MoEDeploymentStatus; at: number }>();

  constructor(kube: Kube, event: Deployments["event"], now: () => number) {
    this.#kube = kube;
    this.#event = event;
    this.#now = now;
  }

  /** Returns the milliseconds after which a held-back write is due. */
  async write(deployment: MoEDeployment, status: MoEDeploymentStatus): Promise<number | undefined> {
    const { uid, name, namespace } = deployment.metadata;
    const last = this.#written.get(uid);
    const known = last?.status ?? deployment.status;
    if (isDeepStrictEqual(known, status)) return undefined;
    const age = this.#now() - (last?.at ?? 0);
    if (age < softIntervalMs && isDeepStrictEqual(hard(known), hard(status))) return softIntervalMs - age;
    await this.#kube.applyStatus(
      resources.moeDeployments,
      { apiVersion, kind: "MoEDeployment", metadata: { name, namespace, uid }, status },
      { manager },
    );
    this.#written.set(uid, { status, at: this.#now() });
    this.#announce(deployment, known, status);
    return undefined;
  }

  /** Writes the status of an object that cannot be read: one condition says so, the rest stays as it is, if that can be read. */
  async refuse(object: KubeObject, next: ConditionState): Promise<void> {
    const { uid = "", name, namespace } = object.metadata;
    const old = this.#written.get(uid)?.status ?? moeDeploymentStatusSchema.safeParse(object.status).data ?? {};
    const before = old.conditions ?? [];
    const changed = withTransition(before, next, new Date(this.#now()));
    const conditions = [...before.filter((condition) => condition.type !== next.type), changed];
    await this.#kube.applyStatus(
      resources.moeDeployments,
      { apiVersion, kind: "MoEDeployment", metadata: { name, ...(namespace ? { namespace } : {}), uid }, status: { ...old, conditions } },
      { manager },
    );
    this.#written.delete(uid);
  }

  forget(uid: string): void {
    this.#written.delete(uid);
  }

  /** The status that was written last, which the cache may not show yet. */
  latest(deployment: MoEDeployment): MoEDeploymentStatus {
    return this.#written.get(deployment.metadata.uid)?.status ?? deployment.status;
  }

  #announce(deployment: MoEDeployment, before: MoEDeploymentStatus, after: MoEDeploymentStatus): void {
    for (const condition of after.conditions ?? []) {
      const bad = announced[condition.type];
      const old = before.conditions?.find((one) => one.type === condition.type);
      if (!bad || (old?.status === condition.status && old.reason === condition.reason)) continue;
      if (old === undefined && condition.status !== "True") continue; // a condition that starts well is no event
      this.#event(
        deployment,
        condition.status === bad ? "Warning" : "Normal",
        condition.reason,
        `${condition.type}=${condition.status}: ${condition.message}`,
      );
    }
  }
}

/** The status without what only tells time. */
function hard(status: MoEDeploymentStatus): unknown {
  const { lastSampleTime: _, ...telemetry } = status.telemetry ?? {};
  const operation = status.expertParallel?.operation;
  return {
    ...status,
    telemetry,
    expertParallel: { ...status.expertParallel, operation: operation ? { ...operation, message: "" } : undefined },
    conditions: status.conditions?.map((condition) => ({ ...condition, message: "" })),
  };
}
