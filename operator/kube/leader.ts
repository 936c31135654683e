// Leader election on a Lease, and a fence against writes of a former leader. Ages are monotonic, since clocks of replicas differ.
import { AppError } from "../../crds/common.ts";
import { hasCode } from "./errors.ts";
import { type Kube, type KubeObject, type OwnerReference, type Ref, resources } from "./kube.ts";
import { ServerClock } from "./server-clock.ts";
import { type Clock, monotonicClock } from "./workqueue.ts";

export interface LeaderOptions {
  readonly kube: Pick<Kube, "get" | "create" | "update">;
  readonly lease: Ref;
  readonly identity: string;
  /**
   * The object with which a lease is removed that is made now; undefined = it stays. An owner that is gone would have the lease removed
   * again and again, and to add one later needs a right to delete on some clusters.
   */
  readonly owner?: (() => Promise<OwnerReference | undefined>) | undefined;
  readonly clock?: Clock;
  /** The time that is written, for people and tools alone. */
  readonly date?: () => Date;
  readonly onElected: () => void;
  /** Called once; every writer must stop. */
  readonly onLost: (reason: string) => void;
  readonly onTaken?: (holder: string) => void;
  readonly onError?: (error: unknown) => void;
  readonly timing?: Partial<LeaderTiming>;
}

export interface LeaderTiming {
  /** Others may take over after this much silence. */
  readonly leaseMs: number;
  /** We stop leading without a renewal for this long; less than leaseMs. */
  readonly renewDeadlineMs: number;
  readonly retryMs: number;
}
const defaultTiming: LeaderTiming = { leaseMs: 15_000, renewDeadlineMs: 10_000, retryMs: 2_000 };

interface LeaseSpec {
  holderIdentity?: string;
  leaseDurationSeconds?: number;
  acquireTime?: string;
  renewTime?: string;
  leaseTransitions?: number;
}

type Attempt = "held" | "taken" | "retry";

/** How long a lease stands unchanged: from when its first answer came, which a link may have held for long, until the last was asked for. */
export class Standstill {
  #version: string | undefined;
  #since = 0;

  ms(version: string, { askedAt, answeredAt }: { readonly askedAt: number; readonly answeredAt: number }): number {
    if (this.#version !== version) [this.#version, this.#since] = [version, answeredAt];
    return askedAt - this.#since;
  }
}

export class LeaderElection {
  readonly #options: LeaderOptions;
  readonly #clock: Clock;
  readonly #date: () => Date;
  readonly #timing: LeaderTiming;
  readonly #standstill = new Standstill();
  #leading = false;
  #renewedAt = 0;
  #stopped = false;
  #cancel: () => void = () => {};
  #attempting: Promise<void> = Promise.resolve();

  constructor(options: LeaderOptions) {
    this.#options = options;
    this.#clock = options.clock ?? monotonicClock;
    this.#date = options.date ?? new ServerClock().now;
    this.#timing = { ...defaultTiming, ...options.timing };
  }

  start(): void {
    this.#attempting = this.#step();
  }

  /** True only while nobody else can have taken over. */
  get isLeader(): boolean {
    return this.#leading && this.#clock.now() - this.#renewedAt < this.#timing.renewDeadlineMs;
  }

  /** Releases the lease, so that another replica leads at once. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#cancel();
    await this.#attempting;
    this.#leading = false;
    try {
      const lease = await this.#options.kube.get(resources.leases, this.#options.lease);
      if (lease && specOf(lease).holderIdentity === this.#options.identity)
        await this.#write(lease, { ...specOf(lease), holderIdentity: "" });
    } catch (error) {
      this.#options.onError?.(error);
    }
  }

  /** Leaves the lease to expire, or to be renewed under the same identity. */
  cease(): void {
    this.#stopped = true;
    this.#leading = false;
    this.#cancel();
  }

  async #step(): Promise<void> {
    try {
      const attempt = await this.#within(this.#timing.renewDeadlineMs / 2, (waited) => this.#tryHold(waited));
      if (attempt === "held" && !this.#stopped) this.#held();
      else if (attempt === "taken" && this.#leading) this.#lose("another replica holds the lease");
    } catch (error) {
      this.#options.onError?.(error);
    }
    if (this.#leading && !this.isLeader) this.#lose("the lease could not be renewed in time");
    if (this.#stopped) return;
    this.#cancel = this.#clock.after(this.#timing.retryMs, () => {
      this.#attempting = this.#step();
    });
  }

  /** A request that hangs must not cost the lease: the next attempt uses another connection, and answers of this one do nothing. */
  #within<T>(ms: number, work: (waited: AbortSignal) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const late = new AbortController();
      const cancel = this.#clock.after(ms, () => {
        const reason = new AppError("no answer about the lease in time", { code: "Unavailable", operation: "renewing", retry: "backoff" });
        late.abort(reason);
        reject(reason);
      });
      work(late.signal).then(resolve, reject).finally(cancel);
    });
  }

  #held(): void {
    if (this.#leading) return;
    this.#leading = true;
    this.#options.onElected();
  }

  #lose(reason: string): void {
    this.#leading = false;
    this.#stopped = true;
    this.#options.onLost(reason);
  }

  /**
   * Takes or renews the lease, which then counts from before the request.
   * `retry`: somebody wrote in between, perhaps a late request of ours.
   */
  async #tryHold(waited: AbortSignal): Promise<Attempt> {
    const { kube, lease: ref, identity } = this.#options;
    const before = this.#clock.now();
    const lease = await kube.get(resources.leases, ref);
    waited.throwIfAborted();
    if (!lease) return this.#create(before, waited);
    const spec = specOf(lease);
    const stands = this.#standstill.ms(lease.metadata.resourceVersion ?? "", { askedAt: before, answeredAt: this.#clock.now() });
    const free = !spec.holderIdentity || stands > this.#timing.leaseMs;
    const ours = spec.holderIdentity === identity;
    if (!ours && !free) {
      this.#options.onTaken?.(spec.holderIdentity ?? "");
      return "taken";
    }
    const now = this.#writtenTime();
    const taken = ours ? {} : { acquireTime: now, leaseTransitions: (spec.leaseTransitions ?? 0) + 1 };
    const next = { ...spec, ...taken, holderIdentity: identity, leaseDurationSeconds: this.#timing.leaseMs / 1000, renewTime: now };
    return this.#attempt(before, waited, () => this.#write(lease, next));
  }

  #writtenTime(): string {
    return this.#date().toISOString().replace("Z", "000Z");
  }

  async #create(before: number, waited: AbortSignal): Promise<Attempt> {
    const { kube, lease: ref, identity } = this.#options;
    const owner = await this.#options.owner?.();
    waited.throwIfAborted();
    const now = this.#writtenTime();
    const spec: LeaseSpec = {
      holderIdentity: identity,
      leaseDurationSeconds: this.#timing.leaseMs / 1000,
      acquireTime: now,
      renewTime: now,
      leaseTransitions: 0,
    };
    const object: KubeObject = {
      apiVersion: "coordination.k8s.io/v1",
      kind: "Lease",
      metadata: { ...ref, ...(owner ? { ownerReferences: [owner] } : {}) },
      spec,
    };
    return this.#attempt(before, waited, () => kube.create(resources.leases, object, { manager: leaseManager }));
  }

  async #attempt(before: number, waited: AbortSignal, write: () => Promise<KubeObject>): Promise<Attempt> {
    try {
      await write();
      waited.throwIfAborted();
      this.#renewedAt = before;
      return "held";
    } catch (error) {
      if (hasCode(error, "Conflict", "AlreadyExists")) return "retry";
      throw error;
    }
  }

  #write(lease: KubeObject, spec: LeaseSpec): Promise<KubeObject> {
    const { name, namespace, resourceVersion, ownerReferences } = lease.metadata;
    const kept = { ...(namespace ? { namespace } : {}), ...(resourceVersion ? { resourceVersion } : {}) };
    const metadata = { name, ...kept, ...(ownerReferences ? { ownerReferences } : {}) };
    return this.#options.kube.update(
      resources.leases,
      { apiVersion: lease.apiVersion, kind: lease.kind, metadata, spec },
      { manager: leaseManager },
    );
  }
}

const leaseManager = "enodia-leader";

function specOf(lease: KubeObject): LeaseSpec {
  return (lease.spec as LeaseSpec | undefined) ?? {};
}

/** Interval at which a write under way is checked; it is aborted once the fence has closed, before the next leader writes. */
const fenceCheckMs = 250;

/** Refuses writes, and aborts those under way, once `isLeader` is false. */
export function fenced(kube: Kube, isLeader: () => boolean, clock: Clock = monotonicClock): Kube {
  const guard = <R>(write: (signal: AbortSignal) => Promise<R>): Promise<R> => guarded(write, isLeader, clock);
  return {
    get: kube.get,
    list: kube.list,
    watch: kube.watch,
    create: (resource, object, options) => guard((signal) => kube.create(resource, object, { ...options, signal })),
    apply: (resource, object, options) => guard((signal) => kube.apply(resource, object, { ...options, signal })),
    applyStatus: (resource, object, options) => guard((signal) => kube.applyStatus(resource, object, { ...options, signal })),
    update: (resource, object, options) => guard((signal) => kube.update(resource, object, { ...options, signal })),
    updateStatus: (resource, object, options) => guard((signal) => kube.updateStatus(resource, object, { ...options, signal })),
    patch: (resource, ref, body, options) => guard((signal) => kube.patch(resource, ref, body, { ...options, signal })),
    scale: (resource, ref, to, options) => guard((signal) => kube.scale(resource, ref, to, { ...options, signal })),
    delete: (resource, ref, options) => guard((signal) => kube.delete(resource, ref, { ...options, signal })),
  };
}

async function guarded<R>(write: (signal: AbortSignal) => Promise<R>, isLeader: () => boolean, clock: Clock): Promise<R> {
  if (!isLeader()) throw notLeader();
  const abort = new AbortController();
  return new Promise<R>((resolve, reject) => {
    let cancel = (): void => {};
    const lookAgain = (): void => {
      cancel = clock.after(fenceCheckMs, () => {
        if (isLeader()) return lookAgain();
        reject(notLeader());
        abort.abort();
      });
    };
    lookAgain();
    write(abort.signal)
      .then(resolve, reject)
      .finally(() => cancel());
  });
}

function notLeader(): AppError {
  return new AppError("this replica does not lead any more", { code: "NotLeader", operation: "writing", retry: "never" });
}
