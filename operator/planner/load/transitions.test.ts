import assert from "node:assert/strict";
import { test } from "node:test";
import { TransitionBook } from "./transitions.ts";

const one = (cell: number, count: number) => ({ cells: Uint32Array.of(cell), counts: Uint32Array.of(count) });

test("nothing is known of transitions before enough tokens were followed", () => {
  const book = new TransitionBook(3, 4);
  book.add(one(5, 255));
  assert.equal(book.known(), undefined);
  book.add(one(6, 1));
  assert.deepEqual([book.known()?.[5], book.known()?.[6], book.fresh], [255, 1, true]);
});

test("what is known stays, and is fresh again when half of it is new", () => {
  const book = new TransitionBook(3, 4);
  book.add(one(5, 1000));
  book.used();
  assert.deepEqual([book.fresh, book.known() === undefined], [false, false]);
  book.add(one(5, 900));
  assert.equal(book.fresh, false);
  book.add(one(5, 200));
  assert.equal(book.fresh, true);
});

test("old windows fade, so that what holds now wins", () => {
  const book = new TransitionBook(2, 2);
  book.add(one(0, 1000));
  for (let window = 0; window < 34; window++) book.fade();
  book.add(one(1, 600));
  const known = book.known();
  assert.ok((known?.[0] ?? 0) < 510 && (known?.[1] ?? 0) === 600);
});

test("cells that the model does not have, and models too large to follow, are let be", () => {
  const book = new TransitionBook(2, 2);
  book.add(one(4, 1000));
  assert.equal(book.pairs, 0);
  assert.equal(new TransitionBook(1000, 4000).known(), undefined);
});
