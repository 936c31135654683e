// The silence of a node: when it is a loss, and when it is not.

import assert from "node:assert/strict";
import { test } from "node:test";
import { member, pod, view } from "../../../test/kit/deployment/deployment.ts";
import type { ObservedPod } from "../core/snapshot.ts";
import type { MemberView } from "../core/world.ts";
import { withLosses } from "./pod-facts.ts";

const silent = (rank: number, more: Partial<ObservedPod> = {}) => pod(rank, { silent: true, ...more });
const gone = (rank: number) => member(rank, { connected: false, active: false });
const lost = (pods: ObservedPod[], members: MemberView[], warmingUp = false) =>
  withLosses(pods, view({ members }), warmingUp).flatMap((one) => (one.lost ? [one.rank] : []));
const three = [member(0), member(1), member(2)];

test("a rank is lost when neither its node nor its stream answers", () => {
  const pods = [pod(0), pod(1), silent(2)];
  assert.deepEqual(lost(pods, [member(0), member(1), gone(2)]), [2]);
  assert.deepEqual(lost(pods, three), [], "its stream answers: it serves on");
  assert.deepEqual(lost(pods, [member(0), member(1), member(2, { active: false })]), [], "it loads, or is emptied");
  assert.deepEqual(lost([pod(0), pod(1), pod(2)], [member(0), member(1), gone(2)]), [], "the stream alone is the rebalance plane's");
  assert.deepEqual(lost(pods, [member(0), member(1)]), [2], "nobody ever reached it");
});

test("a new leader waits for what it has not reached yet, and for nothing else", () => {
  const pods = [pod(0), pod(1), silent(2)];
  assert.deepEqual(lost(pods, [], true), []);
  assert.deepEqual(lost(pods, [member(2, { bootId: "", connected: false })], true), []);
  assert.deepEqual(lost(pods, [gone(2)], true), [2]);
});

test("when more than half of the nodes in use are silent nothing is lost, and the pods say so", () => {
  const all = [silent(0), silent(1), pod(2)];
  assert.deepEqual(lost(all, [gone(0), gone(1), member(2)]), []);
  const said = withLosses(all, view({ members: [gone(0), member(1), member(2)] }), false).map((one) => one.problem);
  assert.match(said[0] ?? "", /node node-0 does not answer; nor do 2 of the 3 nodes in use: no pod is deleted/);
  assert.match(said[1] ?? "", /node node-1 does not answer; its rank does/);
  assert.equal(said[2], "");
  assert.deepEqual(lost([silent(0), silent(1), pod(2), pod(3)], [gone(0), gone(1)]), [0, 1], "half is not more than half");
  assert.deepEqual(lost([silent(0)], [gone(0)]), [0], "a single node that fails is a failure of that node");
  assert.deepEqual(lost([silent(0), silent(1, { node: "node-0" }), pod(2)], [gone(0), gone(1)]), [0, 1], "two ranks on it or one");
});
