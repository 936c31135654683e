// Two ranks that prefill at the same time, in halves or whole, each with experts that are all on the other: whatever the times on the wire,
// both get on. The experts and the wire are stand-ins; steps and turns are the real ones.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import type { RemoteFrame } from "./api.ts";
import type { ExpertWork, PairBatch } from "./pass/expert-table.ts";
import { FrameInbox } from "./pass/frame-inbox.ts";
import { FrameScheduler } from "./pass/frame-scheduler.ts";
import { Mutex } from "./pass/mutex.ts";
import { forward } from "./pass/step.ts";
import type { StepTools } from "./pass/step-tools.ts";
import { RanksInStep } from "./schedule/ranks-in-step.ts";

const tokens = 64;
const layers = 2;
/** Milliseconds on the wire, at most. */
const wireMs = 12;

class Rank {
  readonly scheduler: FrameScheduler;
  readonly inbox: FrameInbox;
  readonly #tools: StepTools;
  #sent = 0;
  peer: Rank | undefined;

  constructor(overlapped: boolean, random: () => number) {
    const experts = {
      lock: new Mutex(),
      has: () => true,
      prepare: (batch: PairBatch): ExpertWork => {
        const order = [...batch.pairExperts.keys()];
        return {
          batch,
          origin: "local",
          layer: batch.layer,
          phase: batch.phase,
          programs: new Map(),
          order,
          out: new Float32Array(order.length),
        };
      },
      release: () => {},
      compute: async () => {},
    };
    this.inbox = new FrameInbox(experts as any, () => performance.now(), new RanksInStep([]));
    this.scheduler = new FrameScheduler({
      experts,
      poll: () => undefined,
      takeMessages: () => {},
      inbox: this.inbox,
      pendingAnswers: () => this.#sent,
      waitMs: 20,
      now: () => performance.now(),
      yieldProcessor: () => {},
    });
    const layer = { kind: "moe", topK: 1, experts: 2, block: { outputs: [{ name: "h", width: 1 }] } };
    const rows = (n: number) => ({ data: new Float32Array(n) });
    this.#tools = {
      program: { layers: Array.from({ length: layers }, () => layer), hidden: 1 },
      embed: { run: async ({ ids }: any) => ({ x: { data: Float32Array.from(ids.data) } }) },
      blocks: Array.from({ length: layers }, () => ({
        run: async ({ x: { data } }: any) => {
          const n = data.length;
          return { h: rows(n), f: rows(n), gates: rows(n), ids: { data: new Int32Array(n) } };
        },
      })),
      ...{ experts, counter: { routed: () => {} }, times: { add: () => {} } },
      router: () => ({ rank: 0, table: { route: () => 1, epochOf: () => 1 } }),
      dispatch: async (frame: RemoteFrame) => {
        this.#sent += 1;
        await pause(1 + wireMs * random());
        const answered = this.peer?.inbox.serve(Object.assign(frame, { origin: "remote" as const }));
        void this.peer?.scheduler.serveWaiting(); // as the loop does when a message comes
        const answer = (await answered) as Float32Array;
        await pause(1);
        this.#sent -= 1;
        return answer;
      },
      ...{ scheduler: this.scheduler, allocators: { prefill: [], decode: [] }, overlap: { wants: () => overlapped, took: () => {} } },
    } as any;
  }

  async prefill(): Promise<void> {
    this.scheduler.running = "prefill";
    const kv = { cache: {} as any, groups: [{ firstSlot: 0, batch: 1, tokens, past: Int32Array.of(0) }] };
    await forward(this.#tools, new Int32Array(tokens), kv, 0);
    await this.scheduler.betweenGraphs();
    this.scheduler.running = undefined;
    void this.scheduler.serveWaiting();
  }
}

/** Numbers in [0, 1), the same for a seed. */
function sequence(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 16_807) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

for (const overlapped of [false, true]) {
  test(`two ranks that prefill at once ${overlapped ? "in halves" : "whole"} get on`, async () => {
    const worlds = Array.from({ length: 60 }, async (_, seed) => {
      const random = sequence(seed + 1);
      const [a, b] = [new Rank(overlapped, random), new Rank(overlapped, random)];
      [a.peer, b.peer] = [b, a];
      const stuck = new AbortController();
      const ended = await Promise.race([
        Promise.all([a.prefill(), b.prefill()]).then(() => "ended"),
        pause(30_000, "stuck", { signal: stuck.signal }).catch(() => "ended"),
      ]);
      stuck.abort();
      return ended;
    });
    assert.deepEqual(new Set(await Promise.all(worlds)), new Set(["ended"]));
  });
}
