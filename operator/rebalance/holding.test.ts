import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlacementPlan } from "../../crds/plan.ts";
import { unheld } from "./holding.ts";
import type { RankView } from "./observed.ts";

/** One layer: expert 0 on ranks 0 and 1, expert 1 on rank 1, experts 2 and 3 on rank 2. */
const plan = { epoch: 3, layers: [{ layer: 0, epoch: 3, hosts: [[0, 1], [1], [2], [2]], weights: [] }] } as unknown as PlacementPlan;

interface Facts {
  readonly usable?: boolean;
  readonly ready?: boolean;
  readonly epoch?: number;
  readonly held?: readonly number[];
}

function view(rank: number, { usable = true, ready = true, epoch = 3, held = [] }: Facts = {}): RankView {
  const hosted = new Map([[0, { layer: 0, epoch, experts: held }]]);
  return { rank, usable, report: { status: { ready, epoch }, hosted } } as unknown as RankView;
}

test("ranks that are ready hold what the plan gives them, whatever their last report says", () => {
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2)]), { unhosted: 0, withoutRank: 0, loading: [] });
  assert.deepEqual(unheld(undefined, [view(0)]), { unhosted: 0, withoutRank: 0, loading: [] });
});

test("experts of a rank that is gone are without a rank, unless another holds them", () => {
  assert.deepEqual(unheld(plan, [view(0), view(2)]), { unhosted: 1, withoutRank: 1, loading: [] });
  assert.deepEqual(unheld(plan, [view(0), view(1, { usable: false }), view(2)]), { unhosted: 1, withoutRank: 1, loading: [] });
});

test("a restarted rank holds what it reports: connected and empty it holds nothing", () => {
  const empty = { ready: false, epoch: 0 };
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2, empty)]), { unhosted: 2, withoutRank: 0, loading: [2] });
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2, { ready: false, held: [3] })]), { unhosted: 1, withoutRank: 0, loading: [2] });
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2, { ready: false, held: [2, 3] })]), { unhosted: 0, withoutRank: 0, loading: [] });
  assert.deepEqual(unheld(plan, [view(0), view(1, empty), view(2)]), { unhosted: 1, withoutRank: 0, loading: [1] });
});

test("a rank that has learnt nothing of the plan yet holds nothing of it, ready or not", () => {
  assert.deepEqual(unheld(plan, [view(0), view(1), view(2, { epoch: 0 })]), { unhosted: 2, withoutRank: 0, loading: [2] });
});
