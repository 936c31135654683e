// One deployment's load comes on NATS, on Control or both: each message counts once, and a rank that NATS brings is known as such.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LoadWindow } from "../../../crds/telemetry.ts";
import { deployment } from "../../../test/kit/deployment/deployment.ts";
import { ManualClock } from "../../../test/kit/manual-clock.ts";
import { signedLoad, telemetryKey } from "../../../test/kit/ranks/telemetry-keys.ts";
import type { World } from "../../deployment/ports.ts";
import { LoadState } from "../load/load-state.ts";
import { Intake } from "./intake.ts";
import { Telemetry } from "./load-messages.ts";
import { Quota } from "./quota.ts";

const staleAfterMs = 30_000;
const sizes = new Float64Array(1).fill(1);
const expected = [{ rank: 0, bootId: "b", clockAheadMs: 0, speed: 1 }];

function listening(natsUrl?: string) {
  const clock = new ManualClock();
  const counted: string[] = [];
  let onNats: (message: Uint8Array) => void = () => {};
  const status = { connected: true, reason: "Connected" };
  const quota = new Quota({ now: () => clock.now(), onOver: () => {} });
  const intake = new Intake({
    quota,
    clock,
    metrics: { add: (name: string, _: number, { reason = "" }) => void counted.push(`${name} ${reason}`.trim()) } as never,
    nats: () => (natsUrl === undefined ? undefined : { url: natsUrl, credentials: undefined }),
    telemetryKeys: () => ({ keys: [telemetryKey(1)] }),
    telemetry: new Telemetry(() => ({
      status,
      subscribe: (_, handler) => {
        onNats = (message) => handler(message, "");
        return () => {};
      },
      close: async () => {},
    })),
  });
  const load = new LoadState({ layers: 1, experts: 1, residentBytes: sizes, storedBytes: sizes }, "uid", clock.now());
  const world = { ref: { namespace: "ns", name: "moe" }, uid: "uid", spec: deployment().spec } as unknown as World;
  intake.listen({ world, expected, load });
  const message = (seq: number, at = clock.now() + seq): Uint8Array => {
    const counts = Uint32Array.of(5);
    const head = { v: 1, deploymentUID: "uid", rank: 0, bootId: "b", seq, windowStart: at, windowEnd: at } as const;
    return signedLoad({ ...head, phase: "decode", layers: 1, experts: 1, routed: counts, served: counts } satisfies LoadWindow);
  };
  return { clock, intake, status, counted, load, message, onNats: (bytes: Uint8Array) => onNats(bytes) };
}

test("a message that comes on both ways counts once, whichever was first", () => {
  const { intake, counted, load, message, onNats } = listening("nats://n:4222");
  for (const [seq, ways] of [
    [intake.take.bind(intake), onNats],
    [onNats, intake.take.bind(intake)],
  ].entries())
    for (const way of ways) way(message(seq + 1));
  assert.equal(load.windows.openSelections(), 10);
  const [taken, refused] = ["enodia_telemetry_samples_total", "enodia_telemetry_dropped_total duplicate"];
  assert.deepEqual(counted, [taken, refused, taken, refused]);
});

test("a rank is heard on NATS until that is away, or has not brought it for too long; one that Control brings is not", async () => {
  const { clock, intake, status, message, onNats } = listening("nats://n:4222");
  const heard = () => intake.hearsOnNats(0, clock.now(), staleAfterMs);
  assert.equal(heard(), true, "it has had no time yet");
  await clock.advance(staleAfterMs + 1);
  intake.take(message(1));
  assert.equal(heard(), false);
  onNats(message(1));
  assert.equal(heard(), true, "also what came before on Control");
  status.connected = false;
  assert.equal(heard(), false);
});

test("without a NATS server all load comes on Control, and what nobody signed is refused there too", () => {
  const { clock, intake, counted, load, message } = listening();
  assert.equal(intake.hearsOnNats(0, clock.now(), staleAfterMs), false);
  intake.take(message(1).subarray(80));
  intake.take(new Uint8Array(2 ** 20 + 1));
  intake.take(message(1));
  assert.equal(load.windows.openSelections(), 5);
  assert.deepEqual(
    counted.map((one) => one.split(" ")[1]),
    ["unsigned", "too_large", undefined],
  );
});
