// The experts in this rank's memory under a byte budget: planned ones, and staged ones (loaded on demand, evicted first).
import { hash32 } from "../../placement/dispatch.ts";

export type Kind = "planned" | "staged";

export interface ResidentExpert {
  readonly layer: number;
  readonly expert: number;
}

/** `reserved`: others are leaving to free its memory. */
type Phase = "reserved" | "loading" | "resident" | "unloading";

interface Entry extends ResidentExpert {
  bytes: number;
  kind: Kind;
  phase: Phase;
  /** Above 0 it cannot be evicted. */
  leases: number;
  /** Milliseconds. */
  usedAt: number;
  /** A planned expert that leaves for a staged one. */
  givesWay: boolean;
  leavesFor?: Entry;
}

export type MayGiveWay = (layer: number, expert: number) => boolean;

/** Milliseconds. */
const stagedIdleMs = 10_000;

export interface Victim extends ResidentExpert {
  readonly kind: Kind;
}

export type Admission =
  | { readonly action: "present" }
  /** Wait for the next change and ask again. */
  | { readonly action: "wait" }
  /** Load it, then call `loaded` or `gone`. */
  | { readonly action: "load" }
  /** Unload the victims, then call `takeOver`, or `gone` for all. */
  | { readonly action: "evict"; readonly victims: readonly Victim[] }
  /** `inUse`: something leaves once frames are done. */
  | { readonly action: "full"; readonly inUse: boolean };

export interface ResidentSetOptions {
  readonly budgetBytes: number;
  /** A constant upper bound. */
  readonly bytesOf: (expert: ResidentExpert) => number;
  /** Milliseconds. */
  readonly now: () => number;
  /** Set where ranks serve more than they hold: whatever is worth least leaves for a staged expert, planned ones too. */
  readonly worth?: ((expert: ResidentExpert) => number) | undefined;
  /** Called with each that has left memory, or did not come. */
  readonly onGone?: (expert: ResidentExpert) => void;
}

export class ResidentSet {
  readonly budgetBytes: number;
  readonly #entries = new Map<string, Entry>();
  readonly #bytesOf: ResidentSetOptions["bytesOf"];
  readonly #now: () => number;
  readonly #worth: ResidentSetOptions["worth"];
  readonly #onGone: ResidentSetOptions["onGone"];
  #bytes = 0;

  constructor(options: ResidentSetOptions) {
    this.#now = options.now;
    this.#bytesOf = options.bytesOf;
    this.#worth = options.worth;
    this.#onGone = options.onGone;
    this.budgetBytes = options.budgetBytes;
  }

  get count(): number {
    return [...this.#entries.values()].filter(({ phase }) => phase !== "reserved").length;
  }
  get bytes(): number {
    return this.#bytes;
  }
  stagedBytes(): number {
    return this.#staged().reduce((sum, { bytes }) => sum + bytes, 0);
  }
  bytesOf(expert: ResidentExpert): number {
    return this.#bytesOf(expert);
  }
  /** One expert always fits. */
  hasRoom(expert: ResidentExpert): boolean {
    return this.#bytes === 0 || this.#bytes + this.bytesOf(expert) <= this.budgetBytes;
  }
  pressed(): boolean {
    return [...this.#entries.values()].some((entry) => entry.givesWay || (entry.kind === "staged" && !this.#isIdle(entry)));
  }

  /**
   * A staged expert that the plan wants becomes planned. Planned experts may leave for a staged one (../DECISIONS.md 2). `below`: only those
   * of less worth leave.
   */
  admit(expert: ResidentExpert, kind: Kind, mayGiveWay?: MayGiveWay, below = Number.POSITIVE_INFINITY): Admission {
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
    const next =
      kind === "staged" && this.#worth ? this.#leastWorth(this.#worth, below) : this.#oldest(kind === "staged" ? mayGiveWay : undefined);
    const victims = this.#victims(this.bytesOf(expert), next);
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
  takeOver(victims: readonly ResidentExpert[], expert: ResidentExpert): void {
    for (const victim of victims) this.gone(victim);
    const entry = this.#entries.get(key(expert));
    if (entry?.phase !== "reserved") return;
    entry.phase = "loading";
    this.#grow(entry, this.bytesOf(expert)); // an expert above the budget is alone now
  }

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
    this.#onGone?.(expert);
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

  /** Marks experts that the plan dropped as leaving; those in use or loading become staged. */
  retain(layer: number, wanted: ReadonlySet<number>): ResidentExpert[] {
    const leaving: ResidentExpert[] = [];
    for (const entry of this.#entries.values()) {
      if (entry.layer !== layer || entry.kind !== "planned" || wanted.has(entry.expert)) continue;
      if (entry.phase !== "resident" || entry.leases > 0) {
        entry.kind = "staged";
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
    return { action: "full", inUse: this.#worth !== undefined || entries.some(({ kind, leases }) => kind === "staged" || leases > 0) };
  }

  #victims(bytes: number, nextOf: (chosen: ReadonlySet<Entry>) => Entry | undefined): Entry[] | undefined {
    const chosen = new Set<Entry>();
    let missing = this.#bytes + bytes - this.budgetBytes;
    let freed = 0;
    for (let next = nextOf(chosen); missing > 0 && next; next = nextOf(chosen)) {
      chosen.add(next);
      missing -= next.bytes;
      freed += next.bytes;
    }
    if (missing > 0 && freed < this.#bytes) return undefined;
    // A late large victim may make earlier small ones unnecessary.
    for (const victim of [...chosen].reverse()) {
      if (missing + victim.bytes > 0) continue;
      chosen.delete(victim);
      missing += victim.bytes;
    }
    return [...chosen];
  }

  #leastWorth(worth: (expert: ResidentExpert) => number, below: number): (chosen: ReadonlySet<Entry>) => Entry | undefined {
    return (chosen) => {
      let least: Entry | undefined;
      let leastWorth = below;
      for (const entry of this.#entries.values()) {
        if (!canLeave(entry) || chosen.has(entry)) continue;
        const value = worth(entry);
        if (value >= leastWorth) continue;
        least = entry;
        leastWorth = value;
      }
      return least;
    };
  }

  #oldest(mayGiveWay: MayGiveWay | undefined): (chosen: ReadonlySet<Entry>) => Entry | undefined {
    return (chosen) => this.#victim(chosen, mayGiveWay);
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

  /** A hash spreads the choice over layers. */
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
