// The set of experts in this rank's memory, under a budget of resident bytes: planned ones (primaries and expert replicas) and staged ones (loaded on
// demand, first to go). Experts may be of any size, and of each there may be more than its weights.
import { hash32 } from "../../placement/dispatch.ts";

export type Kind = "planned" | "staged";

export interface ResidentExpert {
  readonly layer: number;
  readonly expert: number;
}

/** `reserved`: its memory is freed by others that leave. */
type Phase = "reserved" | "loading" | "resident" | "unloading";

interface Entry extends ResidentExpert {
  /** Of a reserved one, without that of its victims. */
  bytes: number;
  kind: Kind;
  phase: Phase;
  /** It is not evicted while > 0. */
  leases: number;
  /** Milliseconds of the clock. */
  usedAt: number;
  /** Planned, and leaving for a staged one. */
  givesWay: boolean;
  /** The reserved one that it leaves for. */
  leavesFor?: Entry;
}

export type MayGiveWay = (layer: number, expert: number) => boolean;

/** Milliseconds. */
const stagedIdleMs = 10_000;

/** An entry that leaves memory for another. */
export interface Victim extends ResidentExpert {
  readonly kind: Kind;
}

export type Admission =
  /** It is there. */
  | { readonly action: "present" }
  /** Wait for the next change and ask again. */
  | { readonly action: "wait" }
  /** Load it, then call `loaded` or `gone`. */
  | { readonly action: "load" }
  /** The victims are marked as leaving: unload them, then call `takeOver`, or `gone` for them and for it. */
  | { readonly action: "evict"; readonly victims: readonly Victim[] }
  /** `inUse`: something will leave when frames are done. */
  | { readonly action: "full"; readonly inUse: boolean };

export interface ResidentSetOptions {
  readonly budgetBytes: number;
  /** An upper bound, the same at every call. */
  readonly bytesOf: (expert: ResidentExpert) => number;
  /** Milliseconds that only grow. */
  readonly now: () => number;
}

export class ResidentSet {
  readonly budgetBytes: number;
  readonly #entries = new Map<string, Entry>();
  readonly #bytesOf: ResidentSetOptions["bytesOf"];
  readonly #now: () => number;
  #bytes = 0;

  constructor(options: ResidentSetOptions) {
    this.#now = options.now;
    this.#bytesOf = options.bytesOf;
    this.budgetBytes = options.budgetBytes;
  }

  /** Experts in memory, those that are loading or leaving included. */
  get count(): number {
    return [...this.#entries.values()].filter(({ phase }) => phase !== "reserved").length;
  }
  /** Loading, leaving and reserved ones included. */
  get bytes(): number {
    return this.#bytes;
  }
  stagedCount(): number {
    return this.#staged().length;
  }
  stagedBytes(): number {
    return this.#staged().reduce((sum, { bytes }) => sum + bytes, 0);
  }
  bytesOf(expert: ResidentExpert): number {
    return this.#bytesOf(expert);
  }
  /** One always fits, or nothing could be served. */
  hasRoom(expert: ResidentExpert): boolean {
    return this.#bytes === 0 || this.#bytes + this.bytesOf(expert) <= this.budgetBytes;
  }
  pressed(): boolean {
    return [...this.#entries.values()].some((entry) => entry.givesWay || (entry.kind === "staged" && !this.#isIdle(entry)));
  }

  /** A staged expert that the plan now wants becomes planned. For a staged one planned ones may leave first (DECISIONS.md 2). */
  admit(expert: ResidentExpert, kind: Kind, mayGiveWay?: MayGiveWay): Admission {
    const entry = this.#entries.get(key(expert));
    if (entry !== undefined) {
      if (kind === "planned") entry.kind = "planned";
      if (entry.phase !== "resident") return { action: "wait" };
      entry.usedAt = this.#now();
      return { action: "present" };
    }
    if (this.hasRoom(expert)) {
      this.#add({ layer: expert.layer, expert: expert.expert, bytes: this.bytesOf(expert), kind, phase: "loading" });
      return { action: "load" };
    }
    const victims = this.#victims(this.bytesOf(expert), kind === "staged" ? mayGiveWay : undefined);
    if (victims === undefined) return this.#noVictim();
    this.#reserve(victims, expert, kind);
    return {
      action: "evict",
      victims: victims.map(({ layer, expert: id, kind: was }) => ({ layer, expert: id, kind: was })),
    };
  }

  loaded(expert: ResidentExpert): void {
    const entry = this.#entries.get(key(expert));
    if (entry?.phase === "loading") entry.phase = "resident";
  }
  /** Load the expert, then call `loaded` or `gone`. */
  takeOver(victims: readonly ResidentExpert[], expert: ResidentExpert): void {
    for (const victim of victims) this.gone(victim);
    const entry = this.#entries.get(key(expert));
    if (entry?.phase !== "reserved") return;
    entry.phase = "loading";
    this.#grow(entry, this.bytesOf(expert)); // one that is larger than the budget is alone now
  }

  /** Reserves what is free beside the victims, or smaller experts would take it first. */
  #reserve(victims: readonly Entry[], expert: ResidentExpert, kind: Kind): void {
    const leaving = victims.reduce((sum, { bytes }) => sum + bytes, 0);
    const free = Math.max(0, this.budgetBytes - this.#bytes);
    const bytes = Math.min(free, Math.max(0, this.bytesOf(expert) - leaving));
    const entry = this.#add({ layer: expert.layer, expert: expert.expert, bytes, kind, phase: "reserved" });
    for (const victim of victims) {
      victim.phase = "unloading";
      victim.givesWay = victim.kind === "planned";
      victim.leavesFor = entry;
    }
  }
  #add(entry: Omit<Entry, "leases" | "usedAt" | "givesWay">): Entry {
    const added = { ...entry, leases: 0, usedAt: this.#now(), givesWay: false };
    this.#bytes += added.bytes;
    this.#entries.set(key(added), added);
    return added;
  }
  #grow(entry: Entry, bytes: number): void {
    this.#bytes += bytes - entry.bytes;
    entry.bytes = bytes;
  }

  /** Frames have used these experts of a layer. */
  touch(layer: number, experts: Iterable<number>): void {
    const now = this.#now();
    for (const expert of experts) {
      const entry = this.#entries.get(key({ layer, expert }));
      if (entry !== undefined) entry.usedAt = now;
    }
  }

  gone(expert: ResidentExpert): void {
    const entry = this.#entries.get(key(expert));
    if (entry === undefined) return;
    this.#bytes -= entry.bytes;
    this.#entries.delete(key(expert));
    const next = entry.leavesFor;
    const waits = next !== undefined && this.#entries.get(key(next)) === next && next.phase === "reserved";
    if (waits) this.#grow(next, Math.min(this.bytesOf(next), next.bytes + entry.bytes));
  }

  /** False when it is not resident. */
  lease(expert: ResidentExpert): boolean {
    const entry = this.#entries.get(key(expert));
    if (entry?.phase !== "resident") return false;
    entry.leases += 1;
    entry.usedAt = this.#now();
    return true;
  }
  unlease(expert: ResidentExpert): void {
    const entry = this.#entries.get(key(expert));
    if (entry !== undefined) entry.leases = Math.max(0, entry.leases - 1);
  }

  /** Marks what the plan no longer wants as leaving. What is in use or loading becomes staged. */
  retain(layer: number, wanted: ReadonlySet<number>): ResidentExpert[] {
    const leaving: ResidentExpert[] = [];
    for (const entry of this.#entries.values()) {
      if (entry.layer !== layer || entry.kind !== "planned" || wanted.has(entry.expert)) continue;
      if (entry.phase !== "resident" || entry.leases > 0) {
        entry.kind = "staged"; // in use or still loading: leaves under pressure
        continue;
      }
      entry.phase = "unloading";
      leaving.push({ layer, expert: entry.expert });
    }
    return leaving;
  }

  isResident(expert: ResidentExpert): boolean {
    return this.#entries.get(key(expert))?.phase === "resident";
  }

  #staged(): Entry[] {
    return [...this.#entries.values()].filter((entry) => entry.kind === "staged");
  }

  #noVictim(): Admission {
    const entries = [...this.#entries.values()];
    if (entries.some(({ phase }) => phase === "unloading")) return { action: "wait" };
    return { action: "full", inUse: entries.some(({ kind, leases }) => kind === "staged" || leases > 0) };
  }

  /** Undefined when all that may leave are not enough. */
  #victims(bytes: number, mayGiveWay: MayGiveWay | undefined): Entry[] | undefined {
    const chosen = new Set<Entry>();
    let missing = this.#bytes + bytes - this.budgetBytes;
    let freed = 0;
    for (let next = this.#victim(chosen, mayGiveWay); missing > 0 && next; next = this.#victim(chosen, mayGiveWay)) {
      chosen.add(next);
      missing -= next.bytes;
      freed += next.bytes;
    }
    if (missing > 0 && freed < this.#bytes) return undefined;
    // A large one that came last may make small ones before it needless.
    for (const victim of [...chosen].reverse()) {
      if (missing + victim.bytes > 0) continue;
      chosen.delete(victim);
      missing += victim.bytes;
    }
    return [...chosen];
  }

  #victim(chosen: ReadonlySet<Entry>, mayGiveWay: MayGiveWay | undefined): Entry | undefined {
    let staged: Entry | undefined;
    for (const entry of this.#entries.values()) {
      if (entry.kind !== "staged" || !canLeave(entry) || chosen.has(entry)) continue;
      if (staged === undefined || entry.usedAt < staged.usedAt) staged = entry;
    }
    if (mayGiveWay === undefined || (staged !== undefined && this.#isIdle(staged))) return staged;
    return this.#yielding(chosen, mayGiveWay) ?? staged;
  }

  /** By hash, so that it is not always the same layers. */
  #yielding(chosen: ReadonlySet<Entry>, mayGiveWay: MayGiveWay): Entry | undefined {
    let first: Entry | undefined;
    let least = Number.POSITIVE_INFINITY;
    for (const entry of this.#entries.values()) {
      if (entry.kind !== "planned" || !canLeave(entry) || chosen.has(entry)) continue;
      const place = hash32(entry.layer, entry.expert);
      if (place >= least || !mayGiveWay(entry.layer, entry.expert)) continue;
      first = entry;
      least = place;
    }
    return first;
  }

  #isIdle({ usedAt, leases }: Entry): boolean {
    return leases === 0 && this.#now() - usedAt >= stagedIdleMs;
  }
}

const canLeave = ({ phase, leases, bytes }: Entry): boolean => phase === "resident" && leases === 0 && bytes > 0;

const key = ({ layer, expert }: ResidentExpert): string => `${layer}.${expert}`;
