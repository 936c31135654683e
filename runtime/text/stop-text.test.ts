// Stop strings over streamed pieces: whatever the pieces, the text is that of the whole.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StopText, type TokenDecoder } from "./stop-text.ts";

/** Ids index into pieces. */
function pieces(parts: readonly string[], tail = ""): TokenDecoder {
  return { push: (id) => parts[id] ?? "", flush: () => tail };
}

function run(parts: readonly string[], stops: readonly string[], tail = ""): { text: string; stopped: boolean } {
  const stream = new StopText(pieces(parts, tail), stops);
  let text = "";
  for (const id of parts.keys()) {
    const piece = stream.push(id);
    text += piece.text;
    if (piece.stopped) return { text, stopped: true };
  }
  const end = stream.end();
  return { text: text + end.text, stopped: end.stopped };
}

const cases = new Map<string, { parts: string[]; stops: string[]; tail?: string; want: { text: string; stopped: boolean } }>([
  ["no stop string passes all", { parts: ["a", "b"], stops: [], want: { text: "ab", stopped: false } }],
  ["a stop string within a piece cuts it", { parts: ["one END two"], stops: ["END"], want: { text: "one ", stopped: true } }],
  ["a stop string over three pieces cuts before it", { parts: ["aE", "N", "Db"], stops: ["END"], want: { text: "a", stopped: true } }],
  ["the earliest of several wins", { parts: ["x12"], stops: ["2", "1"], want: { text: "x", stopped: true } }],
  ["a beginning that does not go on is given out", { parts: ["aE", "N", "x"], stops: ["END"], want: { text: "aENx", stopped: false } }],
  ["a beginning at the end is given out", { parts: ["aEN"], stops: ["END"], want: { text: "aEN", stopped: false } }],
  ["the decoder's tail can complete a stop string", { parts: ["aEN"], tail: "D", stops: ["END"], want: { text: "a", stopped: true } }],
  ["repeated letters find the later start", { parts: ["aa", "ab"], stops: ["aab"], want: { text: "a", stopped: true } }],
]);

for (const [name, { parts, stops, tail, want }] of cases) test(name, () => assert.deepEqual(run(parts, stops, tail), want));

test("any cutting into pieces gives the same text as one piece, and nothing of a stop string", () => {
  const letters = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 6 });
  const stops = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 4 }), { maxLength: 4 });
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 12 }), stops, (parts, stopStrings) => {
      const whole = parts.join("");
      const found = stopStrings.map((stop) => whole.indexOf(stop)).filter((at) => at >= 0);
      const want = found.length > 0 ? { text: whole.slice(0, Math.min(...found)), stopped: true } : { text: whole, stopped: false };
      // A shorter stop string may complete first although a longer one began before it: then the longer never ends.
      const got = run(parts, stopStrings);
      assert.equal(got.stopped, want.stopped);
      assert.ok(whole.startsWith(got.text));
      if (new Set(stopStrings.map((s) => s.length)).size <= 1) assert.deepEqual(got, want);
      for (const stop of stopStrings) assert.ok(!got.text.includes(stop), `"${got.text}" holds "${stop}"`);
    }),
    { numRuns: 2000 },
  );
});
