// Shadows of ranks on any nodes: every rank has one and is one, on another node as often as can be.
import assert from "node:assert/strict";
import { test } from "node:test";
import { shadowsOf } from "./shadows.ts";

test("ranks on nodes of their own shadow one another in a ring; one rank has no shadow", () => {
  assert.deepEqual(shadowsOf([0, 1, 2]), [1, 2, 0]);
  assert.deepEqual(shadowsOf([4]), []);
  assert.deepEqual(shadowsOf([4, 4]), [1, 0]);
});

test("each rank shadows one other, and as many are on another node as any such dealing has", () => {
  for (let ranks = 2; ranks <= 7; ranks++)
    for (let code = 0; code < 3 ** ranks; code++) {
      const node = Array.from({ length: ranks }, (_, rank) => Math.floor(code / 3 ** rank) % 3);
      const shadows = shadowsOf(node);
      assert.deepEqual([...new Set(shadows)].length, ranks);
      assert.ok(shadows.every((shadow, rank) => shadow !== rank));
      const largest = Math.max(...node.map((of) => node.filter((other) => other === of).length));
      const apart = shadows.filter((shadow, rank) => node[shadow] !== node[rank]).length;
      assert.equal(apart, Math.min(ranks, 2 * (ranks - largest)), `${node}`);
    }
});
