// Leader election in virtual time: replicas of the operator over links that are slow, are cut, hold single requests and answers for long,
// and deliver them in another order. What must hold: two never lead at one moment, and one leads once links are whole.
import { LeaderElection, type LeaderOptions, Standstill } from "../../operator/kube/leader.ts";
import { type Random, seeded } from "../../operator/planner/random.ts";
import { FakeKube } from "../kit/kube/fake-kube.ts";
import { VirtualClock } from "./clock.ts";
import type { FaultRun } from "./faults.ts";
import { bend, type PlantedBug } from "./plants.ts";

const replicas = 3;
const cutsMax = 4;
const cutMsMax = 20_000;
const travelMsMax = 300;
/** One message in so many is held, for so long at most. */
const heldOf = 40;
const heldMsMax = 30_000;
const troubleMs = 60_000;
/** Time in which a lease expires and somebody takes it. */
const calmMs = 60_000;
const restartMs = 1_000;

type Api = LeaderOptions["kube"];

class LeaderSim {
  readonly faults: string[] = [];
  readonly log: string[] = [];
  readonly steps = { done: 0, failed: 0 };
  terms = 0;
  readonly #random: Random;
  readonly #clock: VirtualClock;
  readonly #kube: FakeKube;
  readonly #begun: number;
  readonly #elections = new Map<string, LeaderElection>();
  readonly #cutUntil: number[] = Array.from({ length: replicas }, () => 0);

  constructor(seed: number) {
    this.#random = seeded(seed);
    this.#clock = new VirtualClock(undefined, this.#random.next);
    this.#kube = new FakeKube(() => this.#clock.now());
    this.#begun = this.#clock.now();
  }

  async run(): Promise<void> {
    for (let replica = 0; replica < replicas; replica++) this.#begin(replica, 0);
    for (let cut = this.#random.below(cutsMax + 1); cut > 0; cut--) {
      const replica = this.#random.below(replicas);
      this.#clock.after(this.#random.next() * troubleMs, () => this.#cut(replica));
    }
    await this.#clock.run(troubleMs + calmMs, () => this.#twoLead());
    if (this.faults.length === 0 && this.#leaders().length === 0) this.faults.push("nobody leads in the end");
    for (const election of this.#elections.values()) election.cease();
  }

  #cut(replica: number): void {
    const ms = this.#random.next() * cutMsMax;
    this.#cutUntil[replica] = this.#clock.now() + ms;
    this.#tell(`the link of ${replica} is cut for ${Math.round(ms)} ms`);
  }

  /** A replica that lost begins anew under another name. */
  #begin(replica: number, nth: number): void {
    const identity = `${replica}.${nth}`;
    const onElected = (): void => {
      this.terms++;
      this.#tell(`${identity} leads`);
    };
    const onLost = (): void => {
      this.#elections.delete(identity);
      this.#tell(`${identity} leads no more`);
      this.#clock.after(restartMs, () => this.#begin(replica, nth + 1));
    };
    const onError = (): void => void this.steps.failed++;
    const lease = { namespace: "ns", name: "leader" };
    const election = new LeaderElection({ kube: this.#linkOf(replica), lease, identity, clock: this.#clock, onElected, onLost, onError });
    this.#elections.set(identity, election);
    election.start();
  }

  #linkOf(replica: number): Api {
    const over = <A extends unknown[], R>(call: (...args: A) => Promise<R>) => {
      return async (...args: A): Promise<R> => {
        await this.#travel(replica);
        const [answer] = await Promise.allSettled([call(...args)]);
        await this.#travel(replica);
        this.steps.done++;
        if (answer.status === "rejected") throw answer.reason;
        return answer.value;
      };
    };
    const { get, create, update } = this.#kube;
    return { get: over(get), create: over(create), update: over(update) };
  }

  async #travel(replica: number): Promise<void> {
    const troubled = this.#clock.now() - this.#begun < troubleMs;
    const held = troubled && this.#random.below(heldOf) === 0;
    await this.#clock.sleep(this.#random.next() * (held ? heldMsMax : travelMsMax));
    for (let left = this.#left(replica); left > 0; left = this.#left(replica)) await this.#clock.sleep(left + this.#random.next() * 1_000);
  }

  #left(replica: number): number {
    return (this.#cutUntil[replica] ?? 0) - this.#clock.now();
  }

  #leaders(): string[] {
    return [...this.#elections].flatMap(([identity, { isLeader }]) => (isLeader ? [identity] : []));
  }

  #twoLead(): boolean {
    const leaders = this.#leaders();
    if (leaders.length > 1) this.faults.push(`${leaders.join(" and ")} lead after ${this.#clock.now() - this.#begun} ms`);
    return leaders.length > 1;
  }

  #tell(what: string): void {
    this.log.push(`${this.#clock.now() - this.#begun} ms: ${what};`);
  }
}

export async function leadersRun(seed: number): Promise<FaultRun> {
  const sim = new LeaderSim(seed);
  await sim.run();
  return { seed, faults: sim.faults, log: sim.log, epochs: sim.terms, steps: sim.steps };
}

type Ms = Standstill["ms"];
const earlier = (): (() => void) =>
  bend<Ms>(
    Standstill.prototype,
    "ms",
    (original) =>
      function (this: Standstill, version, { askedAt }) {
        return original.call(this, version, { askedAt, answeredAt: askedAt });
      },
  );
const goesOn = (): (() => void) => bend(AbortSignal.prototype, "throwIfAborted", () => () => undefined);

export const leaderBugs: readonly PlantedBug[] = [
  {
    name: "a lease is seen when it is asked for, and attempts that were given up go on",
    seen: /lead after/,
    plant: () => {
      const back = [earlier(), goesOn()];
      return () => {
        for (const each of back) each();
      };
    },
  },
];
