import assert from "node:assert/strict";
import { test } from "node:test";
import type { Identity, World } from "../../deployment/ports.ts";
import type { Link, LinkTarget, Member, Membership } from "../ports.ts";
import { Links } from "./links.ts";

const now = 1_000_000;
const identity: Identity = { cert: "1", key: "", ca: "" };
const world = {
  ref: { namespace: "ns", name: "moe" },
  uid: "uid",
  workers: [0, 1].map((rank) => ({ rank, uid: `w${rank}`, ip: `10.0.0.${rank}`, lost: false })),
  gateways: [{ name: "g", uid: "g", ip: "10.0.1.0" }],
} as unknown as World;
const member = (rank: number): Member => ({ rank, podName: "", podUid: `w${rank}`, bootId: "b", address: "", state: "active" });

interface FakeLink {
  readonly target: LinkTarget;
  readonly pushed: Membership[];
  readonly plans: number[];
  readonly renewed: string[];
  status: { membershipVersion: number };
}

function opened() {
  const fakes: FakeLink[] = [];
  const links = new Links(
    (target) => {
      const fake: FakeLink = { target, pushed: [], plans: [], renewed: [], status: { membershipVersion: 0 } };
      fakes.push(fake);
      const link = {
        get status() {
          return fake.status;
        },
        push: (membership: Membership) => void fake.pushed.push(membership),
        pushPlan: (plan: { epoch: number }) => void fake.plans.push(plan.epoch),
        renew: ({ cert }: Identity) => void fake.renewed.push(cert),
        close: () => {},
      };
      return link as unknown as Link;
    },
    () => {},
  );
  links.sync(world, identity, now);
  return { links, fakes };
}

test("membership goes on from the clock, or from a higher version that a pod has from a leader before", () => {
  const { links, fakes } = opened();
  links.setMembers([member(0)], false);
  links.setMembers([member(0)], false);
  assert.deepEqual(
    fakes[0]?.pushed.map(({ version }) => version),
    [now + 1],
  );
  fakes[1]!.status = { membershipVersion: now + 500 };
  links.setMembers([member(0)], false);
  assert.deepEqual(
    fakes[0]?.pushed.map(({ version }) => version),
    [now + 1, now + 501],
    "the same members, said so that they are heard",
  );
  fakes[0]!.status = { membershipVersion: now + 501 };
  links.setMembers([member(0), member(1)], false);
  assert.equal(fakes[2]?.pushed.at(-1)?.version, now + 502);
});

test("a renewed certificate goes to the links that are open, which stay open", () => {
  const { links, fakes } = opened();
  links.sync(world, identity, now);
  assert.deepEqual(
    fakes.map(({ renewed }) => renewed),
    [[], [], []],
  );
  links.sync(world, { ...identity, cert: "2" }, now);
  assert.deepEqual(
    fakes.map(({ renewed }) => renewed),
    [["2"], ["2"], ["2"]],
  );
});

test("pods that come later hear the plan from links when they are gateways, and no plan of a model before", () => {
  const { links, fakes } = opened();
  links.pushPlan({ epoch: 3 } as never);
  const more = {
    ...world,
    workers: [...world.workers, { ...world.workers[0], rank: 2, uid: "w2", ip: "10.0.0.2" }],
    gateways: [...world.gateways, { name: "g2", uid: "g2", ip: "10.0.1.1" }],
  } as World;
  links.sync(more, identity, now);
  const planOf = (uid: string) => fakes.find(({ target }) => target.podUid === uid)?.plans;
  assert.deepEqual([planOf("w0"), planOf("w2"), planOf("g2")], [[3], [], [3]]);
  links.forgetPlan();
  links.sync({ ...more, gateways: [...more.gateways, { name: "g3", uid: "g3", ip: "10.0.1.2" }] }, identity, now);
  assert.deepEqual(planOf("g3"), []);
});
