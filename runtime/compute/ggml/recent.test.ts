// The store of what was used last: it makes nothing twice that it has room for, and never holds more than it may.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Recent } from "./recent.ts";

test("what is kept never weighs more than it may, but for one that does alone, and those used longest ago leave first", () => {
  const uses = fc.array(fc.record({ key: fc.nat(9), good: fc.boolean() }), { maxLength: 60 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20 }), uses, (most, taken) => {
      const weigh = (key: number): number => 1 + (key % 4);
      const held: number[] = []; // by last use
      const recent = new Recent<number>(most, (key) => void held.splice(held.indexOf(key), 1), weigh);
      for (const { key, good } of taken) {
        const before = [...held];
        let made = false;
        const value = recent.take(
          String(key),
          () => good,
          () => {
            made = true;
            return key;
          },
        );
        assert.equal(value, key);
        assert.equal(made, !(good && before.includes(key)));
        if (!made) held.splice(held.indexOf(key), 1);
        held.push(key);
        const others = before.filter((each) => each !== key);
        assert.deepEqual(held, [...others.slice(others.length + 1 - held.length), key]);
        const weight = held.reduce((sum, each) => sum + weigh(each), 0);
        assert.ok(weight <= most || held.length === 1, `${weight} of ${most}`);
        const dropped = others[others.length - held.length];
        if (dropped !== undefined && made) assert.ok(weight + weigh(dropped) > most, "nothing leaves for which there is room");
      }
      recent.clear();
      assert.deepEqual(held, []);
    }),
  );
});
