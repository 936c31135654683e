// The world of a training pod: taken in one order, with a place for the pod or none.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../../crds/common.ts";
import type { TrainingWorld } from "../../../crds/training-world.ts";
import { podReportSchema, ranksMax, worldOrderSchema } from "../../../crds/training-world.ts";
import { Membership } from "./membership.ts";

const self = { job: "job", pod: "b", rank: 1 };
const world = (epoch: number, uids: readonly string[]): TrainingWorld => ({
  epoch,
  since: "2026-01-01T00:00:00Z",
  ranks: uids.map((uid, rank) => ({ rank, pod: uid, uid, ip: "10.0.0.1", node: "n" })),
});
const placeOf = (membership: Membership) => membership.place;
const order = (epoch: number, uids: readonly string[]) => ({ job: "job", pod: "b", world: world(epoch, uids) });

test("a pod that leaves has a place past the ranks, and ranks keep their pods' numbers", () => {
  const membership = new Membership(self);
  const [a, b, c] = world(3, ["a", "b", "c"]).ranks;
  const decided = { ...world(3, []), ranks: [a!, c!], leaving: [b!] };
  membership.take({ job: "job", pod: "b", world: decided });
  assert.deepEqual([membership.place?.rank, membership.place?.ranks, membership.place?.members.map(({ rank }) => rank)], [2, 2, [0, 2, 1]]);
  assert.equal(membership.placeAfter(3), undefined);
  assert.equal(membership.placeAfter(2)?.epoch, 3);
  assert.throws(() => membership.take({ job: "job", pod: "b", world: { ...decided, leaving: [] } }), { code: "StaleWorld" });
  const other = new Membership({ job: "job", pod: "c", rank: 2 });
  other.take({ job: "job", pod: "c", world: decided });
  assert.equal(other.place?.rank, 1);
  assert.throws(() => other.take({ job: "job", pod: "c", world: { ...decided, epoch: 4, ranks: [c!, a!] } }), { code: "InvalidWorld" });
  assert.throws(() => other.take({ job: "job", pod: "c", world: { ...decided, epoch: 4, leaving: [a!] } }), { code: "InvalidWorld" });
});

test("what wakes a pod: another world, and once that none takes what it has", () => {
  const membership = new Membership(self);
  let woken = 0;
  const unwatch = membership.watch(() => {
    woken += 1;
  });
  membership.take(order(1, ["a", "b"]));
  membership.take(order(1, ["a", "b"]));
  assert.deepEqual([woken, membership.stop], [1, false]);
  membership.leave();
  membership.take({ ...order(1, ["a", "b"]), stop: true });
  membership.take({ ...order(1, ["a", "b"]), stop: true });
  assert.deepEqual([woken, membership.stop, membership.report({ curve: [] }).leaving], [2, true, true]);
  unwatch();
  membership.take(order(2, ["a", "b"]));
  assert.equal(woken, 2);
});

test("a pod has a place in the newest world that names it, until it leaves that one", () => {
  const membership = new Membership(self);
  membership.take({ job: "job", pod: "b" });
  assert.equal(placeOf(membership), undefined);
  membership.take(order(2, ["a", "b"]));
  assert.deepEqual([placeOf(membership)?.epoch, placeOf(membership)?.rank], [2, 1]);
  membership.begins(2);
  assert.deepEqual(membership.report({ curve: [] }), { pod: "b", epoch: 2, training: 2, progress: { curve: [] } });
  membership.take(order(3, ["a"]));
  assert.equal(placeOf(membership), undefined, "a world without it has no place");
  assert.ok(membership.outdated(2));
  membership.leaves(2, "RankLost", "x".repeat(5_000));
  const { left, training } = membership.report({ curve: [] });
  assert.deepEqual([left?.epoch, left?.code, left?.message.length, training], [2, "RankLost", 1024, 0]);
  membership.take(order(4, ["a", "b"]));
  assert.equal(placeOf(membership)?.epoch, 4);
  membership.leaves(4, "Stopped", "");
  membership.take(order(4, ["a", "b"]));
  assert.equal(placeOf(membership), undefined, "what it left it does not come back to");
});

const refused: Record<string, { readonly given: Parameters<Membership["take"]>[0]; readonly code: string }> = {
  "an older world": { given: order(4, ["a", "b"]), code: "StaleWorld" },
  "the same world with another pod": { given: order(5, ["c", "b"]), code: "StaleWorld" },
  "a world in which its rank is not its certificate's": { given: order(6, ["b", "a"]), code: "InvalidWorld" },
  "ranks that do not ascend": {
    given: { ...order(6, []), world: { ...world(6, []), ranks: world(6, ["a", "b"]).ranks.toReversed() } },
    code: "InvalidWorld",
  },
  "what is for another pod": { given: { ...order(6, ["a", "b"]), pod: "c" }, code: "WrongPod" },
  "what is for another job": { given: { ...order(6, ["a", "b"]), job: "other" }, code: "WrongPod" },
};
for (const [sentence, { given, code }] of Object.entries(refused)) {
  test(`${sentence} is refused and changes nothing`, () => {
    const membership = new Membership(self);
    membership.take(order(5, ["a", "b"]));
    assert.throws(() => membership.take(given), { code });
    assert.equal(membership.place?.epoch, 5);
  });
}

test("an order with a field that is not known is refused", () => {
  const good = order(1, ["a", "b"]);
  assert.ok(worldOrderSchema.safeParse(good).success);
  assert.ok(!worldOrderSchema.safeParse({ ...good, more: 1 }).success);
  assert.ok(!worldOrderSchema.safeParse({ ...good, world: { ...good.world, more: 1 } }).success);
  const [first] = good.world.ranks;
  assert.ok(!worldOrderSchema.safeParse({ ...good, world: { ...good.world, ranks: [{ ...first, more: 1 }] } }).success);
  assert.ok(!worldOrderSchema.safeParse({ ...good, world: { ...good.world, leaving: [{ ...first, more: 1 }] } }).success);
});

test("least ranks beyond what a world may have are said as the most, so that the words are heard", () => {
  const membership = new Membership(self);
  const reports = (least: number | undefined) => podReportSchema.parse(membership.report({ curve: [] }, least)).leastRanks;
  assert.deepEqual([undefined, 3, 16 * ranksMax].map(reports), [undefined, 3, ranksMax]);
});

test("whatever is told in whatever order, the epoch never falls", () => {
  const reported = fc.record({ epoch: fc.integer({ min: 1, max: 6 }), uids: fc.constantFrom(["a", "b"], ["a"], ["b"], ["a", "b", "c"]) });
  fc.assert(
    fc.property(fc.array(reported, { maxLength: 20 }), (orders) => {
      const membership = new Membership(self);
      let newest = 0;
      for (const { epoch, uids } of orders) {
        try {
          membership.take(order(epoch, uids));
        } catch (caught) {
          assert.ok(caught instanceof AppError && ["StaleWorld", "InvalidWorld"].includes(caught.code));
        }
        const now = membership.report({ curve: [] }).epoch;
        assert.ok(now >= newest);
        newest = now;
        const { place } = membership;
        assert.ok(place === undefined || place.members[place.rank]?.uid === "b");
      }
    }),
  );
});
