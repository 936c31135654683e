// A namespace has one install of the operator at a time, whose replicas hand the claim on among themselves.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { FakeKube } from "../../test/kit/kube/fake-kube.ts";
import { ManualClock } from "../../test/kit/manual-clock.ts";
import { Claims, claimName } from "./claims.ts";
import { type KubeObject, resources } from "./kube.ts";

function installs(...names: string[]) {
  const clock = new ManualClock();
  const kube = new FakeKube(clock.now);
  const made = names.map((install) => {
    const changes: string[] = [];
    const claims = new Claims({ kube, install, clock });
    claims.onChange((namespace) => changes.push(namespace));
    return { claims, changes };
  });
  return { clock, kube, made };
}

test("the first install to ask works in the namespace, the other is told who does", async () => {
  const { clock, made } = installs("a/enodia", "b/enodia");
  const [first, second] = made;
  assert.equal(first?.claims.holds("team"), false, "not before it is written");
  await clock.advance(100);
  assert.equal(first?.claims.holds("team"), true);
  assert.equal(second?.claims.holds("team"), false);
  await clock.advance(300_000);
  assert.equal(second?.claims.holds("team"), false);
  assert.equal(second?.claims.holder("team"), "a/enodia");
  assert.deepEqual([first?.changes, second?.changes], [["team"], ["team"]], "each is called once: it holds, it is refused");
  assert.equal(second?.claims.holds("other"), false);
  await clock.advance(100);
  assert.equal(second?.claims.holds("other"), true, "a namespace of its own is no matter of the first");
});

test("a lease goes with what owned its holder when it was made; renewals leave owners as they are", async () => {
  const clock = new ManualClock();
  const owner = (uid: string) => ({ apiVersion: "rbac.authorization.k8s.io/v1", kind: "ClusterRole", name: "enodia", uid });
  for (const first of [undefined, "1"]) {
    const kube = new FakeKube(clock.now);
    const holds = async (uid: string | undefined) => {
      const claims = new Claims({ kube, install: "a", clock, owner: async () => (uid ? owner(uid) : undefined) });
      claims.holds("team");
      await clock.advance(200_000);
      assert.equal(claims.holds("team"), true);
      claims.close();
      return (await kube.get(resources.leases, { namespace: "team", name: claimName }))?.metadata.ownerReferences;
    };
    const made = first && [owner(first)];
    assert.deepEqual([await holds(first), await holds("2")], [made, made]);
    await kube.delete(resources.leases, { namespace: "team", name: claimName });
    assert.deepEqual(await holds("2"), [owner("2")], "one that went with its owner is made with the new one");
  }
});

test("the next leader of an install has its namespaces at once; another install waits until the claim has run out", async () => {
  const { clock, made } = installs("a/enodia", "a/enodia", "b/enodia");
  const [old, next, other] = made;
  old?.claims.holds("team");
  await clock.advance(100);
  other?.claims.holds("team");
  await clock.advance(40_000);
  old?.claims.close();
  next?.claims.holds("team");
  await clock.advance(100);
  assert.equal(next?.claims.holds("team"), true);
  next?.claims.close();
  await clock.advance(30_000);
  assert.equal(other?.claims.holds("team"), false);
  await clock.advance(60_000);
  assert.equal(other?.claims.holds("team"), true, "the install is gone");
});

test("a claim that somebody takes away is lost and contended for again", async () => {
  const { clock, kube, made } = installs("a/enodia");
  const [mine] = made;
  mine?.claims.holds("team");
  await clock.advance(100);
  const steal = (lease: KubeObject) => Object.assign(lease.spec as object, { holderIdentity: "b/enodia" });
  kube.mutate(resources.leases, { namespace: "team", name: claimName }, steal);
  await clock.advance(20_000);
  assert.equal(mine?.claims.holds("team"), false);
  assert.equal(mine?.claims.holder("team"), "b/enodia");
  await clock.advance(80_000);
  assert.equal(mine?.claims.holds("team"), true);
});

test("a namespace with nothing left in it is asked about no more", async () => {
  const { clock, kube, made } = installs("a/enodia");
  const [mine] = made;
  mine?.claims.holds("team");
  await clock.advance(100);
  mine?.claims.leave("team");
  kube.onWrite = () => {
    throw new AppError("the namespace is gone", { code: "Forbidden" });
  };
  const { writes } = kube;
  await clock.advance(300_000);
  assert.equal(kube.writes, writes);
});
