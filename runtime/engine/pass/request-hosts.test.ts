import assert from "node:assert/strict";
import { test } from "node:test";
import type { StepPart } from "../schedule/step-plan.ts";
import { RequestHosts } from "./request-hosts.ts";

const part = (id: string, from: number, tokens: number): StepPart => ({ id, from, past: 0, group: { tokens } as StepPart["group"] });

test("a request ends with the parts of its chosen experts by rank; replicas count for each, long steps are sampled, and it is forgotten", () => {
  const hosts = new RequestHosts((_layer, expert) => (expert === 0 ? [0, 1] : [2]));
  const chose = hosts.counterOf([part("a", 0, 2), part("b", 2, 1)], 3);
  const choseOfLong = hosts.counterOf([part("b", 0, 640)], 640);
  for (const [row, expert] of [
    [0, 0],
    [1, 0],
    [0, 0],
    [1, 1],
    [2, 1],
  ] as const)
    chose(row, 0, expert);
  for (let row = 0; row < 640; row++) choseOfLong(row, 0, row % 10 === 0 ? 1 : 0);
  const share = (rank: number, part: number) => ({ rank, share: part });
  assert.deepEqual(hosts.take("a"), [share(0, 0.75), share(1, 0.75), share(2, 0.25)]);
  assert.deepEqual(hosts.take("b"), [share(2, 1)], "every tenth row of 640");
  assert.deepEqual(hosts.take("a"), []);
});
