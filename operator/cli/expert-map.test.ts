import assert from "node:assert/strict";
import { test } from "node:test";
import { parseExpertPlacement } from "../../crds/expert-placement.ts";
import { encodeLayer } from "../../crds/plan.ts";
import { expertMap } from "../views/experts-view.ts";
import { mapSvg, mapText } from "./expert-map.ts";

/** Two layers of three experts on two ranks; the second layer has expert 0 on both. */
const placement = (layers: readonly { hosts: number[][]; weights: number[][] }[]) =>
  parseExpertPlacement({
    metadata: { name: "moe", namespace: "ns" },
    spec: {
      deploymentUID: "u",
      epoch: 7,
      parentEpoch: 6,
      planHash: "h",
      modelDigest: "d",
      ranks: [0, 1].map((rank) => ({ rank, podName: `p${rank}`, podUID: `u${rank}` })),
      layers: layers.map((plan, layer) => ({ layer, epoch: 7, ...encodeLayer(plan) })),
    },
    status: {
      ranks: [
        { rank: 0, hostedBytes: 2 ** 20, loadPercent: 104, state: "active" },
        { rank: 1, state: "draining" },
      ],
    },
  });
const two = placement([
  { hosts: [[0], [1], [0]], weights: [[1000], [1000], [1000]] },
  { hosts: [[1, 0], [1], [0]], weights: [[600, 400], [1000], [1000]] },
]);

test("experts: a cell is the share of an expert's rows, over all layers or in one", () => {
  const all = expertMap(two, undefined);
  assert.deepEqual(
    all.rows.map(({ rank, held, expertReplicas, weights }) => [rank, held, expertReplicas, weights]),
    [
      [0, 4, 1, [0.7, 0, 1]],
      [1, 3, 0, [0.3, 1, 0]],
    ],
  );
  assert.deepEqual(expertMap(two, 1).rows[0]?.weights, [0.4, 0, 1]);
  assert.throws(() => expertMap(two, 2), { code: "InvalidOption", message: "--layer: the plan has layers 0, 1" });
});

test("experts: the map in the terminal has a glyph for each share, and says what it means", () => {
  const lines = mapText(expertMap(two, undefined), 120).split("\n");
  assert.equal(lines[0], "ns/moe   epoch 7, 2 layers together, experts 0 to 2");
  assert.equal(lines[3], "   0 |* #|    4 experts,   1 secondary,  1.00 MiB, load 104%");
  assert.equal(lines[4], "   1 |:# |    3 experts,   0 secondary,         -, load -  draining");
  assert.match(lines.at(-1) ?? "", /blank none, \. to 20%.*# all; a cell is an expert$/);
});

test("experts: where a line has no room, neighbours share a cell, and the picture stays small", () => {
  const experts = Array.from({ length: 256 }, (_, e) => e % 2);
  const wide = expertMap(placement([{ hosts: experts.map((rank) => [rank]), weights: experts.map(() => [1000]) }]), undefined);
  const lines = mapText(wide, 80).split("\n");
  assert.ok(
    lines.slice(2, 5).every((line) => line.length <= 80),
    lines[3],
  );
  assert.match(lines.at(-1) ?? "", /a cell is 16 experts, their mean$/);
  const picture = mapSvg(wide);
  assert.equal(picture.match(/<rect [^>]*fill="rgb/g)?.length, 256);
  assert.ok(picture.startsWith("<svg ") && picture.includes('data-made-by="enodia experts"'));
});
