import assert from "node:assert/strict";
import { test } from "node:test";
import type { PlacementPlan } from "../../../crds/plan.ts";
import type { World } from "../../deployment/ports.ts";
import type { Identity } from "../../kube/ask-pod.ts";
import type { RankView } from "../observed.ts";
import type { Link, LinkTarget, Member, Membership, PlanMember } from "../ports.ts";
import { Links, mayWait, Semaphore, spacingMs, termsMax } from "./links.ts";

const now = 1_000_000;
const identity: Identity = { cert: "1", key: "", ca: "" };
const world = {
  ref: { namespace: "ns", name: "moe" },
  uid: "uid",
  workers: [0, 1].map((rank) => ({ rank, uid: `w${rank}`, ip: `10.0.0.${rank}`, lost: false })),
  gateways: [{ name: "g", uid: "g", ip: "10.0.1.0" }],
} as unknown as World;
const plain = {};
const member = (rank: number, more: Partial<Member> = {}): Member => ({
  ...{ rank, podName: `p${rank}`, podUid: `w${rank}`, bootId: "b", address: `10.0.0.${rank}:9440`, state: "active" as const },
  ...more,
});

interface FakeLink {
  readonly target: LinkTarget;
  readonly pushed: Membership[];
  readonly plans: number[];
  readonly renewed: string[];
  downSince?: number;
  status: { membershipVersion: number; front?: { idleSince: number | undefined; wantsRanks: boolean; unasked?: boolean } };
}

function opened(term = (now + 1) % termsMax) {
  const fakes: FakeLink[] = [];
  const links = new Links(
    (target) => {
      const fake: FakeLink = { target, pushed: [], plans: [], renewed: [], status: { membershipVersion: 0 } };
      fakes.push(fake);
      const link = {
        get status() {
          return fake.status;
        },
        get downSince() {
          return fake.downSince;
        },
        push: (membership: Membership) => void fake.pushed.push(membership),
        pushPlan: (plan: { epoch: number }) => void fake.plans.push(plan.epoch),
        renew: ({ cert }: Identity) => void fake.renewed.push(cert),
        close: () => {},
      };
      return link as unknown as Link;
    },
    { onChange: () => {}, onLoad: () => {}, quota: { share: () => assert.fail() } },
    term,
  );
  links.sync(world, identity, undefined, now);
  return { links, fakes };
}

test("membership goes on from the clock, or from a higher version that a pod has from a leader before", () => {
  const { links, fakes } = opened();
  links.setMembers([member(0)], plain);
  links.setMembers([member(0)], plain);
  assert.deepEqual(
    fakes[0]?.pushed.map(({ version }) => version),
    [now + 1],
  );
  fakes[1]!.status = { membershipVersion: now + 500 };
  links.setMembers([member(0)], plain);
  assert.deepEqual(
    fakes[0]?.pushed.map(({ version }) => version),
    [now + 1, now + 1 + termsMax],
    "the same members, said so that they are heard",
  );
  fakes[0]!.status = { membershipVersion: now + 1 + termsMax };
  fakes[1]!.status = { membershipVersion: Number.MAX_SAFE_INTEGER };
  links.setMembers([member(0), member(1)], plain);
  assert.equal(fakes[2]?.pushed.at(-1)?.version, now + 1 + 2 * termsMax);
});

test("two that lead at once make no equal versions, and each goes on above what it hears of the other", () => {
  const all = [opened(1), opened(termsMax - 1)];
  const made = all.map(({ links, fakes }, one) =>
    Array.from({ length: 20 }, (_, step) => {
      links.setMembers([member(0), member(1)].slice(0, 1 + (step % 2)), plain);
      const { version } = fakes[0]!.pushed.at(-1)!;
      for (const fake of all[1 - one]!.fakes) fake.status = { membershipVersion: version };
      return version;
    }),
  );
  assert.equal(new Set(made.flat()).size, 40);
  assert.ok(Math.min(...made[1]!) > Math.max(...made[0]!));
});

test("a gateway holds requests once it has heard so, and what it says counts while it is heard", () => {
  const { links, fakes } = opened();
  const gateway = fakes.find(({ target }) => target.kind === "gateway") ?? assert.fail();
  const reported = (laterMs = 0) => links.gateways(world.gateways, now + laterMs)[0];
  assert.deepEqual(
    reported(),
    { name: "g", idleMs: undefined, wantsRanks: false, unasked: false, holds: false },
    "a gateway of an earlier release",
  );
  gateway.status = { membershipVersion: 0, front: { idleSince: now - 7, wantsRanks: true, unasked: true } };
  assert.deepEqual(reported(), { name: "g", idleMs: 7, wantsRanks: true, unasked: true, holds: false });
  links.setMembers([], { holdMs: 60_000 });
  assert.equal(gateway.pushed.at(-1)?.holdMs, 60_000);
  assert.equal(reported()?.holds, false, "pushed is not heard");
  gateway.status = { membershipVersion: now + 1, front: { idleSince: now - 8, wantsRanks: false } };
  assert.equal(reported()?.holds, true);
  assert.equal(reported(9_000)?.idleMs, 9_008, "no news: it is idle still");
  gateway.status = { membershipVersion: now + 1, front: { idleSince: undefined, wantsRanks: false } };
  assert.equal(reported(9_000)?.idleMs, 0, "it has a request still");
  links.setMembers([], plain);
  assert.equal(reported()?.holds, false);
  gateway.downSince = now;
  assert.deepEqual(reported(), { name: "g", idleMs: undefined, wantsRanks: false, unasked: false, holds: false });
});

test("a renewed certificate goes to the links that are open, which stay open", () => {
  const { links, fakes } = opened();
  links.sync(world, identity, undefined, now);
  assert.deepEqual(
    fakes.map(({ renewed }) => renewed),
    [[], [], []],
  );
  links.sync(world, { ...identity, cert: "2" }, undefined, now);
  assert.deepEqual(
    fakes.map(({ renewed }) => renewed),
    [["2"], ["2"], ["2"]],
  );
});

const plan = { epoch: 3 } as unknown as PlacementPlan;

test("pods that come later hear the plan from links when they are gateways, and no plan of a model before", () => {
  const { links, fakes } = opened();
  const more = {
    ...world,
    workers: [...world.workers, { ...world.workers[0], rank: 2, uid: "w2", ip: "10.0.0.2" }],
    gateways: [...world.gateways, { name: "g2", uid: "g2", ip: "10.0.1.1" }],
  } as World;
  links.sync(more, identity, plan, now);
  links.sync(more, identity, plan, now);
  const planOf = (uid: string) => fakes.find(({ target }) => target.podUid === uid)?.plans;
  assert.deepEqual([planOf("w0"), planOf("w2"), planOf("g"), planOf("g2")], [[], [], [], [3]]);
  assert.equal(links.all().length, 5);
  links.sync({ ...more, gateways: [...more.gateways, { name: "g3", uid: "g3", ip: "10.0.1.2" }] }, identity, undefined, now);
  assert.deepEqual(planOf("g3"), []);
});

test("a worker hears the plan once per process, unless a plan began with it, and is lost when away for the grace", () => {
  const { links, fakes } = opened();
  const view = (rank: number, bootId: string, usable = true) => {
    const link = links.worker(`w${rank}`);
    return { rank, usable, link, report: { description: { bootId } } } as unknown as RankView;
  };
  const seen = (views: readonly RankView[], at: number, usableAt: number) => ({
    ...{ views, now: at },
    usableAt: new Map(views.map(({ rank }) => [rank, usableAt])),
  });
  links.planBegins(new Map([[0, { bootId: "a" } as PlanMember]]));
  const both = [view(0, "a"), view(1, "a")];
  assert.deepEqual(links.tell(seen(both, 0, 0), plan), { joined: [{ rank: 1, bootId: "a" }], lost: [] });
  assert.deepEqual(links.tell(seen(both, 1, 1), plan), { joined: [], lost: [] });
  assert.deepEqual(links.tell(seen([view(0, "b"), view(1, "a")], 2, 2), plan).joined, [{ rank: 0, bootId: "b" }]);
  assert.deepEqual([fakes[0]?.plans, fakes[1]?.plans], [[3], [3]]);
  const away = [view(0, "b"), view(1, "a", false)];
  assert.deepEqual(links.tell(seen(away, 5_002, 2), plan).lost, []);
  assert.deepEqual(links.tell(seen(away, 5_003, 2), plan).lost, [1]);
  assert.deepEqual(links.tell(seen(away, 6_000, 2), plan).lost, [], "once");
  assert.deepEqual(links.tell(seen(both, 6_001, 6_001), plan).joined.length, 2);
  links.planBegins(new Map([[0, { bootId: "a" } as PlanMember]]));
  assert.deepEqual(links.tell(seen([view(0, "a"), view(1, "a", false)], 6_002, 6_001), plan), { joined: [], lost: [] });
  assert.deepEqual(links.tell(seen(both, 6_003, 6_003), plan).joined, [{ rank: 1, bootId: "a" }], "it was silent when the plan began");
});

test("in a large world news that may wait is pushed once for many, and before a plan; a loss is pushed at once", () => {
  const { links, fakes } = opened();
  const many = Array.from({ length: 256 }, (_, rank) => member(rank));
  const pushed = () => fakes[0]!.pushed.length;
  links.setMembers(many.slice(0, 200), plain);
  assert.equal(pushed(), 1);
  links.setMembers(many.slice(0, 201), plain);
  links.setMembers(many.slice(0, 202), plain);
  assert.equal(pushed(), 1);
  links.sync(world, identity, undefined, now + 2_000);
  links.setMembers(many.slice(0, 203), plain);
  assert.equal(fakes[0]?.pushed.at(-1)?.members.length, 203);
  links.setMembers(many, plain);
  assert.equal(pushed(), 2);
  links.planBegins(new Map());
  assert.equal(fakes[0]?.pushed.at(-1)?.members.length, 256, "a plan may name all of them");
  links.planBegins(new Map());
  links.setMembers(many, plain);
  assert.equal(pushed(), 3, "once");
  links.setMembers([...many.slice(0, 255), { ...member(255), state: "lost" }], plain);
  assert.equal(fakes[0]?.pushed.at(-1)?.members.at(-1)?.state, "lost");
});

test("a membership that waited for nothing any more is not pushed", () => {
  const { links, fakes } = opened();
  const many = Array.from({ length: 256 }, (_, rank) => member(rank));
  const before: Member[] = [...many.slice(0, 255), { ...member(255), state: "joining" }];
  for (const members of [before, many, before]) links.setMembers(members, plain);
  links.planBegins(new Map());
  assert.equal(fakes[0]?.pushed.length, 1);
});

const before = [member(0), member(1, { state: "joining" })];

test("who has come, and who serves now, may wait", () => {
  assert.ok(mayWait([], [member(0)]));
  assert.ok(mayWait(before, [member(0), member(1), member(2, { state: "joining" })]));
});

test("who is gone, leaves, or is another process is told at once", () => {
  assert.ok(!mayWait(before, [member(0)]));
  for (const changed of [
    { state: "lost" },
    { state: "draining" },
    { state: "joining" },
    { bootId: "c" },
    { podUid: "w9" },
    { address: "10.0.0.9:9440" },
  ] as const)
    assert.ok(!mayWait(before, [member(0, changed), before[1]!]), JSON.stringify(changed));
});

test("small worlds wait for nothing, and the bytes a second of large ones are bounded", () => {
  assert.equal(spacingMs(7), 0);
  assert.ok(spacingMs(64) < 100, "less than two looks are apart");
  assert.ok(spacingMs(256) > 500 && spacingMs(256) < 1_500);
  assert.equal(spacingMs(4_096), 2_000);
});

test("so many run at once, and the others in the order in which they came, one for each that has ended", () => {
  const connecting = new Semaphore(2);
  const begun: number[] = [];
  for (const one of [1, 2, 3, 4]) connecting.enter(() => void begun.push(one));
  assert.deepEqual(begun, [1, 2]);
  connecting.leave();
  assert.deepEqual(begun, [1, 2, 3]);
  for (let i = 0; i < 3; i++) connecting.leave();
  assert.deepEqual(begun, [1, 2, 3, 4]);
  for (const one of [5, 6, 7]) connecting.enter(() => void begun.push(one));
  assert.deepEqual(begun, [1, 2, 3, 4, 5, 6], "all have ended, so that two are free again");
});
