// The network of one world of training in the simulation: frames take their time and keep their order, a killed pod's may be lost on the
// way, a frozen pod neither sends nor reads, and each rank hears in its own time that the world is over.
import type { Random } from "../../operator/planner/random.ts";
import { Inbox } from "../../runtime/net/collectives/inbox.ts";
import type { Transport } from "../../runtime/net/collectives/transport.ts";
import type { RankState } from "../../runtime/train/ranks/rank-state.ts";
import type { VirtualClock } from "./clock.ts";

export interface SimPod {
  readonly name: string;
  rankState: RankState;
  dead: boolean;
  /** Done when it goes on. */
  frozen: Promise<void> | undefined;
  /** Parts in worlds that it has not ended. */
  busy: number;
  /** It was left out of a world while it had state. */
  returned: boolean;
}

const frameMsMost = 20;
const frameWaitMs = 60_000;
/** Until a rank hears that another is lost: by a connection that breaks, or by silence. */
const [brokenMsMost, silentMsMost] = [40, 2_000];

export class TrainingNet {
  readonly #members: readonly SimPod[];
  readonly #clock: VirtualClock;
  readonly #random: Random;
  readonly #inboxes: readonly Inbox[];
  /** When the last frame between two ranks arrives. */
  readonly #last = new Map<string, number>();
  readonly #cut = new Set<number>();

  constructor(members: readonly SimPod[], clock: VirtualClock, random: Random) {
    this.#members = members;
    this.#clock = clock;
    this.#random = random;
    this.#inboxes = members.map(() => new Inbox(members.length, () => frameWaitMs));
  }

  transport(rank: number): Transport {
    const pod = this.#members[rank]!;
    return {
      rank,
      ranks: this.#members.length,
      send: async (to, stamp, name, payload) => {
        await this.#awake(pod);
        const key = `${rank} ${to}`;
        const arrives = Math.max(this.#last.get(key) ?? 0, this.#clock.exact() + this.#random.next() * frameMsMost);
        this.#last.set(key, arrives);
        const frame = { stamp, payload: payload.slice() };
        this.#clock.after(arrives - this.#clock.exact(), () => {
          if (!this.#cut.has(rank)) this.#inboxes[to]!.put(rank, name, frame);
        });
      },
      receive: async (from, stamp, wanted) => {
        try {
          return await this.#inboxes[rank]!.take(from, stamp, wanted);
        } finally {
          await this.#awake(pod);
        }
      },
    };
  }

  /** What a rank sent and is under way is lost. */
  cut(rank: number): void {
    this.#cut.add(rank);
  }

  /** All ranks hear of it, each in its time; the one that says it at once. */
  tell(error: Error, by?: number): void {
    const toldMsMost = this.#random.next() < 0.5 ? brokenMsMost : silentMsMost;
    for (const [rank, inbox] of this.#inboxes.entries())
      this.#clock.after(rank === by ? 0 : this.#random.next() * toldMsMost, () => inbox.end(error));
  }

  /** Nothing happens any more in a pod that is dead. */
  async #awake(pod: SimPod): Promise<void> {
    await pod.frozen;
    if (pod.dead) await new Promise(() => {});
  }
}
