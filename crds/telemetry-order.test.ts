import assert from "node:assert/strict";
import { test } from "node:test";
import { MessageOrder } from "./telemetry-order.ts";

type Message = Parameters<MessageOrder["take"]>[0];
const message = (seq: number, windowStart: number, windowEnd: number, phase: Message["phase"] = "decode"): Message => {
  return { seq, phase, windowStart, windowEnd };
};

/** Two windows of a process that was heard from its start. */
function heard(): MessageOrder {
  const order = new MessageOrder();
  for (const [seq, end] of [
    [1, 1_000],
    [3, 2_000],
  ] as const) {
    assert.equal(order.take(message(seq, end - 1_000, end, "prefill")), undefined);
    assert.equal(order.take(message(seq + 1, end - 1_000, end)), undefined);
  }
  return order;
}

const cases: Record<string, { readonly of: Message; readonly want: ReturnType<MessageOrder["take"]> }> = {
  "the next message": { of: message(5, 2_000, 3_000), want: undefined },
  "one after others that were lost": { of: message(9, 3_000, 4_000), want: undefined },
  "one after an hour without NATS": { of: message(7_000, 3_600_000, 3_601_000), want: undefined },
  "one that comes again": { of: message(4, 1_000, 2_000), want: "duplicate" },
  "one that jumps to the last number there is": { of: message(2 ** 32, 2_000, 3_000), want: "bad_seq" },
  "one with a number that its time has no room for": { of: message(30, 2_000, 3_000), want: "bad_seq" },
  "a window that is counted already": { of: message(5, 1_500, 3_000), want: "bad_window" },
  "a window that ends before it begins": { of: message(5, 3_000, 2_500), want: "bad_window" },
  "a window of more than an hour": { of: message(5, 2_000, 2_001 + 3_600_000), want: "bad_window" },
};
for (const [name, { of, want }] of Object.entries(cases)) {
  test(`${name} is ${want ?? "in order"}, and a refused one mutes nobody`, () => {
    const order = heard();
    assert.equal(order.take(of), want);
    if (want !== undefined) assert.equal(order.take(message(5, 2_000, 3_000)), undefined);
  });
}
