// An answer without a reader is followed at the ranks until none computes it, whichever of its choices ends first.
import assert from "node:assert/strict";
import { test } from "node:test";
import { untilOver } from "./unread.ts";

const never = new AbortController().signal;

test("the tokens of all choices count once all are over, dropped or unknown", async () => {
  const looks: Record<string, (number | "gone")[]> = { a: [3, "gone", 8], b: [4, "gone"], c: ["gone"] };
  const asked: string[] = [];
  const kept = async (id: string) => {
    asked.push(id);
    const tokens = looks[id]?.shift() ?? "gone";
    return tokens === "gone" ? undefined : { rank: 0, note: new Uint8Array(), tokens, over: tokens === 8 };
  };
  assert.equal(await untilOver(["a", "b", "c"], { kept }, never, 1), 12);
  assert.equal(asked.join(""), `aaab${"b".repeat(5)}${"c".repeat(5)}`);
});

test("it is followed no longer once its client is back", async () => {
  const end = new AbortController();
  const kept = async () => ({ rank: 0, note: new Uint8Array(), tokens: 1, over: false });
  const followed = untilOver(["a"], { kept }, end.signal, 1);
  setTimeout(() => end.abort(), 20);
  await assert.rejects(followed, { name: "AbortError" });
});
