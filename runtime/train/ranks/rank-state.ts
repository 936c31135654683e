// One rank's part in a run from world to world: where it stands, the state of the units that it has, and the norms of its last step. A
// world that ends changes nothing of it; the next one begins from it.
import { afterEvent, type CommitState, type Holder, nothingHeld } from "../../placement/training/commit.ts";
import type { StateUnit } from "./model-shape.ts";
import type { UnitState } from "./unit-state.ts";

/** Brings a step into the state, by the squared norms of all gradients. */
export interface PendingUpdate {
  apply(squares: Float64Array): Promise<void>;
}

/** What one world left: the state that a rank owned, and what it shadowed. */
interface Left {
  /** 0 where it came from elsewhere. */
  readonly world: number;
  readonly stores: readonly UnitState[];
}

export class RankState {
  #commitState: CommitState = nothingHeld;
  /** Two at most: the last one whose begin was through, and one whose begin may be. */
  #worlds: readonly Left[] = [];
  /** The newest world of which a rank knows that all of its ranks have their state. */
  #settled = 0;
  #norms: Float64Array = new Float64Array();
  #pending: PendingUpdate | undefined;
  #stage = 0;

  /** The stage of the run that its state is of. */
  get stage(): number {
    return this.#stage;
  }

  /** State of another stage is another model's, and is dropped. */
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

  /** The squares of gradients of all units in the step that is tallied. */
  get norms(): Float64Array {
    return this.#norms;
  }

  /** Bytes that are kept for worlds to come. */
  get stateBytes(): number {
    return this.#stores.reduce((sum, { stateBytes }) => sum + stateBytes, 0);
  }

  /** Of each unit: 2 where this rank owns it, 1 where it shadows it, 0. */
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

  /** Whether it is among what is handed on. */
  keeps(store: UnitState): boolean {
    return this.#stores.includes(store);
  }

  /** The gradients of a step are complete for all that is held: `update` makes the step once the norms are here. */
  prepared(step: number, update: PendingUpdate): void {
    this.#commitState = afterEvent(this.#commitState, "gradients complete", step);
    this.#pending = update;
  }

  /** All norms of the step are here: from now on it is made, whoever is lost. */
  decided(step: number, norms: Float64Array): void {
    this.#commitState = afterEvent(this.#commitState, "all norms here", step);
    this.#norms = norms;
  }

  /**
   * Brings the step into the state of all that is held, whatever becomes of the world meanwhile: to be awaited before anything else is
   * asked of it. Where the disk that has state fails in it, nothing is held any more, since some of it has the step and some has not.
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
    this.#pending = undefined; // what it belongs to is a whole rank, and ends with its world
  }

  /** Commits the step whose update is pending: norms came after the world that made its gradients had ended. */
  commitPending(step: number): Promise<void> {
    return this.commit(step, async () => this.#pending?.apply(this.#norms));
  }

  /** Another rank knows of a world that all of its ranks have their state: what is from before it, nobody will ask for. */
  settledAt(world: number): void {
    this.#settled = Math.max(this.#settled, world);
  }

  /**
   * The state of a world that begins is all here; that of the last one that is settled stays until every rank says so. Of one between
   * them, whose begin failed, nothing is needed: some rank may have nothing of it.
   */
  arrived(step: number, stores: readonly UnitState[], world = 0): void {
    const decided = this.#commitState.decided === step ? step : nothingHeld.decided;
    this.#commitState = { applied: step, prepared: step, decided };
    const before = this.#worlds.find((left) => left.world >= this.#settled);
    this.#keep([...(before === undefined ? [] : [before]), { world, stores }]);
    this.#pending = undefined;
  }

  /** Every rank has its state. */
  begun(): void {
    this.#keep(this.#worlds.slice(-1));
    this.settledAt(this.#worlds.at(-1)?.world ?? 0);
  }

  /** The state of a step that came from elsewhere is all that is held. */
  loaded(step: number, stores: readonly UnitState[]): void {
    this.#commitState = { applied: step, prepared: step, decided: nothingHeld.decided };
    this.#keep([{ world: 0, stores }]);
  }

  /** Its state is of another step than the others go on from. */
  drop(): void {
    this.#commitState = nothingHeld;
    this.#keep([]);
    this.#pending = undefined;
  }

  /** No rank is behind a checkpoint, since all write it: who is was given up, and the others have gone on without it. */
  dropBefore(checkpoint: number): void {
    if (this.#commitState.applied < checkpoint) this.drop();
  }

  #keep(worlds: readonly Left[]): void {
    const kept = new Set(worlds.flatMap(({ stores }) => stores));
    for (const store of this.#stores) if (!kept.has(store)) store.close();
    this.#worlds = worlds;
  }
}

/** What ranks say of each other at the begin of a world: numbers of where they stand, then what they have. */
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
