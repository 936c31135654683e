// Keys and ids of answers that clients come back to: the same for the same caller and request, and nobody else's.
import assert from "node:assert/strict";
import { test } from "node:test";
import { keptId, keyProblem, newToken, readNote, resumption, ticketOf, ticketOfResponse } from "./resume.ts";

const asked = { tenant: "key:1", endpoint: "chat", key: "k", stream: true, json: { model: "m" }, created: 7, seed: 5n } as const;
const maybe = (changed: object) => ticketOf({ ...asked, ...changed });
const ticket = (changed: object = {}) => maybe(changed)!;

/** What differs -> whether the ids of the answer, and the digest of the request, do. */
const differences: readonly [changed: object, id: boolean, digest: boolean][] = [
  [{ created: 8, seed: 6n }, false, false],
  [{ json: { model: "m", n: 2 } }, false, true],
  [{ endpoint: "completions" }, false, true],
  [{ key: "l" }, true, false],
  [{ tenant: "key:2" }, true, false],
];

test("a key stands for one answer of one caller: its ids, its seed and its request", () => {
  for (const [changed, id, digest] of differences) {
    const [a, b] = [ticket(), ticket(changed)];
    const differ = [
      a.token !== b.token,
      a.keep.id !== b.keep.id,
      a.note.seed !== b.note.seed,
      Buffer.compare(a.keep.digest, b.keep.digest) !== 0,
    ];
    assert.deepEqual(
      differ,
      [id, id, id, digest],
      JSON.stringify(changed, (_, value) => (typeof value === "bigint" ? 0 : value)),
    );
  }
  assert.equal(ticket().note.request, undefined, "a chat is read again by its key alone");
  assert.deepEqual([ticket().keep.stays, ticket().keep.isNew], [true, false]);
});

test("without a key only a streamed response can be found again, by an id that is drawn", () => {
  for (const changed of [{}, { endpoint: "responses", stream: false }]) assert.equal(maybe({ key: undefined, ...changed }), undefined);
  const made = ticket({ key: undefined, endpoint: "responses" });
  assert.notEqual(made.token, ticket({ key: undefined, endpoint: "responses" }).token);
  assert.deepEqual([made.note.seed, made.keep.stays, made.keep.isNew], ["5", false, true]);
  const found = ticketOfResponse(asked.tenant, made.token, made.keep.note)!;
  assert.deepEqual([found.json, found.keep], [asked.json, { ...made.keep, isNew: false }]);
  assert.notEqual(keptId("key:2", made.token), made.keep.id, "another caller asks for another id");
  const long = ticket({ endpoint: "responses", json: { input: "x".repeat(300_000) } });
  assert.equal(ticketOfResponse(asked.tenant, long.token, long.keep.note), undefined);
  assert.equal(readNote(long.keep.note)?.created, 7);
  assert.equal(readNote(new Uint8Array()), undefined);
});

const id = `resp_${newToken()}`;
test("keys and queries that are none are refused by name", () => {
  const refused = [
    ...["", "x".repeat(256), "ä", "a\nb"].map((key) => keyProblem(key)?.param),
    ...[{ stream: "yes" }, { starting_after: "-1", stream: "true" }, { starting_after: "1" }, { other: "1" }].map((query) => {
      const read = resumption(id, query as unknown as Record<string, string>);
      return "problem" in read && read.problem.param;
    }),
  ];
  const header = "Idempotency-Key";
  assert.deepEqual(refused, [header, header, header, header, "stream", "starting_after", "starting_after", "other"]);
  assert.deepEqual([keyProblem(undefined), keyProblem("x".repeat(255))], [undefined, undefined]);
  for (const other of ["resp_1", "x", `${id}0`]) assert.equal((resumption(other, {}) as any).problem.status, 404);
  assert.deepEqual(resumption(id, { stream: "true", starting_after: "4" }), { token: id.slice(5), stream: true, after: 4 });
  assert.deepEqual(resumption(id, {}), { token: id.slice(5), stream: false, after: -1 });
});
