import assert from "node:assert/strict";
import { test } from "node:test";
import type { RankView } from "./members.ts";
import { rebalanceView, type ViewInput } from "./view.ts";

const rank = (number: number, device: string) =>
  ({
    rank: number,
    pod: { uid: `pod-${number}` },
    usable: true,
    mismatch: false,
    state: "active",
    link: { description: { device } },
  }) as unknown as RankView;

const input = (views: readonly RankView[]): ViewInput => ({
  name: "moe",
  views,
  shape: { layers: 1, experts: 1, storedBytes: new Float64Array(1), residentBytes: new Float64Array(1) } as unknown as ViewInput["shape"],
  plan: undefined,
  ranks: [],
  drains: [],
  rollout: undefined,
  decision: undefined,
  measured: undefined,
  bound: undefined,
  waiting: undefined,
  telemetry: { bus: undefined, ageMs: 0, staleAfterMs: 0, reporting: 0, expected: 0, lastSampleMs: 0 },
  lastRebalance: undefined,
});

test("ModelAvailable names each kind of device that ranks took, once", () => {
  const views = [rank(0, "webgpu: NVIDIA H100"), rank(1, "cpu: EPYC, 8 threads"), rank(2, "webgpu: NVIDIA H100")];
  const { status, message } = rebalanceView(input(views)).modelAvailable;
  assert.equal(status, "True");
  assert.equal(message, "all connected ranks hold the same model, on cpu: EPYC, 8 threads; webgpu: NVIDIA H100");
});
