import assert from "node:assert/strict";
import { test } from "node:test";
import { VirtualClock } from "../../../test/sim/clock.ts";
import { hasCode } from "../../kube/errors.ts";
import type { Link, StoredPlacement } from "../ports.ts";
import { Rollout } from "./rollout.ts";

const sizes = Float64Array.from([1]);
const member = { bootId: "b", podName: "p", podUid: "u", budgetBytes: 10, held: new Map() };

test("a plan that is closed while it is being written is not pushed to anybody", async () => {
  let written = (_: StoredPlacement): void => {};
  let prepared = 0;
  const link = { prepare: async () => void prepared++, description: { bootId: "b" } } as unknown as Link;
  const rollout = new Rollout(
    {
      ref: { namespace: "ns", name: "moe" },
      ownerUid: "uid",
      store: {
        read: async () => undefined,
        write: () =>
          new Promise((resolve) => {
            written = resolve;
          }),
        writeStatus: async () => {},
      },
      clock: new VirtualClock(),
      link: () => link,
      bytesPerSecond: 0,
      onFetched: () => {},
      onProgress: () => {},
    },
    undefined,
    {
      layers: [{ hosts: [[0]], shares: [[1000]] }],
      reason: "test",
      members: new Map([[0, member]]),
      shape: { layers: 1, experts: 1, residentBytes: sizes, storedBytes: sizes },
      allAtOnce: true,
    },
    { epoch: 1, deploymentUid: "uid", modelDigest: "d" },
  );
  const carried = rollout.carryOut(undefined, false);
  rollout.stop();
  written({ resourceVersion: "1", spec: {} as StoredPlacement["spec"], status: {} });
  await assert.rejects(carried, (error) => hasCode(error, "Stopped"));
  assert.equal(prepared, 0);
});
