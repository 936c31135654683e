// Who can mount a claim, by the modes that it asks and those of the volume that it got.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type ClaimReach, claimReach } from "./claim-use.ts";

const rows: readonly (readonly [asked: readonly string[], got: readonly string[] | undefined, reach: ClaimReach])[] = [
  [["ReadWriteOnce"], undefined, "Node"],
  [["ReadWriteOncePod"], [], "Pod"],
  [["ReadOnlyMany"], undefined, "Nodes"],
  [["ReadWriteOnce"], ["ReadWriteOnce", "ReadWriteMany"], "Nodes"],
  [["ReadWriteOnce"], ["ReadWriteOnce", "ReadOnlyMany"], "Node"],
  [["ReadWriteOncePod"], ["ReadWriteOncePod", "ReadWriteMany"], "Pod"],
];
for (const [asked, got, reach] of rows)
  test(`a claim that asks ${asked} of a volume with ${got ?? "nothing said"} is for ${reach}`, () => {
    const status = got && { accessModes: got };
    assert.equal(claimReach({ spec: { accessModes: asked }, ...(status && { status }) }), reach);
  });
