// The pods that all sessions of this process watch, and how many of them are quiet at the same time. Pods fail one by one, or with their
// node; where most of those of a fleet fall silent in the same second, it is this process, its node or its network that is cut off, and
// what would be done about lost ranks would do harm. Kubernetes' node controller stops evictions for the same reason. Pure.

/** Signs come every second: who gave none for so long is quiet. */
const quietMs = 1_500;
/** A stream without a heartbeat for this long counts as broken, from the last sign on. */
export const silenceMs = 3_000;
/** The same while most pods are quiet. */
export const disruptedMs = 15_000;
/** The part of the pods that has to be quiet. */
const mostPart = 0.55;
/** Of fewer pods, most may be on one node. */
const podsLeast = 24;

export class MassFailureGuard {
  #watched = 0;
  #quiet = 0;

  /** Most pods are quiet. */
  get isDisrupted(): boolean {
    return this.#watched >= podsLeast && this.#quiet >= mostPart * this.#watched;
  }

  /** Counts a pod until its watch ends. */
  watch(): PodWatch {
    let [isQuiet, ended] = [false, false];
    const count = (quiet: boolean): void => {
      this.#quiet += Number(quiet) - Number(isQuiet);
      isQuiet = quiet;
    };
    this.#watched += 1;
    return {
      isLost: (silentMs) => {
        if (!ended) count(silentMs > quietMs);
        return silentMs > (this.isDisrupted ? disruptedMs : silenceMs);
      },
      end: () => {
        if (ended) return;
        ended = true;
        count(false);
        this.#watched -= 1;
      },
    };
  }
}

export interface PodWatch {
  /** Takes a look at the pod: it counts as lost after so many milliseconds of silence. */
  isLost(silentMs: number): boolean;
  end(): void;
}
