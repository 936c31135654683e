// Zero ranks as tables of single looks: when all may go, when some come back, and how long gateways hold requests meanwhile.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { autoscaleOf, look, servingRanks, signals, start } from "../../../../test/kit/deployment/autoscale.ts";
import type { GatewayView } from "../../core/world.ts";
import { type AutoscaleInput, decide } from "./desired-ranks.ts";
import { asking, type HoldLook, holdMs } from "./zero.ts";

const spec = autoscaleOf({ min: 2, scaleToZero: { idleAfter: "10m", holdTimeout: "2m" } });
const gateway = (more: Partial<GatewayView> = {}): GatewayView => ({
  ...{ name: "g", idleMs: 600_000, wantsRanks: false, holds: false },
  ...more,
});
const ranks = (activeRequests: number | undefined, load = 0) => servingRanks(3, load).map((one) => ({ ...one, activeRequests }));
const idle: Partial<AutoscaleInput> = { spec, gateways: [gateway()], serving: ranks(0) };
const scaled = (secondsAgo: number, from: number, to: number) => ({
  ...{ time: new Date(start - secondsAgo * 1_000).toISOString(), from, to },
});
const zero: Partial<AutoscaleInput> = { ...idle, replicas: 0, serving: [], lastScale: scaled(60, 3, 0), availableSince: undefined };
const wants = [gateway({ idleMs: 0, wantsRanks: true })];
const floor = { count: 3, reason: "16 experts need 16Mi" };

const rows: Readonly<Record<string, { readonly given: Partial<AutoscaleInput>; readonly want: readonly [to: number, reason: string] }>> = {
  "nobody has asked for as long as the spec says: all go at once": { given: idle, want: [0, "ScalingToZero"] },
  "one second less is not enough": { given: { ...idle, gateways: [gateway({ idleMs: 599_000 })] }, want: [3, "Stabilizing"] },
  "a spec that does not ask for it keeps its least": { given: { ...idle, spec: autoscaleOf({ min: 3 }) }, want: [3, "AtMinimum"] },
  "a request at one of several gateways keeps all": {
    given: { ...idle, gateways: [gateway(), gateway({ idleMs: 0 })] },
    want: [3, "Stabilizing"],
  },
  "a gateway that does not say keeps all": {
    given: { ...idle, gateways: [gateway(), gateway({ idleMs: undefined })] },
    want: [3, "Stabilizing"],
  },
  "no gateway at all keeps all": { given: { ...idle, gateways: [] }, want: [3, "Stabilizing"] },
  "a request at a rank keeps all": { given: { ...idle, serving: ranks(1) }, want: [3, "Stabilizing"] },
  "tokens that wait at a rank keep all": { given: { ...idle, serving: ranks(0, 3) }, want: [3, "Stabilizing"] },
  "a rank that is not heard keeps all": {
    given: { ...idle, serving: [...ranks(0), { rank: 3, signals: undefined }] },
    want: [3, "SignalsMissing"],
  },
  "a rank whose session has only just opened keeps all": {
    given: { ...idle, serving: [{ rank: 0, signals: signals(0, { spanMs: 0 }), activeRequests: 0 }] },
    want: [3, "Measuring"],
  },
  "ranks that have served for a shorter time stay": { given: { ...idle, availableSince: start - 599_000 }, want: [3, "Stabilizing"] },
  "ranks that do not serve yet are waited for": { given: { ...idle, serving: [], availableSince: undefined }, want: [3, "NoRanks"] },
  "a roll comes to its end first": { given: { ...idle, operation: "Roll" }, want: [3, "OperationUnderWay"] },
  "ranks that do not come are no reason to stay": { given: { ...idle, operation: "Grow" }, want: [0, "ScalingToZero"] },
  "at zero nothing is done while nobody asks": { given: zero, want: [0, "ScaledToZero"] },
  "at zero a gateway that is not heard asks for nothing": {
    given: { ...zero, gateways: [gateway({ idleMs: undefined })] },
    want: [0, "ScaledToZero"],
  },
  "a request brings the least": { given: { ...zero, gateways: wants }, want: [2, "Waking"] },
  "a request brings as many as hold all experts": { given: { ...zero, gateways: wants, floor }, want: [3, "Waking"] },
  "a request that came while the last rank went brings ranks": {
    given: { ...zero, gateways: [gateway({ idleMs: 50_000 })] },
    want: [2, "Waking"],
  },
  "a gateway that has started since and had no request asks for nothing": {
    given: { ...zero, gateways: [gateway({ idleMs: 50_000, unasked: true })] },
    want: [0, "ScaledToZero"],
  },
  "but one that has not been asked since it started is idle since then": {
    given: { ...idle, gateways: [gateway({ idleMs: 599_000, unasked: true })] },
    want: [3, "Stabilizing"],
  },
  "a zero that somebody else has set is theirs": {
    given: { ...zero, gateways: wants, lastScale: scaled(60, 2, 3) },
    want: [0, "ScaledToZero"],
  },
  "a zero that nobody wants any more ends": { given: { ...zero, spec: autoscaleOf({ min: 2 }) }, want: [2, "Waking"] },
  "while suspended nothing comes": { given: { ...zero, suspended: true, gateways: wants }, want: [0, "Suspended"] },
};
for (const [sentence, { given, want }] of Object.entries(rows))
  test(sentence, () => {
    const { to, verdict } = decide(look(given));
    assert.deepEqual([to, verdict.reason], want, verdict.message);
  });

test("the messages have since when, what is waited for, and who does not say", () => {
  const said = (given: Partial<AutoscaleInput>) => decide(look(given)).verdict;
  assert.equal(said(idle).message, "no request since 2026-03-01T09:50:00Z, for 10m: replicas 3 -> 0");
  const old = said({ ...idle, gateways: [gateway({ name: "old", idleMs: undefined })] });
  assert.match(old.message, /; not to zero: gateways old do not say whether anybody asks$/);
  assert.match(said(zero).message, /^at zero since \S+Z; 2 ranks come with the first request$/);
  assert.equal(said(zero).status, "True");
  assert.equal(said({ ...zero, lastScale: undefined }).status, "False");
  assert.equal(said({ ...zero, gateways: wants }).message, "replicas 0 -> 2: gateway g has requests that wait for ranks, or has started");
});

test("it never goes to zero while one gateway or rank is busy, unknown or idle for too short a time", () => {
  const times = fc.option(fc.nat(1_200_000), { nil: undefined });
  fc.assert(
    fc.property(
      fc.array(times, { maxLength: 4 }),
      fc.array(fc.option(fc.nat(2), { nil: undefined }), { maxLength: 4 }),
      (fronts, active) => {
        const gateways = fronts.map((idleMs) => gateway({ idleMs }));
        const serving = active.map((activeRequests, rank) => ({
          rank,
          signals: activeRequests === undefined ? undefined : signals(0),
          activeRequests,
        }));
        const mayGo = fronts.length > 0 && fronts.every((ms) => ms !== undefined && ms >= 600_000) && active.every((count) => count === 0);
        assert.equal(decide(look({ spec, gateways, serving, replicas: 3 })).to === 0, mayGo);
      },
    ),
  );
});

test("time that passes at zero is no request, however old a report is", () => {
  const since = scaled(0, 3, 0).time;
  const idleMs = (zeroMs: number) => 1_000 + zeroMs; // the shortest time that a spec may say
  for (const zeroMs of [0, 1_000, 60_000, 86_400_000])
    for (const late of [0, 1_000, 1_900])
      assert.equal(
        asking([gateway({ idleMs: Math.max(0, idleMs(zeroMs) - late) })], since, start + zeroMs),
        undefined,
        `${zeroMs} ${late}`,
      );
});

const { scaleToZero: _, ...without } = spec;
const holding: HoldLook = {
  ...{ spec: { replicas: 0, suspend: false }, autoscale: spec, lastScale: { from: 3, to: 0 } },
  ...{ operation: undefined, present: 0, anyActive: false, known: undefined },
};
const two = { replicas: 2, suspend: false };
const woken: HoldLook = { ...holding, spec: two, lastScale: { from: 0, to: 2 }, operation: "Start", present: 2 };
const held: Readonly<Record<string, { readonly given: HoldLook; readonly want: boolean }>> = {
  "at zero requests are held": { given: holding, want: true },
  "at a zero of which no status tells whose it is they are held, too": { given: { ...holding, lastScale: { from: 2, to: 3 } }, want: true },
  "at a zero of somebody else's they are refused": { given: { ...holding, known: "others" }, want: false },
  "while suspended they are refused": { given: { ...holding, spec: { replicas: 0, suspend: true } }, want: false },
  "a spec that does not scale to zero has them refused": { given: { ...holding, autoscale: without }, want: false },
  "on the way to zero they are held before the last rank goes": {
    given: { ...woken, lastScale: undefined, known: "going", anyActive: true },
    want: true,
  },
  "until the first rank is back they are held": { given: woken, want: true },
  "before the raised number has taken effect they are held": { given: { ...woken, operation: "Stop", present: 0 }, want: true },
  "and when no status tells yet that it was raised": { given: { ...woken, lastScale: { from: 3, to: 0 } }, want: true },
  "with the first rank it is over": { given: { ...woken, anyActive: true }, want: false },
  "an outage later is an outage": { given: { ...woken, operation: "Repair" }, want: false },
  "ranks that were never at zero are waited for as ever": { given: { ...woken, lastScale: { from: 3, to: 2 } }, want: false },
};
for (const [sentence, { given, want }] of Object.entries(held)) test(sentence, () => assert.equal(holdMs(given), want ? 120_000 : 0));
