// The set of experts in this rank's memory, under a budget of resident bytes: planned ones (homes and copies) and staged ones
// (loaded on demand, first to go). Pure but for the clock it is given: it admits and accounts; materializer.ts loads and unloads.
import { hash32 } from "../../placement/dispatch.ts";

export type Kind = "planned" | "staged";

export interface ResidentExpert {
  readonly layer: number;
  readonly expert: number;
}

type Phase = "loading" | "resident" | "unloading";

interface Entry extends ResidentExpert {
  kind: Kind;
  phase: Phase;
  /** Frames that are using a staged expert; it is not evicted while > 0. */
  leases: number;
  /** Milliseconds of the clock. */
  usedAt: number;
  /** Planned, and leaving for a staged one. */
  givesWay: boolean;
}

/** May a planned expert give its place to one that no rank holds? */
export type MayGiveWay = (layer: number, expert: number) => boolean;

/** A staged expert that was not used for so long is no longer needed. */
const stagedIdleMs = 10_000;

export type Admission =
  /** It is there. */
  | { readonly action: "present" }
  /** Somebody loads it, or it is just leaving: wait for the next change and ask again. */
  | { readonly action: "wait" }
  /** Room is taken for it: load it, then call `loaded` or `gone`. */
  | { readonly action: "load" }
  /** Unload the victim (marked as leaving) first, then call `takeOver`. */
  | { readonly action: "evict"; readonly victim: ResidentExpert; readonly kind: Kind }
  /** Everything in memory is planned or in use; `inUse`: something will leave when the frames are done that use it. */
  | { readonly action: "full"; readonly inUse: boolean };

export class ResidentSet {
  readonly budgetBytes: number;
  readonly expertBytes: number;
  readonly #entries = new Map<string, Entry>();
  readonly #now: () => number;

  /** `now`: milliseconds that only grow. */
  constructor(options: { readonly budgetBytes: number; readonly expertBytes: number; readonly now: () => number }) {
    this.#now = options.now;
    this.budgetBytes = options.budgetBytes;
    this.expertBytes = Math.max(1, options.expertBytes);
  }

  /** Experts that fit into the budget, the staging slot included; at least one, or nothing could ever be served. */
  get capacity(): number {
    return Math.max(1, Math.floor(this.budgetBytes / this.expertBytes));
  }
  get count(): number {
    return this.#entries.size;
  }
  /** Resident bytes, what is loading or leaving included. */
  get bytes(): number {
    return this.#entries.size * this.expertBytes;
  }
  stagedCount(): number {
    return [...this.#entries.values()].filter((entry) => entry.kind === "staged").length;
  }
  /** Are experts that were loaded on demand still in use, or about to be? */
  pressed(): boolean {
    return [...this.#entries.values()].some((entry) => entry.givesWay || (entry.kind === "staged" && !this.#isIdle(entry)));
  }

  /**
   * Asks for room. A staged expert that the plan now wants becomes planned; a planned one never becomes staged here. For a staged
   * one, planned ones may give way (`mayGiveWay`): before another staged one that is in use, or the two would take turns for ever.
   */
  admit(layer: number, expert: number, kind: Kind, mayGiveWay?: MayGiveWay): Admission {
    const entry = this.#entries.get(key(layer, expert));
    if (entry !== undefined) {
      if (kind === "planned") entry.kind = "planned";
      if (entry.phase !== "resident") return { action: "wait" };
      entry.usedAt = this.#now();
      return { action: "present" };
    }
    if (this.#entries.size < this.capacity) {
      this.#add(layer, expert, kind);
      return { action: "load" };
    }
    const victim = this.#victim(kind === "staged" ? mayGiveWay : undefined);
    if (victim === undefined) return this.#noVictim();
    victim.phase = "unloading";
    victim.givesWay = victim.kind === "planned";
    return { action: "evict", victim: { layer: victim.layer, expert: victim.expert }, kind: victim.kind };
  }

  loaded(layer: number, expert: number): void {
    const entry = this.#entries.get(key(layer, expert));
    if (entry !== undefined) entry.phase = "resident";
  }
  /** The victim is unloaded: its room goes to the one that it left for, before anybody else hears of it. False if that one came meanwhile. */
  takeOver(victim: ResidentExpert, layer: number, expert: number, kind: Kind): boolean {
    this.gone(victim.layer, victim.expert);
    if (this.#entries.has(key(layer, expert))) return false;
    this.#add(layer, expert, kind);
    return true;
  }
  #add(layer: number, expert: number, kind: Kind): void {
    this.#entries.set(key(layer, expert), { layer, expert, kind, phase: "loading", leases: 0, usedAt: this.#now(), givesWay: false });
  }

  /** Frames have used these experts of a layer. */
  touch(layer: number, experts: Iterable<number>): void {
    const now = this.#now();
    for (const expert of experts) {
      const entry = this.#entries.get(key(layer, expert));
      if (entry !== undefined) entry.usedAt = now;
    }
  }

  /** The load failed or the unload is done: its room is free. */
  gone(layer: number, expert: number): void {
    this.#entries.delete(key(layer, expert));
  }

  /** Holds a present expert in memory for the time of a frame; false when it is not there any more. */
  lease(layer: number, expert: number): boolean {
    const entry = this.#entries.get(key(layer, expert));
    if (entry?.phase !== "resident") return false;
    entry.leases += 1;
    entry.usedAt = this.#now();
    return true;
  }
  unlease(layer: number, expert: number): void {
    const entry = this.#entries.get(key(layer, expert));
    if (entry !== undefined) entry.leases = Math.max(0, entry.leases - 1);
  }

  /** Experts of a layer that the plan no longer wants, marked as leaving, for the caller to unload. What is in use or
   *  still loading becomes staged instead and leaves under pressure. */
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

  isResident(layer: number, expert: number): boolean {
    return this.#entries.get(key(layer, expert))?.phase === "resident";
  }

  #noVictim(): Admission {
    const entries = [...this.#entries.values()];
    if (entries.some(({ phase }) => phase === "unloading")) return { action: "wait" };
    return { action: "full", inUse: entries.some(({ kind, leases }) => kind === "staged" || leases > 0) };
  }

  #victim(mayGiveWay: MayGiveWay | undefined): Entry | undefined {
    let staged: Entry | undefined;
    for (const entry of this.#entries.values())
      if (entry.kind === "staged" && canLeave(entry) && (staged === undefined || entry.usedAt < staged.usedAt)) staged = entry;
    if (mayGiveWay === undefined || (staged !== undefined && this.#isIdle(staged))) return staged;
    return this.#yielding(mayGiveWay) ?? staged;
  }

  /** Any planned one that may: by hash, so that it is not always the experts of the same layers. */
  #yielding(mayGiveWay: MayGiveWay): Entry | undefined {
    let first: Entry | undefined;
    let least = Number.POSITIVE_INFINITY;
    for (const entry of this.#entries.values()) {
      if (entry.kind !== "planned" || !canLeave(entry)) continue;
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

const canLeave = ({ phase, leases }: Entry): boolean => phase === "resident" && leases === 0;

function key(layer: number, expert: number): string {
  return `${layer}.${expert}`;
}
