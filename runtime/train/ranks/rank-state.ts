// A rank's part of a run from world to world: its step, the state of its units, and the norms of its last step.
import { afterEvent, type CommitState, type Holder, nothingHeld } from "../../placement/training/commit.ts";
import type { StateUnit } from "./model-shape.ts";
import type { UnitState } from "./unit-state.ts";

/** The update of a step whose gradients are complete. If a rank is lost before the update, the next world applies it (DECISIONS.md 1). */
export type PendingUpdate = (squares: Float64Array) => Promise<void>;

interface Left {
  /** 0 for state that came from elsewhere. */
  readonly world: number;
  readonly stores: readonly UnitState[];
}

export class RankState {
  #commitState: CommitState = nothingHeld;
  /** At most two: the last world whose begin completed, and one whose begin may complete. */
  #worlds: readonly Left[] = [];
  /** The newest world in which all ranks are known to have their state. */
  #settled = 0;
  #norms: Float64Array = new Float64Array();
  #pending: PendingUpdate | undefined;
  #stage = 0;

  get stage(): number {
    return this.#stage;
  }

  /** Drops the state of another stage, which is of another model. */
  enters(stage: number): void {
    if (stage !== this.#stage) this.drop();
    this.#stage = stage;
  }

  get commitState(): CommitState {
    return this.#commitState;
  }

  get settled(): number {
    return this.#settled;
  }

  get #stores(): readonly UnitState[] {
    return this.#worlds.flatMap(({ stores }) => stores);
  }

  get norms(): Float64Array {
    return this.#norms;
  }

  get stateBytes(): number {
    return this.#stores.reduce((sum, { stateBytes }) => sum + stateBytes, 0);
  }

  /** A number per unit: 2 where this rank owns it, 1 where it shadows it, else 0. */
  has(units: readonly StateUnit[]): Int32Array {
    const owned = this.#worlds.flatMap(({ stores }) => stores.slice(0, 1));
    const all = this.#stores;
    const among = (stores: readonly UnitState[], unit: StateUnit): boolean => stores.some((store) => store.holds(unit));
    return Int32Array.from(units, (unit) => (among(owned, unit) ? 2 : Number(among(all, unit))));
  }

  storeOf(unit: StateUnit): UnitState {
    const found = this.#stores.find((store) => store.holds(unit));
    if (found === undefined) throw new Error(`layer ${unit.layer}: expert ${unit.expert} is not on this rank`);
    return found;
  }

  keeps(store: UnitState): boolean {
    return this.#stores.includes(store);
  }

  prepared(step: number, update: PendingUpdate): void {
    this.#commitState = afterEvent(this.#commitState, "gradients complete", step);
    this.#pending = update;
  }

  /** All norms of the step are here: from now on it is made, whichever ranks are lost. */
  decided(step: number, norms: Float64Array): void {
    this.#commitState = afterEvent(this.#commitState, "all norms here", step);
    this.#norms = norms;
  }

  /**
   * Applies the step to all held state; await it before any other call. If the disk that holds state fails, all state is
   * dropped, since only some of it has the step.
   */
  async commit(step: number, update: () => Promise<void>): Promise<void> {
    const updated = afterEvent(this.#commitState, "updated", step);
    try {
      await update();
    } catch (caught) {
      this.drop();
      throw caught;
    }
    this.#commitState = updated;
    this.#pending = undefined; // it holds a whole rank, which ends with its world
  }

  /** Commits the pending step when its norms arrived after its world ended. */
  commitPending(step: number): Promise<void> {
    return this.commit(step, async () => this.#pending?.(this.#norms));
  }

  /** Another rank knows that all ranks of `world` have their state: older state is not needed any more. */
  settledAt(world: number): void {
    this.#settled = Math.max(this.#settled, world);
  }

  /**
   * The state of a new world is complete. That of the last settled world stays until every rank confirms; that of a world
   * between them, whose begin failed, is dropped.
   */
  arrived(step: number, stores: readonly UnitState[], world = 0): void {
    const decided = this.#commitState.decided === step ? step : nothingHeld.decided;
    this.#commitState = { applied: step, prepared: step, decided };
    const before = this.#worlds.find((left) => left.world >= this.#settled);
    this.#keep([...(before === undefined ? [] : [before]), { world, stores }]);
    this.#pending = undefined;
  }

  begun(): void {
    this.#keep(this.#worlds.slice(-1));
    this.settledAt(this.#worlds.at(-1)?.world ?? 0);
  }

  loaded(step: number, stores: readonly UnitState[]): void {
    this.#commitState = { applied: step, prepared: step, decided: nothingHeld.decided };
    this.#keep([{ world: 0, stores }]);
  }

  /** Drops state whose step is not the one that the others continue from. */
  drop(): void {
    this.#commitState = nothingHeld;
    this.#keep([]);
    this.#pending = undefined;
  }

  /**
   * Drops state older than a checkpoint. All ranks write checkpoints, so the others have gone on without a rank that is
   * behind one.
   */
  dropBefore(checkpoint: number): void {
    if (this.#commitState.applied < checkpoint) this.drop();
  }

  #keep(worlds: readonly Left[]): void {
    const kept = new Set(worlds.flatMap(({ stores }) => stores));
    for (const store of this.#stores) if (!kept.has(store)) store.close();
    this.#worlds = worlds;
  }
}

/** The frame that ranks exchange at the begin of a world: the numbers of their step, then what they have. */
export function peerReportFrame(rankState: RankState, units: readonly StateUnit[]): Int32Array {
  const { applied, prepared, decided } = rankState.commitState;
  return Int32Array.of(applied, prepared, decided, rankState.settled, ...rankState.has(units));
}

export const peerReportLength = (units: readonly StateUnit[]): number => 4 + units.length;

export interface PeerReport extends Holder {
  readonly settled: number;
  readonly owned: ReadonlySet<number>;
}

export function peerReportIn(frame: Int32Array): PeerReport {
  const [applied, prepared, decided, settled] = frame as unknown as [number, number, number, number];
  const units = [...frame.subarray(peerReportLength([]))];
  const withValue = (least: number): ReadonlySet<number> => new Set(units.flatMap((value, unit) => (value >= least ? [unit] : [])));
  return { applied, prepared, decided, settled, held: withValue(1), owned: withValue(2) };
}
