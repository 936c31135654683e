// Replicas behind links that are cut and healed: what was under way then is held and arrives out of order.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { ManualClock } from "../../test/kit/manual-clock.ts";
import { seeded } from "../planner/random.ts";
import { LeaderElection, type LeaderOptions } from "./leader.ts";

const replicas = 3;
const cutsMax = 4;
const stepMs = 500;
const seeds = 12;

type Api = LeaderOptions["kube"];

/** Requests and answers take up to 300 ms each, and wait for the end of a cut. */
function linkOf(api: Api, clock: ManualClock, random: () => number, isCut: () => boolean): Api {
  const travel = (): Promise<void> =>
    new Promise((resolve) => {
      const arrive = () => void (isCut() ? clock.after(1 + random() * 1_000, arrive) : resolve());
      clock.after(random() * 300, arrive);
    });
  const over = <A extends unknown[], R>(call: (...args: A) => Promise<R>) => {
    return async (...args: A): Promise<R> => {
      await travel();
      const answer = await call(...args).then(
        (value) => ({ value }),
        (error: unknown) => ({ error }),
      );
      await travel();
      if ("error" in answer) throw answer.error;
      return answer.value;
    };
  };
  return { get: over(api.get.bind(api)), create: over(api.create.bind(api)), update: over(api.update.bind(api)) };
}

/** The leaders at each moment of 90 s, in the first 60 of which links are cut for up to 20 s; a replica that lost begins anew. */
async function leadersOf(seed: number): Promise<readonly (readonly string[])[]> {
  const { next: random } = seeded(seed);
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const cutUntil = Array.from({ length: replicas }, () => 0);
  const elections = new Map<string, LeaderElection>();
  const begin = (replica: number, nth: number): void => {
    const identity = `${replica}.${nth}`;
    const again = () => {
      elections.delete(identity);
      clock.after(1_000, () => begin(replica, nth + 1));
    };
    const api = linkOf(kube, clock, random, () => clock.now() < (cutUntil[replica] ?? 0));
    const election = new LeaderElection({
      ...{ kube: api, lease: { namespace: "ns", name: "leader" }, identity, clock },
      ...{ onElected: () => {}, onLost: again },
    });
    elections.set(identity, election);
    election.start();
  };
  for (let replica = 0; replica < replicas; replica++) begin(replica, 0);
  for (let cut = 0; cut < cutsMax; cut++) {
    const replica = Math.floor(random() * replicas);
    clock.after(random() * 60_000, () => {
      cutUntil[replica] = clock.now() + random() * 20_000;
    });
  }
  const leaders: string[][] = [];
  for (let at = 0; at < 90_000; at += stepMs) {
    await clock.advance(stepMs);
    leaders.push([...elections].flatMap(([identity, { isLeader }]) => (isLeader ? [identity] : [])));
  }
  for (const election of elections.values()) election.cease();
  return leaders;
}

test("two replicas never lead at one moment, whatever links hold back and deliver late", async () => {
  for (let seed = 1; seed <= seeds; seed++) {
    const leaders = await leadersOf(seed);
    const both = leaders.findIndex((all) => all.length > 1);
    assert.equal(both, -1, `seed ${seed}: ${leaders[both]?.join(" and ")} lead after ${(both + 1) * stepMs} ms`);
    assert.equal(leaders.at(-1)?.length, 1, `seed ${seed}: one leads in the end`);
  }
});
