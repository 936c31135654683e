// Load messages as whoever reaches NATS could publish them, and as a worker that is broken would sign them: what is taken has the size
// that it says, and goes into a window without an error.
import assert from "node:assert/strict";
import { decodeLoad, encodeLoad, type LoadWindow } from "../../../crds/telemetry.ts";
import { LoadState } from "../../../operator/rebalance/load/load-state.ts";
import { openLoad, signLoad } from "../../../runtime/net/load-signature.ts";
import { telemetryKey } from "../../kit/ranks/telemetry-keys.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damaged, damagedJson, type Random } from "../mutate.ts";
import { chance, number, pick, text } from "../words.ts";

const [layers, experts] = [2, 4];
const keys = [telemetryKey(1), telemetryKey(2)];
const now = 1_800_000_000_000;

function counts(random: Random, cells: number): string {
  const bytes = Buffer.alloc(cells * 4);
  for (let i = 0; i < cells; i++) bytes.writeUInt32LE(chance(random, 5) ? 0xffffffff : random(1_000), i * 4);
  return bytes.toString("base64");
}

function messageOf(random: Random): object {
  const size = chance(random, 90) ? { layers, experts } : { layers: random(1_100), experts: random(5_000) };
  const cells = chance(random, 96) ? Math.min(size.layers * size.experts, 4_000) : random(64);
  const from = now - random(20_000);
  return {
    ...{ v: 1, deploymentUID: chance(random, 95) ? "uid" : text(random), rank: random(5), bootId: "boot", seq: random(20) },
    ...{ windowStart: from, windowEnd: chance(random, 90) ? from + 5_000 : number(random), phase: pick(random, ["prefill", "decode"]) },
    ...size,
    routed: counts(random, cells),
    served: counts(random, cells),
    ...(chance(random, 50) ? { seconds: { dense: rarely(random), experts: random(3) } } : {}),
    ...(chance(random, 50) ? { compute: computeOf(random) } : {}),
  };
}

/** A count, in one of fifty something else. */
const rarely = (random: Random): number => (chance(random, 2) ? number(random) : random(1_000));

const computeOf = (random: Random): object => ({
  ...{ runs: random(9), calls: random(99), rows: random(999), micros: rarely(random) },
  squares: Array.from({ length: chance(random, 97) ? 6 : random(9) }, () => rarely(random)),
  times: [random(9), random(9), rarely(random)],
  ...(chance(random, 50) ? { machine: `m${text(random)}` } : {}),
});

const expected = [0, 1, 2].map((rank) => ({ rank, bootId: "boot", clockAheadMs: rank === 2 ? undefined : 0, speed: 1 }));
const subject = { decode: decodeLoad, state: () => new LoadState({ layers, experts } as never, "uid", now - 10_000) };

export const loadMessages: Fuzzer<typeof subject, Buffer> = {
  name: "load-messages",
  share: 160,
  deadlineMs: 5_000,
  refusals: ["InvalidTelemetry"],
  start: () => subject,
  input(random) {
    const message = messageOf(random);
    const body = JSON.stringify(chance(random, 20) ? damagedJson(message, random) : message) ?? "";
    const signed = Buffer.from(signLoad(body, pick(random, keys)));
    if (chance(random, 10)) return damaged(signed, random, 120);
    // Damage behind the signature is what a worker with a fault would sign.
    return chance(random, 10)
      ? Buffer.from(signLoad(damaged(Buffer.from(body), random, 400).toString("latin1"), pick(random, keys)))
      : signed;
  },
  attempt({ decode, state }, bytes) {
    const opened = openLoad(bytes, keys.slice(0, 1));
    const body = opened.ok ? opened.body : bytes.subarray(bytes.indexOf(10) + 1);
    const window: LoadWindow = decode(body);
    assert.equal(window.routed.length, window.layers * window.experts);
    assert.equal(window.served.length, window.layers * window.experts);
    assert.deepEqual(decode(Buffer.from(encodeLoad(window))), window, "what is read is written alike");
    const seen = state();
    const first = seen.accept(window, expected, now);
    if (first.ok) assert.equal(seen.accept(window, expected, now).ok, false, "the same message counts twice");
  },
  plant: ({ state }) => ({ decode: unguarded(decodeLoad, /routed: /), state }),
};
