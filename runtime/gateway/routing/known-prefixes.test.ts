// What a rank tells and what a gateway knows of it, with the worker's own log at the other end.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { blockIds, prefixRoot } from "../../net/prefix-ids.ts";
import { blocksReportedMost, PrefixLog } from "../../worker/prefix-log.ts";
import { KnownPrefixes } from "./known-prefixes.ts";
import { PromptBlocks } from "./prompt-blocks.ts";

const root = prefixRoot("model", "exact");
const idOf = (n: number): string => n.toString(16).padStart(32, "0");
const tokensOf = (known: KnownPrefixes, n: number): number => known.reportedTokens([idOf(n)]);
const change = fc.record({
  gained: fc.uniqueArray(fc.nat(20), { maxLength: 8 }),
  lost: fc.uniqueArray(fc.nat(20), { maxLength: 8 }),
  /** What becomes of the message that follows. */
  way: fc.constantFrom("arrives", "is late", "is missed"),
});

test("a gateway knows what the rank has, whatever is late; and a message that is missed ends in a snapshot", () => {
  fc.assert(
    fc.property(fc.array(change), (changes) => {
      const log = new PrefixLog(root);
      const known = new KnownPrefixes();
      const has = new Set<number>();
      let stream = log.open();
      const hear = (missed: boolean): void => {
        const told = stream.next();
        if (told === undefined || missed) return;
        if (known.take({ root: new Uint8Array(0), ...told }, 0) !== "gap") return;
        stream.close();
        stream = log.open();
        hear(false);
      };
      for (const { gained, lost, way } of changes) {
        const gone = lost.filter((n) => !gained.includes(n));
        for (const n of gained) has.add(n);
        for (const n of gone) has.delete(n);
        log.add({ gained: gained.map(idOf), lost: gone.map(idOf) });
        if (way !== "is late") hear(way === "is missed");
      }
      log.add({ gained: [idOf(99)], lost: [] });
      hear(false);
      for (let n = 0; n <= 20; n++) assert.equal(tokensOf(known, n), has.has(n) ? 64 : 0);
      assert.equal(tokensOf(known, 99), 64);
    }),
  );
});

test("what is told is bounded: the blocks that came first, and a snapshot for a gateway that does not listen", () => {
  const log = new PrefixLog(root);
  const stream = log.open();
  assert.equal(stream.next()?.gained.length, 0, "a snapshot of nothing says how blocks are named");
  for (let n = 0; n < 3 * blocksReportedMost; n++) log.add({ gained: [idOf(n)], lost: [] });
  const told = stream.next();
  assert.deepEqual([told?.gained.length, told?.root?.length, told?.lost.length], [blocksReportedMost * 16, 32, 0]);
  const known = new KnownPrefixes();
  known.take({ root: new Uint8Array(0), ...told! }, 0);
  assert.deepEqual([tokensOf(known, blocksReportedMost), tokensOf(known, blocksReportedMost - 1)], [0, 64]);
  log.add({ gained: [], lost: [idOf(blocksReportedMost)] });
  assert.equal(stream.next(), undefined, "it was never told");
  const [lost, gained] = [0, 3 * blocksReportedMost];
  log.add({ gained: [idOf(gained)], lost: [idOf(lost)] });
  assert.equal(known.take({ root: new Uint8Array(0), ...stream.next()! }, 0), "delta");
  assert.deepEqual([tokensOf(known, lost), tokensOf(known, gained)], [0, 64], "a lost one made room");
  assert.equal(stream.next(), undefined);
  const large = Buffer.alloc(16 * 3 * blocksReportedMost, 7);
  for (let i = 0; i < 3 * blocksReportedMost; i++) large.writeUInt32LE(i, 16 * i);
  known.take({ number: 1, root, gained: large, lost: Buffer.alloc(7) }, 0);
  const idAt = (i: number): string => large.toString("hex", 16 * i, 16 * (i + 1));
  assert.deepEqual(
    [known.reportedTokens([idAt(0)]), known.reportedTokens([idAt(3 * blocksReportedMost - 1)])],
    [64, 0],
    "a rank that tells more is cut",
  );
});

test("requests on their way count at once, until the rank has told; those that failed do not", () => {
  const prompt = Array.from({ length: 200 }, (_, i) => i);
  const known = new KnownPrefixes();
  let now = 0;
  const [text, blocks] = [{ prompt, cacheSalt: "s" }, new PromptBlocks("PrefixAware", () => now)];
  const holder = { prefixes: known };
  assert.deepEqual(blocks.of(holder, text), [], "the rank has not said how it names them");
  known.take({ number: 1, root, gained: new Uint8Array(0), lost: new Uint8Array(0) }, 0);
  const ids = blocks.of(holder, { prompt, cacheSalt: "s" });
  assert.deepEqual(ids, blockIds(prompt, { root, salt: "s" }, 9));
  assert.notDeepEqual(ids, blockIds(prompt, { root, salt: "t" }, 9));
  known.expect(ids.slice(0, 2));
  const found = (): number[] => [blocks.found(holder, { prompt, cacheSalt: "s" }), known.reportedTokens(ids)];
  assert.deepEqual(found(), [128, 0]);
  known.ended(ids.slice(0, 2), now, false);
  now = 1_500;
  assert.deepEqual(found(), [128, 0]);
  now = 2_500;
  assert.deepEqual(found(), [0, 0]);
  known.expect(ids);
  known.ended(ids, now, true);
  assert.deepEqual(found(), [0, 0]);
  known.expect(ids);
  known.expect(ids);
  known.ended(ids, now, true);
  now = 60_000;
  assert.deepEqual(found(), [192, 0], "another request still brings them");
  known.ended(ids, now, true);
  assert.deepEqual(found(), [0, 0]);
  const other = { prefixes: new KnownPrefixes(), name: "other" };
  other.prefixes.take({ number: 1, root, gained: Buffer.from(ids.slice(0, 2).join(""), "hex"), lost: new Uint8Array(0) }, now);
  assert.equal(blocks.elsewhere([holder, other], holder, text), other);
  assert.equal(blocks.elsewhere([holder, other], other, text), undefined);
  const turns = new PromptBlocks("RoundRobin", () => now);
  assert.deepEqual(turns.of(other, text), []);
});
