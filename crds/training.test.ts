// The spec of a training job beyond its schema, and what its pod says to the operator.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { moeTrainingJobSpecSchema, trainingProblems } from "./moe-training-job.ts";
import { fitsIn } from "./training-check.ts";
import {
  type CurvePoint,
  copiesMax,
  curvePointsMax,
  endBytesMax,
  joinCurves,
  parseTrainingEnd,
  trainingEndText,
} from "./training-report.ts";

const least = {
  model: { uri: "pvc://a/b" },
  data: { uri: "pvc://a/c" },
  steps: 10,
  memoryPerRank: "1Gi",
  output: { uri: "pvc://a/d" },
};
const gpu = { spec: { containers: [{ name: "runtime", resources: { limits: { "nvidia.com/gpu": 1 } } }] } };

const refused: Record<string, { readonly spec: object; readonly want: RegExp }> = {
  "more ranks than micro-batches": {
    spec: { replicas: 9, elasticity: { maxReplicas: 9 } },
    want: /TooFewMicroBatches spec\.replicas is 9, spec\.batch\.microBatches is 8.*set it to 8 at most/,
  },
  "a maximum above its micro-batches": {
    spec: { batch: { microBatches: 2 }, elasticity: { maxReplicas: 3 } },
    want: /spec\.elasticity\.maxReplicas is 3/,
  },
  "fewer micro-batches at once than ranks": {
    spec: { elasticity: { maxReplicas: 4 }, fssdp: { microBatchesAtOnce: 2 } },
    want: /OutOfRange spec\.fssdp\.microBatchesAtOnce is 2; it must be Auto, or a power of two from elasticity\.maxReplicas \(4\) to batch\.microBatches \(8\)/,
  },
  "more ranks than the micro-batches of all its worlds": {
    spec: { elasticity: { maxReplicas: 17 }, local: { recipe: "fedavg:5", data: ["pvc://a/e"] } },
    want: /elasticity\.maxReplicas is 17, spec\.batch\.microBatches is 8 in each of 2 worlds: .*set it to 16 at most/,
  },
  "fewer micro-batches at once than a world may have ranks": {
    spec: { elasticity: { maxReplicas: 5 }, local: { recipe: "fedavg:5", data: ["pvc://a/e"] }, fssdp: { microBatchesAtOnce: 2 } },
    want: /from the ranks of one of 2 worlds \(3\) to batch\.microBatches \(8\)/,
  },
  "no micro-batch at once": { spec: { fssdp: { microBatchesAtOnce: 0 } }, want: /spec\.fssdp\.microBatchesAtOnce is 0/ },
  "micro-batches at once that are no power of two": {
    spec: { fssdp: { microBatchesAtOnce: 3 } },
    want: /spec\.fssdp\.microBatchesAtOnce is 3/,
  },
  "more micro-batches at once than there are": {
    spec: { fssdp: { microBatchesAtOnce: 16 } },
    want: /spec\.fssdp\.microBatchesAtOnce is 16/,
  },
  "no learning rate": {
    spec: { optimizer: { learningRate: "0" } },
    want: /OutOfRange spec\.optimizer\.learningRate is 0; it must be above 0/,
  },
  "a momentum that forgets nothing": { spec: { optimizer: { beta1: "1" } }, want: /optimizer\.beta1 is 1; it must be below 1/ },
  "a floor above the rate": { spec: { schedule: { floor: "1.5" } }, want: /schedule\.floor is 1\.5; it must be from 0 to 1/ },
  "a mask of everything": {
    spec: { spawn: { step: 5, mask: "1" } },
    want: /OutOfRange spec\.spawn\.mask is 1; it must be from 0 to below 1/,
  },
  "fewer pods before its spawn than it may have": {
    spec: { replicas: 2, elasticity: { minReplicas: 2, maxReplicas: 2 }, spawn: { step: 5 } },
    want: /spec\.spawn\.replicasBefore is 1, spec\.elasticity\.minReplicas is 2; raise the one or lower the other/,
  },
  "a GPU": { spec: { podTemplate: gpu }, want: /GPUUnsupported spec\.podTemplate.*nvidia\.com\/gpu.*leave it out/ },
};
for (const [sentence, { spec, want }] of Object.entries(refused)) {
  test(`a training job with ${sentence} is refused with the field and the remedy`, () => {
    const problems = trainingProblems(moeTrainingJobSpecSchema.parse({ ...least, ...spec }));
    assert.match(problems.map(({ reason, message }) => `${reason} ${message}`).join("\n"), want);
  });
}

test("a training job with defaults is refused nothing, and neither is one with as many ranks as micro-batches", () => {
  assert.deepEqual(trainingProblems(moeTrainingJobSpecSchema.parse(least)), []);
  const few = moeTrainingJobSpecSchema.parse({ ...least, elasticity: { maxReplicas: 2 }, fssdp: { microBatchesAtOnce: 4 } });
  assert.deepEqual(trainingProblems(few), []);
  const eight = moeTrainingJobSpecSchema.parse({ ...least, replicas: 8, elasticity: { maxReplicas: 8 } });
  assert.deepEqual(trainingProblems(eight), []);
  const local = { recipe: "fedavg:5", data: ["pvc://a/e"] };
  const meet = { ...least, replicas: 16, elasticity: { minReplicas: 2, maxReplicas: 16 }, local };
  assert.deepEqual(trainingProblems(moeTrainingJobSpecSchema.parse({ ...meet, fssdp: { microBatchesAtOnce: 8 } })), []);
});

test("the time that a step is waited for is Auto or within its bounds, and else refused with both", () => {
  const parsed = (stepTimeout: string) => moeTrainingJobSpecSchema.safeParse({ ...least, failurePolicy: { stepTimeout } });
  for (const given of ["Auto", "5s", "10m", "1m30s"]) assert.equal(parsed(given).data?.failurePolicy.stepTimeout, given);
  for (const given of ["4s", "11m", "soon", "auto", "5"]) assert.match(`${parsed(given).error?.message}`, /Auto/, given);
});

const ascending = (from: number, steps: readonly number[]): CurvePoint[] =>
  [...new Set(steps)].sort((a, b) => a - b).map((step) => ({ step: from + step, loss: step }));

test("joined curves have ascending steps, few points, and both ends", () => {
  const steps = fc.array(fc.nat(100_000), { maxLength: 200 });
  fc.assert(
    fc.property(steps, steps, fc.nat(100_000), (a, b, from) => {
      const [before, since] = [joinCurves([], ascending(0, a)), ascending(from, b)];
      const joined = joinCurves(before, since);
      assert.ok(joined.length <= curvePointsMax);
      for (const [i, { step }] of joined.entries()) assert.ok(i === 0 || step > (joined[i - 1]?.step ?? 0));
      assert.deepEqual(joined.at(-1), since.at(-1) ?? before.at(-1));
      const kept = before.find(({ step }) => step < (since[0]?.step ?? Number.POSITIVE_INFINITY)) ?? since[0];
      assert.deepEqual(joined[0], kept);
    }),
    { numRuns: 200 },
  );
});

test("steps that are made again take the place of the former", () => {
  const joined = joinCurves(
    [1, 2, 3].map((step) => ({ step, loss: 1 })),
    [{ step: 2, loss: 7 }],
  );
  assert.deepEqual(joined, [
    { step: 1, loss: 1 },
    { step: 2, loss: 7 },
  ]);
});

test("the end of a pod fits what the kubelet passes on, whatever is said, and is read back", () => {
  const curve = Array.from({ length: curvePointsMax }, (_, i) => ({ step: 90_000_000 + i, loss: 10.12345678901234 }));
  for (const letter of ["x", "ä", "\u0001", "\ud83d\ude00"]) {
    const text = trainingEndText({
      outcome: "Failed",
      code: "BadData",
      retry: false,
      message: letter.repeat(5000),
      report: { step: 1, curve },
    });
    assert.ok(Buffer.byteLength(text) <= endBytesMax, letter);
    const end = parseTrainingEnd(text);
    assert.equal(end?.code, "BadData", letter);
    assert.equal(end?.retry, false, letter);
  }
  const third = 100 / 3;
  const ratios = { imbalanceAtPrimaries: third, imbalance: third, copied: 1 / 3, exposedSeconds: third };
  const measured = {
    spread: { ...ratios, bytes: Number.MAX_SAFE_INTEGER, expertShares: [1 / 3, 1 / 3, 1 / 3, 1 / 3] },
    loss: third,
    validationLoss: third,
    gradientNorm: third,
    imbalance: third,
    tokensPerSecond: third,
    secondsLeft: third,
  };
  const report = { step: 90_000_000, curve, ...measured };
  const whole = parseTrainingEnd(trainingEndText({ outcome: "Complete", report }));
  assert.deepEqual(whole?.report, report, "a report with all points fits");
  const ranks = Array.from({ length: copiesMax.ranks }, (_, i) => 1000 + i);
  const most = Array.from({ length: copiesMax.experts }, (_, expert) => ({ expert, ranks }));
  const copies = Array.from({ length: copiesMax.layers }, (_, layer) => ({ layer, experts: 256, copied: 200, most }));
  const ended = trainingEndText({ outcome: "Complete", report: { ...report, copies } });
  assert.deepEqual(parseTrainingEnd(ended)?.report, report, "copies take the place of nothing");
});

test("an end is read even where its report cannot be", () => {
  const end = parseTrainingEnd('{"outcome":"Complete","report":{"step":9,"validationLoss":null}}');
  assert.deepEqual([end?.outcome, end?.report], ["Complete", undefined]);
  const failed = parseTrainingEnd('{"outcome":"Failed","code":"BadData","retry":false,"report":7}');
  assert.deepEqual([failed?.code, failed?.retry], ["BadData", false]);
});

test("a curve that no run has is cut to what one may have", () => {
  const points = [5, 3, 4, 9, 9, 2].map((step) => ({ step, loss: 1 }));
  assert.deepEqual(
    joinCurves(points, [{ step: 20, loss: Number.NaN }, { step: 10, loss: 1 }, ...points]).map(({ step }) => step),
    [5, 9, 10],
  );
});

test("a message that no training pod wrote is none", () => {
  for (const text of [undefined, "", "OOM", "{}", '{"outcome":"Won"}', '{"outcome":"Failed","code":"lower case"}'])
    assert.equal(parseTrainingEnd(text), undefined, text);
});

test("what a check found is read back whatever it says beside it, and a stranger's numbers are none", () => {
  const sizes = { leastRanks: 3, alone: true };
  for (const letter of ["x", "\u0001", "\ud83d\ude00"]) {
    const end = parseTrainingEnd(trainingEndText({ outcome: "Fits", sizes, message: letter.repeat(5000) }));
    assert.deepEqual([end?.outcome, end?.sizes], ["Fits", sizes], letter);
  }
  assert.deepEqual(parseTrainingEnd('{"outcome":"Fits","sizes":{"leastRanks":0}}'), { outcome: "Fits", sizes: undefined });
});

test("numbers of ranks fit from the least on, and one alone by itself, in each of the worlds that they are dealt to", () => {
  const fitting = (sizes: Parameters<typeof fitsIn>[0], worlds = 1) => [1, 2, 3, 4, 5, 6].filter((ranks) => fitsIn(sizes, ranks, worlds));
  assert.deepEqual(fitting({ leastRanks: 3, alone: false }), [3, 4, 5, 6]);
  assert.deepEqual(fitting({ leastRanks: 3, alone: true }), [1, 3, 4, 5, 6]);
  assert.deepEqual(fitting({ alone: true }), [1]);
  assert.deepEqual(fitting({ leastRanks: 2, alone: false }, 2), [4, 5, 6]);
  assert.deepEqual(fitting({ leastRanks: 3, alone: true }, 2), [2, 6]);
});
