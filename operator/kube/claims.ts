// The claims of namespaces: where several installs of the operator watch the same namespace, one of them works on what is in it, and
// the others say who does. A claim is a Lease in the namespace itself, which the leader of an install keeps in the name of the
// install, so that its next leader goes on with it. Not here: who leads within an install (leader.ts).
import type { Kube } from "./kube.ts";
import { LeaderElection, type LeaderTiming } from "./leader.ts";
import type { Clock } from "./workqueue.ts";

/** Its name is the only one that the operator may read and write of the leases in watched namespaces (operator/rbac.ts). */
export const claimName = "enodia-claim";

/** An install that is gone keeps a namespace for so long; a claim costs two requests at each retry. */
const claimTiming: LeaderTiming = { leaseMs: 60_000, renewDeadlineMs: 45_000, retryMs: 15_000 };

/** The event on an object in a namespace that another install has claimed. */
export const heldByAnother = (namespace: string, holder: string) => ({
  reason: "ClaimedByAnotherInstall",
  message:
    `another install of the operator, ${holder}, works in namespace ${namespace}: ` +
    "remove one of the two, or give each its own watchNamespaces",
});

export interface ClaimOptions {
  readonly kube: Pick<Kube, "get" | "create" | "update">;
  /** The install of this process, unique in the cluster and the same for all its replicas. */
  readonly install: string;
  readonly clock?: Clock;
  readonly onError?: (error: unknown) => void;
}

export class Claims {
  readonly #options: ClaimOptions;
  readonly #elections = new Map<string, LeaderElection>();
  readonly #holders = new Map<string, string>();
  #listener: (namespace: string) => void = () => {};

  constructor(options: ClaimOptions) {
    this.#options = options;
  }

  /** Called when a namespace is ours from now on, when it is not any more, and when another install is found to hold it. */
  onChange(listener: (namespace: string) => void): void {
    this.#listener = listener;
  }

  /** True while the namespace is this install's. The first question begins to claim it. */
  holds(namespace: string): boolean {
    const known = this.#elections.get(namespace);
    if (!known) this.#contend(namespace);
    return known?.isLeader ?? false;
  }

  /** The install that holds a namespace which is not ours; undefined while none is known. */
  holder(namespace: string): string | undefined {
    return this.#holders.get(namespace);
  }

  /** Nothing is left to do in the namespace: its claim runs out. */
  leave(namespace: string): void {
    this.#elections.get(namespace)?.cease();
    this.#elections.delete(namespace);
    this.#holders.delete(namespace);
  }

  /** The claims stay in the name of the install, for its next leader. */
  close(): void {
    for (const namespace of [...this.#elections.keys()]) this.leave(namespace);
  }

  #contend(namespace: string): void {
    const { kube, install, clock, onError } = this.#options;
    const election = new LeaderElection({
      kube,
      lease: { namespace, name: claimName },
      identity: install,
      timing: claimTiming,
      onElected: () => {
        this.#holders.delete(namespace);
        this.#listener(namespace);
      },
      onLost: () => {
        this.#contend(namespace);
        this.#listener(namespace);
      },
      onTaken: (holder) => this.#refused(namespace, holder),
      ...(clock ? { clock } : {}),
      ...(onError ? { onError } : {}),
    });
    this.#elections.set(namespace, election);
    election.start();
  }

  #refused(namespace: string, holder: string): void {
    if (!this.#elections.has(namespace) || this.#holders.get(namespace) === holder) return;
    this.#holders.set(namespace, holder);
    this.#listener(namespace);
  }
}
