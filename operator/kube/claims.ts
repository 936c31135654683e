// Namespace claims: of several installs that watch one namespace, the one whose name is on its Lease works there, and the others report it.
// The Lease belongs to the install, not to its leader (leader.ts).
import type { Kube } from "./kube.ts";
import { LeaderElection, type LeaderOptions, type LeaderTiming } from "./leader.ts";
import type { Clock } from "./workqueue.ts";

/** In watched namespaces the operator may use only the Lease of this name (operator/rbac.ts). */
export const claimName = "enodia-claim";

/** A vanished install keeps a namespace this long; a claim costs two requests per retry. */
const claimTiming: LeaderTiming = { leaseMs: 60_000, renewDeadlineMs: 45_000, retryMs: 15_000 };

export const heldByAnother = (namespace: string, holder: string) => ({
  reason: "ClaimedByAnotherInstall",
  message:
    `another install of the operator, ${holder}, works in namespace ${namespace}: ` +
    "remove one of the two, or give each its own watchNamespaces",
});

export interface ClaimOptions {
  readonly kube: Pick<Kube, "get" | "create" | "update">;
  /** Unique in the cluster, the same for all replicas. */
  readonly install: string;
  readonly owner?: LeaderOptions["owner"];
  readonly clock?: Clock;
  readonly date?: () => Date;
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

  /** Called when a namespace becomes ours, is lost, or another install is found to hold it. */
  onChange(listener: (namespace: string) => void): void {
    this.#listener = listener;
  }

  /** The first call begins to claim the namespace. */
  holds(namespace: string): boolean {
    const known = this.#elections.get(namespace);
    if (!known) this.#contend(namespace);
    return known?.isLeader ?? false;
  }

  /** The other install that holds the namespace; undefined while unknown. */
  holder(namespace: string): string | undefined {
    return this.#holders.get(namespace);
  }

  /** Lets the claim expire. */
  leave(namespace: string): void {
    this.#elections.get(namespace)?.cease();
    this.#elections.delete(namespace);
    this.#holders.delete(namespace);
  }

  /** Leaves the claims to the install's next leader. */
  close(): void {
    for (const namespace of [...this.#elections.keys()]) this.leave(namespace);
  }

  #contend(namespace: string): void {
    const { kube, install, owner, clock, date, onError } = this.#options;
    const election = new LeaderElection({
      kube,
      lease: { namespace, name: claimName },
      identity: install,
      owner,
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
      ...(date ? { date } : {}),
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
