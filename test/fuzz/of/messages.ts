// The messages of protobuf that carry plans, memberships and lists of files, as bytes that a stranger writes: what is taken is within its
// bounds and is written alike.
import assert from "node:assert/strict";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../../crds/common.ts";
import { memberStates } from "../../../crds/names.ts";
import { planBounds } from "../../../crds/plan.ts";
import { fromFileList, storeFiles } from "../../../runtime/net/file-lists.ts";
import { FileListSchema, MembershipSchema, PlanSchema } from "../../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { fromMembership, fromPlan, toMembership, toPlan } from "../../../runtime/net/mapping.ts";
import { create } from "../../../runtime/net/service.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damaged, type Random } from "../mutate.ts";
import { chance, pick, text } from "../words.ts";
import { layerOf, withinBounds } from "./plans.ts";

interface Input {
  readonly kind: "plan" | "membership" | "files";
  readonly bytes: Buffer;
}

const big = (random: Random): bigint =>
  chance(random, 95) ? BigInt(random(100)) : pick(random, [2n ** 53n, 2n ** 64n - 1n, 2n ** 53n - 1n]);
/** Texts on the wire are UTF-8: half a pair of surrogates cannot be written. */
const word = (random: Random): string => text(random).toWellFormed();

function planOf(random: Random): Uint8Array {
  const layers = Array.from({ length: random(4) }, (_, layer) => {
    const { hosts, weights } = layerOf(random, layer);
    return { layer: chance(random, 95) ? layer : random(2_000), epoch: big(random), hosts, weights };
  });
  const common = {
    deploymentUid: word(random),
    epoch: big(random),
    parentEpoch: big(random),
    planHash: word(random),
    modelDigest: word(random),
  };
  return toBinary(PlanSchema, create(PlanSchema, { ...common, layers }));
}

function membershipOf(random: Random): Uint8Array {
  const members = Array.from({ length: random(5) }, (_, rank) => ({
    ...{ rank: chance(random, 95) ? rank : random(5_000), podName: word(random), podUid: word(random), bootId: word(random) },
    ...{ address: word(random), state: random(memberStates.length + 2), numerics: word(random).repeat(chance(random, 5) ? 100 : 1) },
  }));
  return toBinary(MembershipSchema, create(MembershipSchema, { version: big(random), members }));
}

function filesOf(random: Random): Uint8Array {
  const sha256 = "0123456789abcdef".repeat(4);
  const names = chance(random, 80) ? storeFiles.names : storeFiles.names.filter(() => chance(random, 70));
  const files = names.map((name) => ({ name: chance(random, 95) ? name : word(random), bytes: big(random), sha256 }));
  return toBinary(FileListSchema, create(FileListSchema, { digest: chance(random, 90) ? sha256 : word(random), files }));
}

/** What the library refuses ends the call, as a message that cannot be read. */
function parsed<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new AppError(String(cause), { code: "Undecodable", cause });
  }
}

const subject = { plan: fromPlan, membership: fromMembership };

export const messages: Fuzzer<typeof subject, Input> = {
  name: "messages",
  share: 120,
  deadlineMs: 5_000,
  refusals: ["InvalidPlan", "InvalidRequest", "Undecodable"],
  start: () => subject,
  input(random) {
    const kind = pick(random, ["plan", "membership", "files"] as const);
    const bytes = Buffer.from({ plan: planOf, membership: membershipOf, files: filesOf }[kind](random));
    return { kind, bytes: chance(random, 40) ? damaged(bytes, random, 80) : bytes };
  },
  attempt({ plan, membership }, { kind, bytes }) {
    if (kind === "plan") {
      const taken = plan(parsed(() => fromBinary(PlanSchema, bytes)));
      withinBounds(taken);
      assert.deepEqual(plan(toPlan(taken)), taken, "a plan is written alike");
      return;
    }
    if (kind === "files") {
      const { files } = fromFileList(
        parsed(() => fromBinary(FileListSchema, bytes)),
        storeFiles,
      );
      assert.ok(files.every(({ name, bytes: size }) => storeFiles.names.includes(name) && size >= 0 && size <= 2 ** 40));
      return;
    }
    const taken = membership(parsed(() => fromBinary(MembershipSchema, bytes)));
    assert.ok(taken.members.every(({ rank }) => rank >= 0 && rank < planBounds.ranks));
    assert.deepEqual(membership(toMembership(taken)), taken, "a membership is written alike");
  },
  plant: ({ plan }) => ({ plan, membership: unguarded(fromMembership, /is unknown/) }),
};
