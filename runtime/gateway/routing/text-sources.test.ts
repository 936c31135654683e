// The choice of ranks to read the tokenizer from: those with the files that most ranks have, the ones that serve first.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Member } from "../../net/mapping.ts";
import { sourcesMax, textSources } from "./text-sources.ts";

const member = (rank: number, textDigest: string | undefined, state: Member["state"] = "active"): Member => ({
  ...{ rank, podName: `p${rank}`, podUid: `u${rank}`, bootId: "b", address: `10.0.0.${rank}:1`, state },
  ...(textDigest === undefined ? {} : { textDigest }),
});

const cases: Readonly<Record<string, { members: Member[]; want: readonly number[]; digest: string | undefined }>> = {
  "nobody is there": { members: [], want: [], digest: undefined },
  "a lost rank is asked nothing and counts for nothing": { members: [member(0, "a", "lost"), member(1, "b")], want: [1], digest: "b" },
  "ranks that serve come first": { members: [member(0, "a", "joining"), member(1, "a")], want: [1, 0], digest: "a" },
  "one that leaves is better than none": { members: [member(0, "a", "draining"), member(1, "a", "joining")], want: [1, 0], digest: "a" },
  "a rank with other files than most is not asked": {
    members: [member(0, "b"), member(1, "a"), member(2, "a")],
    want: [1, 2],
    digest: "a",
  },
  "of as many the lowest rank has it": { members: [member(3, "a"), member(2, "b")], want: [2], digest: "b" },
  "ranks that say none come last": { members: [member(0, undefined), member(1, "a", "joining")], want: [1, 0], digest: "a" },
  "where none says one, all are asked": { members: [member(1, undefined), member(0, undefined)], want: [0, 1], digest: undefined },
};

for (const [name, { members, want, digest }] of Object.entries(cases))
  test(name, () => {
    for (const order of [members, members.toReversed()]) {
      const found = textSources(order);
      assert.deepEqual([found.ranks.map(({ rank }) => rank), found.digest], [want, digest]);
    }
  });

test("a round asks no more ranks than its bound", () => {
  assert.equal(textSources(Array.from({ length: 100 }, (_, rank) => member(rank, "a"))).ranks.length, sourcesMax);
});
