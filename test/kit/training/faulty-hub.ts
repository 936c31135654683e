// Loopback between pods that die in the middle of what they send and receive, of which the others hear at once or later.
import { Loopback } from "../../../runtime/net/collectives/loopback.ts";
import type { Transport } from "../../../runtime/net/collectives/transport.ts";

/** Milliseconds after which a loss is heard of, when others get on meanwhile. */
const toldMs = 30;

/** Dies in that world in place of that operation, by its number, or by its name where how many come before it depends on time; `told` is
 *  when the others learn it. */
export interface Kill {
  readonly world: number;
  readonly pod: string;
  readonly at: number | string;
  readonly told: "at once" | "later";
}

/** What each pod sent and received, in turn. */
export type Operations = Record<string, string[]>;

export class FaultyHub {
  readonly killed = new Set<string>();
  readonly #names: readonly string[];
  readonly #hub: Loopback;
  readonly #operations: Operations;
  readonly #kills: readonly Kill[];

  constructor(names: readonly string[], operations: Operations, kills: readonly Kill[]) {
    this.#names = names;
    this.#hub = new Loopback(names.length, 60_000);
    this.#operations = operations;
    this.#kills = kills;
  }

  transport(rank: number): Transport {
    const inner = this.#hub.transport(rank);
    return {
      rank,
      ranks: inner.ranks,
      send: async (to, stamp, name, payload) => {
        this.#operation(this.#names[rank]!, `${stamp.step} ${name.what} to ${this.#names[to]}`);
        await inner.send(to, stamp, name, payload);
      },
      receive: async (from, stamp, wanted) => {
        this.#operation(this.#names[rank]!, `${stamp.step} ${wanted.what} from ${this.#names[from]}`);
        return await inner.receive(from, stamp, wanted);
      },
    };
  }

  #operation(pod: string, operation: string): void {
    const done = this.#operations[pod] ?? [];
    this.#operations[pod] = done;
    done.push(operation);
    const kill = this.#kills.find(({ pod: of, at }) => of === pod && (at === done.length - 1 || at === operation));
    if (kill !== undefined) {
      this.killed.add(pod);
      const tell = (): void => this.#hub.end(new Error(`${pod} is lost`));
      if (kill.told === "at once") tell();
      else setTimeout(tell, toldMs);
    }
    if (this.killed.has(pod)) throw new Error(`${pod} was killed`);
  }
}
