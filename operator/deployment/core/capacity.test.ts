import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, model } from "../../../test/kit/deployment/deployment.ts";
import { fit, limitRefusals, memoryRefusals, rankFloor, rememberedFloor, requestsPerRank } from "./capacity.ts";

const Mi = 2 ** 20;

test("requests at once are what the workers report, and the arithmetic says how many of what length", () => {
  const { spec } = deployment({ runtime: { kvPool: "4Mi", maxContext: 2048 } });
  assert.deepEqual(requestsPerRank(spec, model), {
    count: 64,
    reason:
      "while their contexts take 4096 tokens together: kvPool 4Mi / 1Ki a token; of the whole maxContext 2048, 2; raise kvPool for more",
  });
});

test("the floor is the least number of ranks that fit, and one less does not", () => {
  for (const perRank of [3 * Mi, 5 * Mi, 9 * Mi, 17 * Mi]) {
    const { spec } = deployment({ experts: { memoryPerRank: perRank } });
    const floor = rankFloor(spec, model, undefined);
    assert.ok(floor && fit(spec, model, floor.count, perRank).fits && !fit(spec, model, floor.count - 1, perRank).fits, `${perRank}`);
  }
  const { reason } = rankFloor(deployment({ experts: { memoryPerRank: 9 * Mi } }).spec, model, undefined) ?? {};
  assert.equal(reason, "16 experts need 16Mi; 9Mi per rank, of which 1Mi stage moves");
});

test("with oversubscription one rank is enough, unless its memory holds less than a token needs of a layer", () => {
  const of = (memoryPerRank: number) => deployment({ experts: { memoryPerRank, oversubscription: "Allow" } }).spec;
  const least = (model.topK + 1) * Mi;
  assert.equal(rankFloor(of(least), model, undefined)?.count, 1);
  assert.deepEqual(memoryRefusals(of(least), model, 1, undefined), []);
  assert.equal(rankFloor(of(least - 1), model, undefined), undefined);
  const [refusal] = memoryRefusals(of(least - 1), model, 8, undefined);
  assert.equal(refusal?.reason, "InsufficientExpertMemory");
  assert.match(refusal?.message ?? "", new RegExp(`memoryPerRank ${least / Mi}Mi$`));
});

test("the container's limit counts experts of a device's rank where they lie in the machine's memory, and device memory does not count", () => {
  const of = (deviceExpertMemory?: string) =>
    deployment({ experts: { memoryPerRank: "2Gi" }, runtime: { backend: "cuda", deviceExpertMemory } }).spec;
  assert.deepEqual(limitRefusals(of(), 2 ** 30), []);
  assert.equal(limitRefusals(of("12Gi"), 2 ** 30)[0]?.reason, "InsufficientMemoryLimit");
  assert.deepEqual(limitRefusals(of("12Gi"), 2 ** 31), []);
});

test("memory of kvOffload counts in the container's limit, beside the experts or alone", () => {
  const of = (memory: string, experts = {}) => deployment({ experts, runtime: { backend: "cpu", kvOffload: { memory } } }).spec;
  assert.match(limitRefusals(of("1Gi"), 2 ** 30)[0]?.message ?? "", /kvOffload\.memory 1Gi .* lower kvOffload\.memory/);
  assert.deepEqual(limitRefusals(of("512Mi"), 2 ** 30), []);
  const [refusal] = memoryRefusals(of("512Mi", { memoryPerRank: 512 * Mi }), model, 1, 2 ** 30);
  assert.match(refusal?.message ?? "", /kvOffload\.memory 512Mi/);
  assert.equal(rankFloor(of("512Mi"), model, 518 * Mi), undefined);
});

test("no floor where a rank's memory is not known, or holds no expert", () => {
  assert.equal(rankFloor(deployment().spec, model, undefined), undefined);
  assert.equal(rankFloor(deployment({ experts: { memoryPerRank: Mi } }).spec, model, undefined), undefined);
});

test("a new leader that has not heard of the model keeps to the floor in the status", () => {
  assert.deepEqual(rememberedFloor({ expertParallel: { leastRanks: 3, leastRanksReason: "why" } }), { count: 3, reason: "why" });
  assert.equal(rememberedFloor({}), undefined);
});
