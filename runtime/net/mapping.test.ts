// Plans and memberships survive the wire unchanged; what a peer could get wrong is refused with its field.
import assert from "node:assert/strict";
import { test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { AppError } from "../../crds/common.ts";
import { memberStates } from "../../crds/names.ts";
import { type LayerPlacement, type PlacementPlan, weightsTotal } from "../../crds/plan.ts";
import { rankRoles } from "../../crds/roles.ts";
import { FetchedSchema, MemberState, MembershipSchema, PlanSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { fromFetched, fromMembership, fromPlan, type Membership, toFetched, toMembership, toPlan } from "./mapping.ts";

const hostRow = fc.uniqueArray(fc.nat({ max: 4095 }), { minLength: 1, maxLength: 6 });
function weightsFor(hosts: readonly number[]): number[] {
  const each = Math.floor(weightsTotal / hosts.length);
  return hosts.map((_, i) => (i === 0 ? weightsTotal - each * (hosts.length - 1) : each));
}
const layerRows = fc.array(hostRow, { minLength: 1, maxLength: 16 });
const epoch = fc.nat({ max: Number.MAX_SAFE_INTEGER });
const plan: fc.Arbitrary<PlacementPlan> = fc
  .record({
    deploymentUid: fc.uuid(),
    epoch,
    parentEpoch: epoch,
    planHash: fc.string({ maxLength: 64 }),
    modelDigest: fc.string({ maxLength: 64 }),
    layers: fc.array(fc.tuple(epoch, layerRows), { maxLength: 8 }),
  })
  .map((p) => ({
    ...p,
    layers: p.layers.map(([at, hosts], layer): LayerPlacement => ({ layer, epoch: at, hosts, weights: hosts.map(weightsFor) })),
  }));
const membership: fc.Arbitrary<Membership> = fc.record({
  version: epoch,
  members: fc.uniqueArray(
    fc.record(
      {
        rank: fc.nat({ max: 4095 }),
        podName: fc.string(),
        podUid: fc.uuid(),
        bootId: fc.uuid(),
        address: fc.string(),
        state: fc.constantFrom(...memberStates),
        role: fc.constantFrom(...rankRoles),
      },
      { requiredKeys: ["rank", "podName", "podUid", "bootId", "address", "state"] },
    ),
    { selector: (member) => member.rank, maxLength: 8 },
  ),
});

test("a plan comes back from the wire unchanged", () => {
  fc.assert(fc.property(plan, (p) => assert.deepEqual(fromPlan(fromBinary(PlanSchema, toBinary(PlanSchema, toPlan(p)))), p)));
});

test("a membership comes back from the wire unchanged", () => {
  fc.assert(
    fc.property(membership, (m) =>
      assert.deepEqual(fromMembership(fromBinary(MembershipSchema, toBinary(MembershipSchema, toMembership(m)))), structuredClone(m)),
    ),
  );
});

test("what was fetched from whom comes back from the wire unchanged", () => {
  const source = fc.oneof(fc.nat({ max: 4095 }), fc.constant("store" as const));
  const fetched = fc.record({ source, bytes: epoch, seconds: fc.double({ noNaN: true }) });
  fc.assert(
    fc.property(fetched, (f) =>
      assert.deepEqual(fromFetched(fromBinary(FetchedSchema, toBinary(FetchedSchema, toFetched(f)))), structuredClone(f)),
    ),
  );
});

const refused: Record<string, { run: () => unknown; want: RegExp }> = {
  "an epoch above 2^53": { run: () => fromPlan(create(PlanSchema, { epoch: 2n ** 60n })), want: /plan\.epoch/ },
  "no plan at all": { run: () => fromPlan(undefined), want: /plan: missing/ },
  "a layer named twice": {
    run: () => fromPlan(create(PlanSchema, { layers: [0, 0].map((layer) => ({ layer, hosts: "0", weights: "1000" })) })),
    want: /layers\[1\].*named twice/,
  },
  "weights that do not sum to 1000": {
    run: () => fromPlan(create(PlanSchema, { layers: [{ layer: 0, hosts: "0.1", weights: "500.499" }] })),
    want: /layers\[0\]: weights of expert 0/,
  },
  "a member state that does not exist": {
    run: () => fromMembership(create(MembershipSchema, { members: [{ rank: 1, state: MemberState.UNSPECIFIED }] })),
    want: /members\[0\]\.state/,
  },
};
for (const [name, { run, want }] of Object.entries(refused)) {
  test(`${name} is refused by name`, () => {
    assert.throws(run, (error: unknown) => error instanceof AppError && error.code === "InvalidPlan" && want.test(error.message));
  });
}
