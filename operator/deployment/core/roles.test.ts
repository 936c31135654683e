// What the status says of roles, from the roles that the ranks have.
import assert from "node:assert/strict";
import { test } from "node:test";
import { rolesText, rolesVerdict } from "./roles.ts";
import type { MemberView } from "./world.ts";

type Roles = readonly MemberView["role"][];
const spec = { prefill: 1, decode: 2 };
const rows: Readonly<Record<string, readonly [roles: Roles, verdict: string, message: RegExp, text: string | undefined]>> = {
  "all serve": [
    ["prefill", "decode", "decode", "both"],
    "True Served",
    /^prefill: rank 0; decode: ranks 1, 2; both: rank 3$/,
    "prefill 1, decode 2, both 1",
  ],
  "one is missing": [
    ["prefill", undefined, "decode"],
    "False TooFewRanks",
    /^2 of 3 ranks .*; prefill: rank 0; decode: rank 2; both: none;/,
    "prefill 1, decode 1, both 0",
  ],
  "one is left": [["both", undefined], "False TooFewRanks", /^the only rank that serves does both;/, "prefill 0, decode 0, both 1"],
  "none serves": [[undefined], "Unknown NoRanks", /no rank serves/, undefined],
};
for (const [what, [roles, verdict, message, text]] of Object.entries(rows))
  test(what, () => {
    const members = roles.map((role, rank) => (role === undefined ? { rank, active: false } : { rank, role, active: true }));
    const found = rolesVerdict(spec, members);
    assert.equal(`${found?.status} ${found?.reason}`, verdict);
    assert.match(found?.message ?? "", message);
    assert.equal(rolesText(members), text);
    assert.equal(rolesVerdict(undefined, members), undefined);
  });

test("ranks that serve and have no role yet are being given one", () =>
  assert.equal(rolesVerdict(spec, [{ rank: 0, active: true }])?.reason, "NotObserved"));

test("before the ranks are known there is no verdict", () => assert.equal(rolesVerdict(spec, undefined)?.reason, "NotObserved"));
