// The other ranks as seen by this one: membership from the operator or a peer, local suspicion that only steers routing, and clients.
import type { AppError } from "../../crds/common.ts";
import type { SuspectReason } from "../../crds/names.ts";
import { FailureDetector, peerLimits } from "../net/failure-detector.ts";
import type { Network } from "../net/grpc.ts";
import type { HeartbeatCall, HeartbeatEvents } from "../net/heartbeat.ts";
import type { Identity, Member, Membership } from "../net/mapping.ts";
import type { ReadLink } from "../net/read-link.ts";
import { serverNames, type TlsSource } from "../net/tls.ts";
import type { Log } from "../observe/log.ts";

export interface PeersOptions {
  readonly self: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "callHeartbeat" | "connectReads">;
  readonly log: Log;
  readonly onSuspect?: (reason: SuspectReason) => void;
}

export class Peers {
  readonly options: PeersOptions;
  #membership: Membership = { version: 0, members: [] };
  readonly #byRank = new Map<number, Member>();
  readonly #suspects = new Map<number, { readonly since: number; readonly reason: SuspectReason }>();
  readonly #clients = new Map<number, { address: string; clients: PeerClients }>();
  readonly #listeners = new Set<() => void>();
  readonly #detectors = new Map<number, FailureDetector>();

  constructor(options: PeersOptions) {
    this.options = options;
  }
  get self(): Identity {
    return this.options.self;
  }
  get membership(): Membership {
    return this.#membership;
  }
  member(rank: number): Member | undefined {
    return this.#byRank.get(rank);
  }

  /** Ignores an older or equal version. */
  apply(next: Membership): boolean {
    if (next.version <= this.#membership.version) return false;
    const before = new Map(this.#byRank);
    this.#membership = next;
    this.#byRank.clear();
    for (const member of next.members) this.#byRank.set(member.rank, member);
    for (const [rank, old] of before) {
      const now = this.#byRank.get(rank);
      if (now?.address === old.address && now.podUid === old.podUid && now.bootId === old.bootId) continue;
      this.#suspects.delete(rank);
      if (now?.address !== old.address || now.podUid !== old.podUid) this.#drop(rank);
    }
    this.#changed();
    return true;
  }

  /** Lost, suspect or unknown ranks. `others`: ranks that a plan names. */
  down(others: Iterable<number> = []): Set<number> {
    const ranks = new Set([...this.#byRank.keys(), ...others]);
    ranks.delete(this.self.rank);
    return new Set([...ranks].filter((rank) => !this.usable(rank)));
  }
  usable(rank: number): boolean {
    if (rank === this.self.rank) return true;
    const member = this.#byRank.get(rank);
    return member !== undefined && member.state !== "lost" && !this.#suspects.has(rank);
  }

  isSuspect(rank: number): boolean {
    return this.#suspects.has(rank);
  }
  suspect(rank: number, error: Pick<AppError, "code" | "message">): void {
    if (rank === this.self.rank || this.#suspects.has(rank)) return;
    const reason = suspectReason(error.code);
    this.#suspects.set(rank, { since: performance.now(), reason });
    this.options.onSuspect?.(reason);
    this.options.log.warn({ peer: rank, reason: error.message }, "rank is suspect; its experts are asked elsewhere");
    this.#changed();
  }
  clear(rank: number): void {
    const suspicion = this.#suspects.get(rank);
    if (suspicion === undefined) return;
    this.#suspects.delete(rank);
    const now = performance.now();
    const ms = now - suspicion.since;
    if (suspicion.reason === "silent") this.detector(rank).recovered(ms, now);
    this.options.log.info({ peer: rank, ms: Math.round(ms) }, "rank answers again");
    this.#changed();
  }
  /** Outlives connections and processes of the rank. */
  detector(rank: number): FailureDetector {
    const known = this.#detectors.get(rank) ?? new FailureDetector(peerLimits, performance.now());
    this.#detectors.set(rank, known);
    return known;
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Undefined for ranks that are no members. */
  clients(rank: number): PeerClients | undefined {
    const member = this.#byRank.get(rank);
    if (member === undefined || rank === this.self.rank) return undefined;
    const known = this.#clients.get(rank);
    if (known !== undefined && known.address === member.address) return known.clients;
    this.#drop(rank);
    const reads = this.options.network.connectReads({ ...this.#target(member), self: this.self });
    const clients = { reads, close: () => reads.close() };
    this.#clients.set(rank, { address: member.address, clients });
    return clients;
  }

  heartbeat(member: Member, events: HeartbeatEvents): HeartbeatCall {
    return this.options.network.callHeartbeat({ ...this.#target(member), self: this.self }, events);
  }

  #target({ rank, address }: Member) {
    const { namespace, name, tls } = this.options;
    return { address, serverName: serverNames.rank(rank, namespace, name), tls };
  }

  close(): void {
    for (const rank of [...this.#clients.keys()]) this.#drop(rank);
    this.#listeners.clear();
  }

  #drop(rank: number): void {
    const known = this.#clients.get(rank);
    this.#clients.delete(rank);
    known?.clients.close();
  }
  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}

export interface PeerClients {
  readonly reads: ReadLink;
  close(): void;
}

function suspectReason(code: string): SuspectReason {
  if (code === "Silent") return "silent";
  // A server that shuts down cancels its streams.
  return code === "Unavailable" || code === "Cancelled" ? "lost" : "error";
}
