// The autoscaler's decision as tables of single looks: which number, and the reason in one word.

import assert from "node:assert/strict";
import { test } from "node:test";
import { autoscaleOf, look, servingRanks, signals, start } from "../../../../test/kit/deployment/autoscale.ts";
import type { History } from "../../core/memory.ts";
import { type AutoscaleInput, decide } from "./desired-ranks.ts";

/** So many ranks were asked for in all of the last ten minutes. */
const since = (ranks: number): History => Array.from({ length: 121 }, (_, i) => ({ at: start - 600_000 + i * 5_000, ranks }));
const idle = { serving: servingRanks(3, 0), history: since(0) };
const busy = { serving: servingRanks(3, 480) };
const floor = { count: 3, reason: "16 experts need 16Mi" };
const unheard = [
  { rank: 0, signals: signals(0) },
  { rank: 1, signals: undefined },
];
const old = servingRanks(2, 200).map((one) => ({ ...one, signals: signals(100, { kvUse: undefined, tokensPerSecond: undefined }) }));
const up = (secondsAgo: number) => ({ time: new Date(start - secondsAgo * 1_000).toISOString(), from: 2, to: 3 });
const down = (secondsAgo: number) => ({ time: new Date(start - secondsAgo * 1_000).toISOString(), from: 4, to: 3 });
const kv = (target: number) => autoscaleOf({ metrics: [{ name: "kvUse", target }] });

const rows: Readonly<Record<string, { readonly given: Partial<AutoscaleInput>; readonly want: readonly [to: number, reason: string] }>> = {
  "load on its target changes nothing": { given: {}, want: [3, "AtTarget"] },
  "load a tenth above its target changes nothing": { given: { serving: servingRanks(3, 329) }, want: [3, "AtTarget"] },
  "load two tenths above its target wants one more": { given: { serving: servingRanks(3, 360) }, want: [4, "ScalingUp"] },
  "more load wants as many as share it": { given: busy, want: [5, "ScalingUp"] },
  "one step is no larger than its limit": {
    given: { ...busy, spec: autoscaleOf({ behaviour: { scaleUp: { maxRanks: 1 } } }) },
    want: [4, "ScalingUp"],
  },
  "a step waits for the period of the one before": { given: { ...busy, lastScale: up(14) }, want: [3, "StepLimit"] },
  "a step is made after the period": { given: { ...busy, lastScale: up(15) }, want: [5, "ScalingUp"] },
  "a step down is none before a step up": { given: { ...busy, lastScale: down(1) }, want: [5, "ScalingUp"] },
  "the most is kept": { given: { ...busy, spec: autoscaleOf({ max: 3 }) }, want: [3, "AtMaximum"] },
  "of two metrics the one that asks for more counts": {
    given: {
      serving: servingRanks(3, 3_000),
      spec: autoscaleOf({
        metrics: [
          { name: "kvUse", target: 100 },
          { name: "queuedTokensPerRank", target: 750 },
        ],
      }),
    },
    want: [4, "ScalingUp"],
  },
  "the attention cache is a percentage": { given: { serving: servingRanks(3, 6_000), spec: kv(40) }, want: [4, "ScalingUp"] },
  "tokens a second are scaled by, too": {
    given: { ...busy, spec: autoscaleOf({ metrics: [{ name: "tokensPerSecondPerRank", target: 240 }] }) },
    want: [4, "ScalingUp"],
  },
  "no traffic for the whole window takes one rank away": { given: idle, want: [2, "ScalingDown"] },
  "a larger number within the window keeps the ranks": {
    given: { ...idle, history: since(0).map((one, i) => (i === 70 ? { ...one, ranks: 3 } : one)) },
    want: [3, "Stabilizing"],
  },
  "a leader that has not seen a whole window takes nothing away": { given: { ...idle, history: [] }, want: [3, "Stabilizing"] },
  "one second less than the window is not enough": {
    given: { ...idle, history: since(0).filter(({ at }) => start - at < 300_000) },
    want: [3, "Stabilizing"],
  },
  "the least is kept": { given: { ...idle, spec: autoscaleOf({ min: 3 }) }, want: [3, "AtMinimum"] },
  "as many as hold all experts are kept": { given: { ...idle, floor }, want: [3, "AtMinimum"] },
  "as many as roles name are kept": { given: { ...idle, inRoles: 3 }, want: [3, "AtMinimum"] },
  "a number below the floor is put right": { given: { ...idle, replicas: 2, floor }, want: [3, "TooFewReplicas"] },
  "a number below the least is put right without a look at the load": {
    given: { replicas: 1, serving: unheard, spec: autoscaleOf({ min: 2 }) },
    want: [2, "SignalsMissing"],
  },
  "a number above the most is put right": { given: { replicas: 9 }, want: [8, "TooManyReplicas"] },
  "more than the most hold all experts: the most it is": {
    given: { floor: { ...floor, count: 99 }, spec: autoscaleOf({ max: 4 }) },
    want: [4, "TooFewReplicas"],
  },
  "a ready rank that is not heard freezes it": { given: { serving: unheard, history: since(0) }, want: [3, "SignalsMissing"] },
  "a metric that a rank does not report freezes it": { given: { serving: old, spec: kv(10) }, want: [3, "SignalsMissing"] },
  "what such a rank does report is scaled by": {
    given: { serving: old, replicas: 2, spec: autoscaleOf({ metrics: [{ name: "queuedTokensPerRank", target: 50 }] }) },
    want: [4, "ScalingUp"],
  },
  "a rank that is heard for a few seconds only is waited for": {
    given: { serving: [{ rank: 0, signals: signals(900, { spanMs: 9_000 }) }] },
    want: [3, "Measuring"],
  },
  "without a serving rank nothing is known": { given: { serving: [] }, want: [3, "NoRanks"] },
  "a roll keeps ranks from going": { given: { ...idle, operation: "Roll" }, want: [3, "OperationUnderWay"] },
  "a repair keeps ranks from going": { given: { ...idle, operation: "Repair" }, want: [3, "OperationUnderWay"] },
  "a lower maximum waits for a roll": { given: { replicas: 9, operation: "Roll" }, want: [9, "OperationUnderWay"] },
  "a roll keeps none from coming": { given: { ...busy, operation: "Roll" }, want: [5, "ScalingUp"] },
  "ranks that find no capacity go again though they are still to come": {
    given: { ...idle, operation: "Grow" },
    want: [2, "ScalingDown"],
  },
  "experts that move keep no rank from going": { given: { ...idle, operation: "Rebalance" }, want: [2, "ScalingDown"] },
  "half of the ranks that carry the load wants no more than all of them": {
    given: { replicas: 6, serving: servingRanks(3, 590), operation: "Grow" },
    want: [6, "AtTarget"],
  },
  "a suspended deployment is left alone": { given: { ...busy, suspended: true }, want: [3, "Suspended"] },
  "zero turns it off": { given: { replicas: 0, serving: [] }, want: [0, "ScaledToZero"] },
};

for (const [sentence, { given, want }] of Object.entries(rows))
  test(`autoscale: ${sentence}`, () => {
    const { to, verdict } = decide(look(given));
    assert.deepEqual([to, verdict.reason], want);
  });

test("autoscale: the message has figures, targets and what follows, and frozen is False", () => {
  assert.equal(decide(look(busy)).verdict.message, "queuedTokensPerRank 160/100; replicas 3 -> 5");
  const frozen = decide(look({ serving: unheard })).verdict;
  assert.equal(frozen.status, "False");
  assert.match(frozen.message, /^ranks 1 are ready and not heard, and what is not known is no reason to scale: nothing is scaled$/);
  const older = decide(look({ serving: old, spec: kv(10) })).verdict.message;
  assert.match(older, /^ranks 0, 1 do not report kvUse: nothing is scaled$/);
  assert.match(decide(look({ ...idle, floor })).verdict.message, /3 ranks are the least: as many hold all experts: 16 experts need 16Mi/);
});
