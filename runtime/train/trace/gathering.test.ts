// Traces of several ranks: the steps that all of them made, clocks that are brought together, one axis, and the times of steps in few
// numbers.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { clocksAhead, Gathering, onOneAxis } from "./gathering.ts";
import type { Span } from "./spans.ts";
import { timesOf, worldsMeet } from "./spans.ts";
import { layersOf, rankTimes } from "./summary.ts";
import type { TracedStep } from "./traced-step.ts";

const span = (kind: Span["kind"], fromMs: number, toMs: number, more: Partial<Span> = {}): Span =>
  Object.assign({ kind, name: kind, layer: -1, fromMs, toMs }, more);

/** A step of a rank whose barrier is left at a time. */
const stepOf = (step: number, left: number, { epoch = 1, group = 0, spans = 2 } = {}): TracedStep => ({
  epoch,
  group,
  step,
  spans: [
    span("meeting", left - 3, left, { name: "receive squares" }),
    span("step", left - 10, left + 1, { name: `step ${step}` }),
    ...Array.from({ length: spans - 2 }, () => span("compute", left - 9, left - 8)),
  ],
});

const numbers = (gathering: Gathering): number[][] => gathering.common.map((own) => own.map(({ step }) => step));

test("the first steps that all ranks made are taken, and a rank that has told none has all wait", () => {
  const gathering = new Gathering({ ranks: 2, steps: 2, epoch: 1 });
  for (const step of [4, 5, 6]) gathering.add(0, stepOf(step, step));
  assert.deepEqual([gathering.made, numbers(gathering)], [0, [[], []]]);
  gathering.add(1, stepOf(6, 6));
  assert.deepEqual([gathering.made, gathering.over], [1, undefined]);
  gathering.add(0, stepOf(7, 7));
  gathering.add(1, stepOf(7, 7));
  assert.equal(gathering.over, "all steps were reported");
  gathering.add(1, stepOf(8, 8));
  assert.deepEqual(numbers(gathering), [
    [6, 7],
    [6, 7],
  ]);
});

test("worlds that meet have steps of their own, each as many", () => {
  const gathering = new Gathering({ ranks: 3, steps: 2, epoch: 1 });
  for (const [rank, group, steps] of [
    [0, 0, [10, 11, 12]],
    [1, 0, [11, 12]],
    [2, 1, [90]],
  ] as const)
    for (const step of steps) gathering.add(rank, stepOf(step, step, { group }));
  assert.deepEqual([gathering.made, gathering.over], [1, undefined]);
  gathering.add(2, stepOf(91, 91, { group: 1 }));
  assert.equal(gathering.over, "all steps were reported");
  assert.deepEqual(numbers(gathering), [
    [11, 12],
    [11, 12],
    [90, 91],
  ]);
});

test("a newer membership ends a trace, an older one is none of it, and so many spans are room for no more", () => {
  const changed = new Gathering({ ranks: 1, steps: 9, epoch: 2 });
  changed.add(0, stepOf(3, 3, { epoch: 1 }));
  changed.add(0, stepOf(4, 4, { epoch: 2 }));
  assert.deepEqual([numbers(changed), changed.over], [[[4]], undefined]);
  changed.add(0, stepOf(5, 5, { epoch: 3 }));
  assert.deepEqual([numbers(changed), changed.over], [[[4]], "the job's ranks changed"]);
  const full = new Gathering({ ranks: 1, steps: 9, epoch: 1, spansMax: 5 });
  full.add(0, stepOf(1, 1));
  assert.equal(full.over, undefined);
  full.add(0, stepOf(2, 2, { spans: 3 }));
  assert.deepEqual([full.over, full.made], ["there are too many spans", 2]);
});

test("clocks that differ by anything are brought together by what all ranks leave together", () => {
  const delays = fc.array(fc.double({ min: 0, max: 0.5, noNaN: true }), { minLength: 6, maxLength: 6 });
  fc.assert(
    fc.property(delays, fc.double({ min: -1e7, max: 1e7, noNaN: true }), (late, clock) => {
      const rankOf = (ahead: number, lateBy: readonly number[]) => ({
        name: "r",
        steps: lateBy.map((ms, i) => stepOf(i + 1, 100 * i + ms + ahead)),
      });
      const [zero = 0, other = 0] = clocksAhead([rankOf(0, [0, 0, 0]), rankOf(clock, late.slice(0, 3))]);
      assert.equal(zero, 0);
      assert.ok(Math.abs(other - clock) <= 0.5 + 1e-6, `${other} for ${clock}`);
    }),
  );
});

test("worlds without a barrier between them keep the clocks of their nodes, and so does a rank alone", () => {
  const ranks = [
    { name: "a", steps: [stepOf(1, 10)] },
    { name: "b", steps: [stepOf(1, 99, { group: 1 })] },
    { name: "c", steps: [{ ...stepOf(1, 10), group: 2, spans: [span("step", 0, 1)] }] },
  ];
  assert.deepEqual(clocksAhead(ranks), [0, 0, 0]);
});

test("the axis begins with the first span, order within a rank stays, and what was before its first step is left out", () => {
  const early = { ...stepOf(1, 50), spans: [span("meeting", 1, 2, { name: worldsMeet }), ...stepOf(1, 50).spans] };
  const [first, second] = onOneAxis([
    { name: "a", steps: [early, stepOf(2, 150)] },
    { name: "b", steps: [stepOf(1, 20), stepOf(2, 120)] },
  ]);
  assert.deepEqual(
    first?.spans.map(({ fromMs, toMs }) => [Math.round(fromMs), Math.round(toMs)]),
    [
      [7, 10],
      [0, 11],
      [107, 110],
      [100, 111],
    ],
  );
  assert.deepEqual(
    second?.spans.map(({ fromMs }) => Math.round(fromMs)),
    first?.spans.map(({ fromMs }) => Math.round(fromMs)),
  );
});

test("times are means of a step: what was under way of a layer, what nothing hid of it, and what lay between steps", () => {
  const of = (layer: number): Partial<Span> => ({ layer });
  const spans = [
    ...[span("step", 0, 100), span("step", 120, 200)],
    ...[span("compute", 0, 40, of(0)), span("spAG", 10, 60, of(1)), span("spAG", 20, 50, of(1)), span("dispatch", 60, 80, of(1))],
    ...[span("spRS", 150, 160, of(0)), span("meeting", 101, 111, { name: worldsMeet })],
    span("meeting", 201, 300, { name: worldsMeet }), // after the last step, as what else is there
  ];
  const times = rankTimes(spans);
  assert.deepEqual([times.steps, times.step, times.between, times.worlds], [2, 90, 10, 5]);
  assert.deepEqual(times.layers, [
    { layer: 0, compute: 20, dispatch: 0, spAG: 0, spRS: 5, exposed: 5 },
    { layer: 1, compute: 0, dispatch: 10, spAG: 25, spRS: 0, exposed: 10 },
  ]);
  const whole = timesOf(spans);
  for (const kind of ["compute", "dispatch", "meeting", "spRS", "spAG", "host"] as const) assert.equal(times[kind], whole[kind] / 2);
  const idle = rankTimes([span("step", 0, 10), span("compute", 0, 10, of(1))]);
  const layers = layersOf([times, idle]).map(({ layer, exposed, most, at, compute }) => [layer, compute, exposed, most, at]);
  assert.deepEqual(layers, [
    [0, 10, 2.5, 5, 0],
    [1, 5, 5, 10, 0],
  ]);
  assert.deepEqual([rankTimes([]).step, rankTimes([]).layers], [0, []]);
});
