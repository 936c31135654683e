// The planned expert replicas that left memory for experts that no other rank holds, and their return (experts/DECISIONS.md 2).
import type { LayerPlacement } from "../../crds/plan.ts";
import type { GiveWay } from "../experts/memory/materializer.ts";
import type { ResidentSet } from "../experts/memory/resident-set.ts";
import type { Peers } from "../experts/peers.ts";
import type { Log } from "../observe/log.ts";
import { successor } from "../placement/dispatch.ts";
import type { PlanState } from "./plan-state.ts";

/** Milliseconds. */
const comeBackMs = 5_000;

export interface GiveWayOptions {
  readonly state: Pick<PlanState, "current" | "next" | "previous">;
  readonly peers: Pick<Peers, "self" | "member" | "usable">;
  readonly residents: Pick<ResidentSet, "pressed">;
  readonly log: Log;
  /** Memory is free again: what left may be loaded. */
  readonly comeBack: () => void;
}

export class ExpertReplicasThatGaveWay implements GiveWay {
  readonly #options: GiveWayOptions;
  /** "layer.expert". */
  readonly #away = new Set<string>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: GiveWayOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#away.size;
  }

  /** Undefined while another host of the expert is available. */
  to(layer: number, expert: number): GiveWay | undefined {
    const { peers } = this.#options;
    const elsewhere = this.#live(this.#options.state.current(layer), expert).some((rank) => rank !== peers.self.rank);
    return elsewhere ? undefined : this;
  }

  /** A replica may leave only if another live host, chosen by hash, keeps the expert; so not all hosts drop it at once. */
  readonly may = (layer: number, expert: number): boolean => {
    const { state, peers } = this.#options;
    const { rank } = peers.self;
    const [current, next, parent] = [state.current(layer), state.next(layer), state.previous(layer)];
    if (parent?.hosts[expert]?.includes(rank) && !current?.hosts[expert]?.includes(rank)) return false;
    return [current, next].every((placement) => {
      if (placement === undefined) return true;
      const keeper = successor(layer, expert, this.#live(placement, expert));
      return keeper !== undefined && keeper !== rank;
    });
  };

  readonly done = (layer: number, expert: number): void => {
    if (this.#away.size === 0) this.#options.log.info({}, "memory is full: expert replicas give way to experts that no other rank holds");
    this.#away.add(`${layer}.${expert}`);
    this.#later();
  };

  isAway(layer: number, expert: number): boolean {
    const key = `${layer}.${expert}`;
    if (!this.#away.has(key)) return false;
    const stays = this.#options.residents.pressed() && this.may(layer, expert);
    if (stays) this.#later();
    else this.#away.delete(key);
    return stays;
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #live(placement: LayerPlacement | undefined, expert: number): number[] {
    const { peers } = this.#options;
    const serves = (rank: number) => rank === peers.self.rank || (peers.usable(rank) && peers.member(rank)?.state === "active");
    return (placement?.hosts[expert] ?? []).filter(serves);
  }

  #later(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (this.#options.residents.pressed()) this.#later();
      else this.#options.comeBack();
    }, comeBackMs);
    this.#timer.unref();
  }
}
