import assert from "node:assert/strict";
import { test } from "node:test";
import { kvPoolBytes, processBytes, type RankMemory } from "./rank-memory.ts";

const [Mi, Gi] = [2 ** 20, 2 ** 30];
const limit: RankMemory = { bytes: 8 * Gi, of: "the memory limit of the container runtime", own: true, expertBytes: 2 * Gi };
const needs = { askedBytes: 0, requestBytes: Gi, mostBytes: 64 * Gi, maxContext: 4096, denseBytes: Gi, memory: limit };
const free = 8 * Gi * 0.85 - Gi;

const pools: Record<string, readonly [given: Partial<typeof needs>, want: number]> = {
  "what was given": [{ askedBytes: 2 * Gi }, 2 * Gi],
  "what the limit leaves beside the experts": [{}, free - 2 * Gi],
  "less where keys and values are kept beside it": [{ memory: { ...limit, offloadBytes: Gi } }, free - 3 * Gi],
  "a quarter of it where experts take the rest": [{ memory: { ...limit, expertBytes: 0 } }, free / 4],
  "a quarter of what the node leaves": [{ requestBytes: Mi, memory: { ...limit, own: false } }, (free - 2 * Gi) / 4],
  "what was given, also where the requests of a small model take less and the node has less": [
    { askedBytes: 16 * Gi, mostBytes: 2 * Gi, memory: { ...limit, own: false, expertBytes: 64 * Gi } },
    16 * Gi,
  ],
  "no more than all requests fill": [{ mostBytes: 3 * Gi }, 3 * Gi],
  "one request where less is left": [{ memory: { ...limit, bytes: 4.1 * Gi } }, Gi],
  "room for the process in a small limit": [
    { requestBytes: Mi, denseBytes: 0, memory: { ...limit, bytes: Gi, expertBytes: Mi } },
    Gi - processBytes - Mi,
  ],
};
for (const [name, [given, want]] of Object.entries(pools))
  test(`a KV pool has ${name}`, () => assert.equal(kvPoolBytes({ ...needs, ...given }), want));

test("a KV pool has one request, or 256 MiB, where the memory is unknown", () => {
  assert.equal(kvPoolBytes({ ...needs, memory: undefined }), Gi);
  assert.equal(kvPoolBytes({ ...needs, memory: undefined, requestBytes: Mi }), 256 * Mi);
});

test("a pool that holds no request, or that memory cannot hold, is refused with the least that would do", () => {
  const small = /^spec\.runtime\.kvPool 256Mi holds no request of maxContext 4096 tokens: raise it to at least 1024Mi, leave it out,/;
  assert.throws(() => kvPoolBytes({ ...needs, askedBytes: 256 * Mi }), { code: "KvPoolTooSmall", message: small });
  const above =
    /^dense part 1Gi \+ kvPool 6Gi \+ experts\.memoryPerRank 2Gi = 9216Mi is above the memory limit .*, 8192Mi: raise it to 9598Mi/;
  assert.throws(() => kvPoolBytes({ ...needs, askedBytes: 6 * Gi }), { code: "InsufficientMemory", message: above });
  const beside = { ...limit, offloadBytes: 2 * Gi };
  assert.throws(() => kvPoolBytes({ ...needs, askedBytes: 4 * Gi, memory: beside }), {
    message: /kvOffload\.memory 2Gi = .* or lower .*kvOffload/,
  });
});
