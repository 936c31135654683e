// Leaders whose clock is wrong: what pods and certificates suffer by it, and until when.
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ref, serving, world } from "../../test/kit/deployment/moe-world.ts";
import { until } from "../../test/kit/wait.ts";
import { resources } from "../kube/kube.ts";

for (const wrongMs of [1_500_000, -1_500_000])
  test(`a leader whose clock is ${wrongMs / 60_000} min ahead gives a pod that leaves its whole time, and no more`, async (t) => {
    const moe = await serving(t);
    await moe.stop();
    moe.kubelet.stop();
    const { metadata, spec } = moe.podOf(1);
    const graceMs = spec.terminationGracePeriodSeconds * 1000;
    await moe.kube.delete(resources.pods, { ...ref, name: metadata.name });
    let passedMs = 0;
    const after = async (ms: number) => {
      passedMs = ms;
      for (let i = 0; i < 5; i++, await sleep(20)) moe.wake();
      return moe.uids.includes(metadata.uid);
    };
    await moe.start({ now: () => new Date(Date.now() + wrongMs + passedMs) });
    assert.deepEqual([await after(0), await after(graceMs + 5_000)], [true, true]);
    await until("it is removed by force", async () => !(await after(graceMs + 10_000)));
  });

test("a certificate that a leader made whose clock was ahead is made again once the clock is right", async (t) => {
  const moe = await world(t, {});
  let aheadMs = 2 * 3_600_000;
  await moe.start({ now: () => new Date(Date.now() + aheadMs) });
  await moe.serves(3);
  const valid = () =>
    moe
      .all("secrets")
      .flatMap(({ data }) => ["ca.crt", "tls.crt"].flatMap((entry) => (data[entry] ? [Buffer.from(data[entry], "base64").toString()] : [])))
      .every((pem) => Date.parse(new X509Certificate(pem).validFrom) <= Date.now());
  assert.equal(valid(), false);
  aheadMs = 0;
  moe.wake();
  await until("all are valid", valid);
});
