// Texts alone: taken exactly when the whole text matches or is a choice, in bytes of UTF-8.
import assert from "node:assert/strict";
import { test } from "node:test";
import { languageOf } from "./index.ts";
import type { Constraint } from "./language.ts";

function verdict(constraint: Constraint, text: string): boolean {
  const { start, step, ends } = languageOf(constraint);
  let state: string | undefined = start;
  for (const byte of new TextEncoder().encode(text)) state = state === undefined ? state : step(state, byte);
  return state !== undefined && ends(state);
}

const regex = (spec: string): Constraint => ({ name: "regex", spec });
const choice = (...texts: string[]): Constraint => ({ name: "choice", spec: JSON.stringify(texts) });
const cases: readonly (readonly [constraint: Constraint, right: readonly string[], wrong: readonly string[]])[] = [
  [regex("\\d{3}-\\d{4}"), ["555-1234"], ["a555-1234", "555-12345", "555-123", ""]],
  [regex("^yes$|no"), ["yes", "no"], ["yes ", "nono"]],
  [regex('[\\s\\S]*"\\\\?é😀\\n'), ['a\n"\\é😀\n', '"é😀\n'], ['"é😀', '"e😀\n']],
  [choice("a", "ab", "é 😀", '"q"'), ["a", "ab", "é 😀", '"q"'], ["", "b", "abc", "é", "q"]],
];

test("a text is of the language exactly when the whole of it matches, or when it is a choice", () => {
  for (const [constraint, right, wrong] of cases) {
    for (const text of right) assert.ok(verdict(constraint, text), `${constraint.spec}: ${text}`);
    for (const text of wrong) assert.ok(!verdict(constraint, text), `${constraint.spec}: ${text}`);
  }
});
