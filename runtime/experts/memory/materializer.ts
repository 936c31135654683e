// Fetches, verifies, loads and unloads experts under the memory budget.
import { AppError } from "../../../crds/common.ts";
import { abortReason, Signal } from "../../net/signal.ts";
import type { Log } from "../../observe/log.ts";
import type { Fetched } from "../../placement/cost.ts";
import type { Kind, ResidentExpert, ResidentSet, Victim } from "./resident-set.ts";
import type { Device, TierRead, TierRequest } from "./tier.ts";
import type { TransferPace } from "./transfer-pace.ts";

/** Reads, hashes and packing share the four threads of libuv's pool. */
const loadsMost = 4;
/** A machine with little memory has two large ones on their way. */
const loadBytesMost = 256 * 2 ** 20;
const pollMs = 200;
const unloadWaitMs = 10_000;
/** One slot of so many goes to a load that nobody waits for. */
const urgentSlots = 4;

export interface LoadRequest extends ResidentExpert {
  readonly kind: Kind;
  readonly sources: readonly number[];
  /** Shared by all limited loads; 0 = unlimited. */
  readonly bytesPerSecond: number;
  readonly signal: AbortSignal;
  readonly onFetched?: (fetched: Fetched) => void;
  /** False ends a wait for memory with `Aborted`; unset = wanted until the signal fires. */
  readonly wanted?: () => boolean;
  readonly onFull?: () => void;
  /** Memory that is full ends the request once the expert is on this rank's disk. */
  readonly mayStayOnDisk?: boolean;
  /** Set for a staged one that nobody waits for: only experts of less worth leave for it, and it ends where none can. */
  readonly below?: number;
  /** Set for staged experts (../DECISIONS.md 2). */
  readonly giveWay?: GiveWay;
}

export interface GiveWay {
  may(layer: number, expert: number): boolean;
  done(layer: number, expert: number): void;
}

export interface MaterializerOptions {
  readonly device: Device;
  readonly residents: ResidentSet;
  readonly tiers: { read(request: TierRequest): Promise<TierRead> };
  readonly storedBytes: (expert: ResidentExpert) => number;
  /** Unset: every expert is. */
  readonly onDisk?: (expert: ResidentExpert) => boolean;
  readonly pace: TransferPace;
  readonly log: Log;
  readonly loadsAtOnce?: number;
}

/** One for each processor, and one that waits for its bytes. */
export function loadsAtOnce(cpus: number, expertBytes: number): number {
  return Math.max(2, Math.min(cpus + 1, loadsMost, Math.floor(loadBytesMost / expertBytes)));
}

export class Materializer {
  readonly residents: ResidentSet;
  readonly #device: Device;
  readonly #tiers: MaterializerOptions["tiers"];
  readonly storedBytes: MaterializerOptions["storedBytes"];
  readonly #onDisk: NonNullable<MaterializerOptions["onDisk"]>;
  readonly #pace: TransferPace;
  readonly #log: Log;
  readonly #slots: Semaphore;
  readonly #changed = new Signal();
  /** Experts that a full disk did not take; each use fetches them. */
  readonly #notKept = new Set<string>();
  /** Experts on their way, for whatever, that rows wait for. */
  readonly #awaited = new Set<string>();
  #fetchedBytes = 0;

  constructor(options: MaterializerOptions) {
    this.residents = options.residents;
    this.#slots = new Semaphore(options.loadsAtOnce ?? 2);
    this.#device = options.device;
    this.#tiers = options.tiers;
    this.storedBytes = options.storedBytes;
    this.#onDisk = options.onDisk ?? (() => true);
    this.#pace = options.pace;
    this.#log = options.log;
  }

  get fetchedBytes(): number {
    return this.#fetchedBytes;
  }

  /**
   * Returns the fetched bytes. Waits for memory until the signal fires; a staged expert fails with `NoRoom` when only planned ones could
   * leave.
   */
  ensure(request: LoadRequest): Promise<number> {
    return this.#ensure(request, false);
  }

  /** Leases a staged expert as soon as it is loaded; otherwise two frames could evict each other's experts for ever. */
  async withExpert<T>(request: LoadRequest, work: (fetchedBytes: number) => Promise<T>): Promise<T> {
    const bytes = await this.#ensure(request, true);
    try {
      return await work(bytes);
    } finally {
      this.release(request);
    }
  }

  /** Ends a lease. */
  release(expert: ResidentExpert): void {
    this.residents.unlease(expert);
    this.#changed.notify();
  }

  async #ensure(request: LoadRequest, hold: boolean): Promise<number> {
    const { kind, signal, giveWay } = request;
    for (;;) {
      checkWanted(request);
      const admission = this.residents.admit(request, kind, giveWay?.may, request.below);
      if (admission.action === "present") {
        if (hold) this.residents.lease(request);
        return 0;
      }
      if (admission.action === "load") return await this.#load(request, hold);
      if (admission.action === "evict") {
        await this.#replace(admission.victims, request);
        return await this.#load(request, hold);
      }
      if (request.below !== undefined) return 0;
      if (isUrgent(request)) this.#awaited.add(key(request));
      if (admission.action === "full" && request.mayStayOnDisk) return this.#keepOnDisk(request);
      if (admission.action === "full") full(admission, request);
      await this.#changed.wait(pollMs, signal);
    }
  }

  async #replace(victims: readonly Victim[], request: LoadRequest): Promise<void> {
    for (const { kind, layer, expert } of victims) if (kind === "planned") request.giveWay?.done(layer, expert);
    try {
      await this.#unload(victims);
      this.residents.takeOver(victims, request);
    } catch (caught) {
      for (const each of [...victims, request]) this.residents.gone(each);
      throw caught;
    } finally {
      this.#changed.notify();
    }
  }

  async retain(layer: number, wanted: ReadonlySet<number>): Promise<void> {
    const failures: unknown[] = [];
    for (const each of this.residents.retain(layer, wanted)) {
      await this.#unload([each]).catch((caught) => failures.push(caught));
      this.residents.gone(each);
      this.#changed.notify();
    }
    if (failures.length > 0) throw failures[0];
  }

  async #load(request: LoadRequest, hold: boolean): Promise<number> {
    const { layer, expert } = request;
    try {
      const bytes = await this.#receive(request, () => this.#fetch(request));
      this.residents.loaded(request);
      if (hold) this.residents.lease(request);
      return bytes;
    } catch (caught) {
      this.residents.gone(request);
      throw AppError.from(caught, `loading expert ${layer}/${expert}`);
    } finally {
      this.#awaited.delete(key(request));
      this.#changed.notify();
    }
  }

  /** Tiers write what they fetch from elsewhere. */
  async #keepOnDisk(request: LoadRequest): Promise<number> {
    if (this.#onDisk(request) || this.#notKept.has(key(request))) return 0;
    const bytes = await this.#receive(request, async () => (await this.#read(request)).byteLength);
    if (!this.#onDisk(request)) this.#notKept.add(key(request));
    return bytes;
  }

  async #fetch(request: LoadRequest): Promise<number> {
    const unit = await this.#read(request);
    const { byteLength } = unit;
    await this.#device.load(request, unit);
    this.#fetchedBytes += byteLength;
    return byteLength;
  }

  async #read(request: LoadRequest): Promise<Uint8Array> {
    const { signal } = request;
    const rate = this.#pace.rate(request.bytesPerSecond);
    const { unit, source, seconds } = await this.#tiers.read({ ...request, rate });
    request.onFetched?.({ source, bytes: unit.byteLength, seconds });
    if (signal.aborted) throw abortReason(signal);
    return unit;
  }

  /** Limited loads wait before they take a slot, so that urgent ones, which rows wait for, find one free. */
  #receive(request: LoadRequest, work: () => Promise<number>): Promise<number> {
    const transfer = { bytes: this.storedBytes(request), limit: request.bytesPerSecond, signal: request.signal };
    const urgent = (): boolean => isUrgent(request) || this.#awaited.has(key(request));
    return this.#pace.receive(transfer, () => this.#slots.run(urgent, work));
  }

  async #unload(leaving: readonly ResidentExpert[]): Promise<void> {
    const slow = setTimeout(() => this.#log.warn({ experts: leaving }, "experts take long to leave memory"), unloadWaitMs);
    try {
      const results = await Promise.allSettled(leaving.map((each) => this.#device.unload(each)));
      const failed = results.find((result) => result.status === "rejected");
      if (failed !== undefined) throw failed.reason;
    } finally {
      clearTimeout(slow);
    }
  }
}

const key = ({ layer, expert }: ResidentExpert): string => `${layer}.${expert}`;

/** Rows wait for it. */
const isUrgent = ({ kind, below }: LoadRequest): boolean => kind === "staged" && below === undefined;

function checkWanted({ layer, expert, signal, wanted }: LoadRequest): void {
  if (signal.aborted) throw abortReason(signal);
  if (wanted?.() === false) throw new AppError(`expert ${layer}/${expert} is not wanted any more`, { code: "Aborted" });
}

function full({ inUse }: { readonly inUse: boolean }, { layer, expert, kind, onFull }: LoadRequest): void {
  if (kind === "staged" && !inUse) {
    throw new AppError(`expert ${layer}/${expert}: memory is full of what the plan wants here`, { code: "NoRoom", retry: "backoff" });
  }
  onFull?.();
}

/** At most `slots` run at once; urgent ones go first. */
class Semaphore {
  #free: number;
  #ended = 0;
  readonly #waiting: { urgent: () => boolean; go: () => void }[] = [];

  constructor(slots: number) {
    this.#free = slots;
  }
  /** `urgent` may change while it waits. */
  async run<T>(urgent: () => boolean, work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((go) => this.#waiting.push({ urgent, go }));
    try {
      return await work();
    } finally {
      this.#ended += 1;
      const urgentFirst = this.#ended % urgentSlots !== 0;
      const at = this.#waiting.findIndex((each) => each.urgent() === urgentFirst);
      const [next] = this.#waiting.splice(Math.max(0, at), 1);
      if (next === undefined) this.#free += 1;
      else next.go();
    }
  }
}
