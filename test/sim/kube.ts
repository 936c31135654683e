// The Kubernetes of a simulated cluster as the operator sees it: pods as a world, and the object that holds the plan, which answers
// late, not at all, or not what it did.
import { AppError } from "../../crds/common.ts";
import { type MoEDeploymentSpec, moeDeploymentSpecSchema } from "../../crds/moe-deployment.ts";
import type { LeavingRank, WorkerPod, World } from "../../operator/deployment/ports.ts";
import type { PlacementStore, StoredPlacement } from "../../operator/rebalance/ports.ts";
import { asOwner, type VirtualClock } from "./clock.ts";
import { deploymentUid, ref, type SimWorker } from "./worker.ts";

export interface RecordedEvent {
  readonly at: number;
  readonly type: string;
  readonly reason: string;
  readonly message: string;
}

export const callMs = 1;

export class SimKube {
  readonly pods = new Map<string, SimWorker>();
  readonly events: RecordedEvent[] = [];
  readonly epochsWritten: number[] = [];
  leaving: LeavingRank[] = [];
  stored: StoredPlacement | undefined;
  storeDown = false;
  /** The number of writes of plans to come that fail. */
  failWrites = 0;
  /** The time that a write of a plan takes to arrive. */
  writeMs = callMs;
  spec: MoEDeploymentSpec;
  desired: number;
  readonly #clock: VirtualClock;
  readonly #onWrite: (epoch: number) => void;
  #made = 0;

  constructor(clock: VirtualClock, desired: number, fields: Record<string, unknown> | undefined, onWrite: (epoch: number) => void) {
    this.#clock = clock;
    this.desired = desired;
    this.#onWrite = onWrite;
    this.spec = this.specOf(fields);
  }

  specOf(fields: Record<string, unknown> | undefined): MoEDeploymentSpec {
    return moeDeploymentSpecSchema.parse({
      model: { uri: "pvc://m/x" },
      replicas: this.desired,
      telemetry: { nats: { url: "nats://sim:4222" } },
      ...fields,
    });
  }

  world(): World {
    const workers = [...this.pods.values()].map(
      (worker): WorkerPod => ({
        rank: worker.rank,
        name: worker.podName,
        uid: worker.podUid,
        ip: worker.ip,
        node: `n${worker.rank}`,
        zone: undefined,
        ready: worker.ready,
        terminating: false,
        lost: false,
      }),
    );
    const { spec, desired: desiredRanks, leaving } = this;
    return { ref, uid: deploymentUid, generation: 1, spec, desiredRanks, workers, gateways: [], leaving };
  }

  placements(): PlacementStore {
    return {
      read: () => this.#call(() => this.stored),
      write: (_ref, _owner, spec, known) =>
        this.#call(() => {
          if (this.failWrites > 0 && this.failWrites-- > 0) throw unavailable();
          if (this.stored && this.stored.spec.planHash !== known?.spec.planHash)
            throw new AppError("the plan has changed", { code: "Conflict" });
          this.epochsWritten.push(spec.epoch);
          this.#onWrite(spec.epoch);
          this.stored = { uid: this.stored?.uid ?? `placement-${++this.#made}`, spec, status: this.stored?.status ?? {} };
          return this.stored;
        }, this.writeMs),
      applyStatus: (_resource, object) =>
        this.#call(() => {
          if (this.stored?.uid !== object.metadata.uid) throw new AppError("there is no such object", { code: "NotFound" });
          Object.assign(this, { stored: { ...this.stored, status: object.status } });
          return object;
        }),
    };
  }

  /** There and back; a caller that dies meanwhile does not take back what it has asked for. */
  #call<T>(carryOut: () => T, thereMs = callMs): Promise<T> {
    return new Promise((resolve, reject) => {
      asOwner(undefined, () =>
        this.#clock.after(thereMs, () => {
          try {
            if (this.storeDown) throw unavailable();
            const result = carryOut();
            this.#clock.after(callMs, () => resolve(result));
          } catch (caught) {
            this.#clock.after(callMs, () => reject(caught));
          }
        }),
      );
    });
  }
}

const unavailable = (): AppError => new AppError("the API server does not answer", { code: "Unavailable", retry: "backoff" });
