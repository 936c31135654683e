// Names, addresses and ranges of local clusters.

import assert from "node:assert/strict";
import { SocketAddress } from "node:net";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  checkName,
  cidrsOverlap,
  clusterNames,
  nameLengthMax,
  nodeIndex,
  nodeNames,
  nodesMax,
  pickSlot,
  preferredSlot,
  slotsCount,
} from "./names.ts";

const clusterName = fc.stringMatching(/^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$/);
const slot = fc.integer({ min: 0, max: slotsCount - 1 });

describe("cluster names", () => {
  for (const [why, name] of Object.entries({
    "is empty": "",
    "starts with a digit": "1a",
    "ends with a dash": "a-",
    "has capitals": "Dev",
    "climbs out of its folder": "../x",
    "is too long": "a".repeat(nameLengthMax + 1),
  })) {
    test(`a name that ${why} is refused with the rule`, () => assert.throws(() => checkName(name), /use 1\.\.20 of a-z/));
  }

  test("interface names of every cluster and node fit the kernel’s 15 bytes", () => {
    fc.assert(
      fc.property(clusterName, slot, fc.integer({ min: 1, max: nodesMax }), (name, where, index) => {
        const cluster = clusterNames(name, where, "/state");
        const node = nodeNames(cluster, index);
        assert.ok(cluster.bridge.length <= 15 && node.hostLink.length <= 15, `${cluster.bridge} ${node.hostLink}`);
      }),
    );
  });

  test("two clusters in different slots share no address", () => {
    fc.assert(
      fc.property(slot, slot, (left, right) => {
        fc.pre(left !== right);
        const a = clusterNames("a", left, "/state");
        const b = clusterNames("b", right, "/state");
        const ranges = ({ subnet, podCidr, serviceCidr }: typeof a) => [subnet, podCidr, serviceCidr];
        for (const x of ranges(a)) for (const y of ranges(b)) assert.ok(!cidrsOverlap(x, y), `${x} ${y}`);
        assert.ok(!cidrsOverlap(a.subnet, a.podCidr) && !cidrsOverlap(a.serviceCidr, a.subnet) && !cidrsOverlap(a.serviceCidr, a.podCidr));
        assert.ok(cidrsOverlap(a.kubernetesServiceAddress, a.serviceCidr));
        assert.doesNotThrow(() => new SocketAddress({ address: a.kubernetesServiceAddress }));
      }),
    );
  });

  test("a node’s pods lie in the cluster’s range, its address in the subnet, and two nodes share neither", () => {
    fc.assert(
      fc.property(slot, fc.integer({ min: 1, max: nodesMax }), fc.integer({ min: 1, max: nodesMax }), (where, left, right) => {
        const cluster = clusterNames("a", where, "/state");
        const node = nodeNames(cluster, left);
        assert.ok(cidrsOverlap(node.podCidr, cluster.podCidr) && cidrsOverlap(node.address, cluster.subnet));
        assert.notEqual(node.address, cluster.hostAddress);
        if (left === right) return;
        const other = nodeNames(cluster, right);
        assert.ok(!cidrsOverlap(node.podCidr, other.podCidr));
        assert.notEqual(node.address, other.address);
      }),
    );
  });

  test("a taken slot is passed over and a full machine says so", () => {
    const first = preferredSlot("dev");
    assert.equal(
      pickSlot("dev", () => false),
      first,
    );
    assert.equal(
      pickSlot("dev", (one) => one === first),
      (first + 1) % slotsCount,
    );
    assert.throws(() => pickSlot("dev", () => true), /no free subnet for cluster "dev"/);
  });

  test("ranges overlap exactly when they share an address", () => {
    assert.ok(cidrsOverlap("10.0.0.0/8", "10.250.1.0/24"));
    assert.ok(cidrsOverlap("10.250.1.7", "10.250.1.0/24"));
    assert.ok(!cidrsOverlap("10.250.0.0/24", "10.250.1.0/24"));
    assert.ok(!cidrsOverlap("default", "10.250.1.0/24"));
    assert.ok(cidrsOverlap("0.0.0.0/0", "10.250.1.0/24"));
  });

  test("a node is meant by its name or number, and another cluster’s node is refused", () => {
    assert.equal(nodeIndex("dev", "dev-2"), 2);
    assert.equal(nodeIndex("dev", "3"), 3);
    assert.equal(nodeIndex("a-1", "a-1-12"), 12);
    for (const wrong of ["prod-2", "dev", "", "dev-x"]) assert.throws(() => nodeIndex("dev", wrong), /are called dev-1/);
    assert.throws(() => nodeNames(clusterNames("a", 0, "/state"), 0), /must be 1\.\.100/);
  });
});
