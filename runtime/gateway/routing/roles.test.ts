// Where prompts and answers go by role, and which ranks have which role.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { rankRoles, rolesOf } from "../../../crds/roles.ts";
import type { LifeWatch } from "./life-watch.ts";
import { newWorker, roleFor } from "./pool-worker.ts";
import { directTokens, handsOver, wantedRole } from "./roles.ts";

type Asked = Parameters<typeof wantedRole>[0];
const keep = { id: "k", digest: Buffer.from("d"), note: Buffer.from(""), stays: false, isNew: true };
const long = Array<number>(directTokens).fill(1);
const asked = (rest: Partial<Asked> = {}): Asked => ({ prompt: long, maxTokens: 20, sampling: { logprobs: false }, ...rest });

const cases: Readonly<Record<string, readonly [asked: Asked, replayed: number, known: number, want: "prefill" | "decode"]>> = {
  "a long prompt is computed apart": [asked(), 0, 0, "prefill"],
  "a short one is not": [asked({ prompt: long.slice(1) }), 0, 0, "decode"],
  "nor one of which a rank has most": [asked(), 0, 1, "decode"],
  "an answer that has begun goes on where ranks generate": [asked(), 1, 0, "decode"],
  "an embedding has no answer": [asked({ embed: true, prompt: [1] }), 0, 0, "prefill"],
  "a single token needs no other rank": [asked({ maxTokens: 1, prompt: [1] }), 0, 0, "prefill"],
  "an answer that is kept for its reader alone is no other": [asked({ keep }), 0, 0, "prefill"],
  "one that a key may ask for lies at one rank": [asked({ keep: { ...keep, stays: true } }), 0, 0, "decode"],
  "so does one with log-probabilities": [asked({ keep, sampling: { logprobs: true } }), 0, 0, "decode"],
  "and one that a rank has begun": [asked({ keep, home: 1 }), 0, 0, "decode"],
};
for (const [what, [request, replayed, known, want]] of Object.entries(cases))
  test(what, () => assert.equal(wantedRole(request, { replayed, known }), want));

test("only a rank for prefill hands over, and only where more than a token is wanted", () => {
  const text = asked();
  assert.deepEqual(
    [undefined, ...rankRoles].map((given) => handsOver(text, "prefill", given)),
    [false, true, false],
  );
  assert.equal(handsOver(text, "decode", "prefill"), false, "it generates where nobody else does");
  for (const one of [asked({ maxTokens: 1 }), asked({ embed: true })]) assert.equal(handsOver(one, "prefill", "prefill"), false);
});

test("the lowest ranks that serve are for prefill, those after them for decode; while two serve there is one of each", () => {
  const counts = fc.record({ prefill: fc.integer({ min: 1, max: 5 }), decode: fc.integer({ min: 1, max: 5 }) });
  const serving = fc.uniqueArray(fc.nat(20), { maxLength: 12 });
  fc.assert(
    fc.property(counts, serving, (spec, ranks) => {
      const roles = rolesOf(spec, ranks);
      const of = (wanted: string | undefined) => ranks.filter((rank) => roles.get(rank) === wanted).toSorted((a, b) => a - b);
      const [prefill, decode, both] = [of("prefill"), of("decode"), of(undefined)];
      if (ranks.length < 2) return assert.equal(roles.size, 0);
      assert.ok(prefill.length >= 1 && decode.length >= 1);
      assert.deepEqual(
        [...prefill, ...decode, ...both],
        ranks.toSorted((a, b) => a - b),
      );
      if (ranks.length < spec.prefill + spec.decode) return assert.equal(both.length, 0);
      assert.deepEqual([prefill.length, decode.length], [spec.prefill, spec.decode]);
    }),
  );
  assert.equal(rolesOf(undefined, [0, 1, 2]).size, 0);
});

test("a long prompt stays with ranks for decode where none of its class could go on, and where its beginning is all that is named", () => {
  const worker = (rank: number, role: "prefill" | "decode", numerics: string) => {
    const address = { podUid: `u${rank}`, podName: `p${rank}`, bootId: "", address: "" };
    const one = newWorker({ rank, ...address, state: "active", numerics, role });
    return Object.assign(one, { life: { away: false } as LifeWatch });
  };
  const generation = { ...asked(), prompt: Array<number>(40_000).fill(1) } as unknown as Parameters<typeof roleFor>[0];
  const of = (classOfDecode: string, reported: number) =>
    roleFor(generation, 0, [worker(0, "prefill", "a"), worker(1, "decode", classOfDecode)], { reportedTokens: () => reported });
  assert.deepEqual([of("a", 0), of("b", 0), of("a", 32_704), of("a", 32_768)], ["prefill", "decode", "prefill", "decode"]);
});
