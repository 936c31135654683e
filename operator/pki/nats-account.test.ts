// What the account says of a user: kept while half of its time is left, and issued anew for another grant, another account or nonsense.
import assert from "node:assert/strict";
import { test } from "node:test";
import { freshSeeds, NatsAccount } from "./nats-account.ts";

const now = new Date("2026-03-01T00:00:00Z");
const later = (days: number) => new Date(now.getTime() + days * 86_400_000);
const user = { name: "ns/moe", publish: ["a"], subscribe: ["a"] };
const seeds = freshSeeds();
const account = new NatsAccount(seeds);
const former = account.credentials(user, now);
const cases: Record<string, [string, boolean]> = {
  "an hour later": [account.credentials(user, later(1 / 24), former), true],
  "after a month": [account.credentials(user, later(31), former), false],
  "with other subjects": [account.credentials({ ...user, publish: ["b"] }, now, former), false],
  "by another name": [account.credentials({ ...user, name: "ns/other" }, now, former), false],
  "of another account": [new NatsAccount(freshSeeds()).credentials(user, now, former), false],
  "of the same seeds": [new NatsAccount(seeds).credentials(user, now, former), true],
  "after nonsense": [account.credentials(user, now, former.replace(/\.[\w-]+\./, ".e30.")), false],
};
for (const [what, [credentials, kept]] of Object.entries(cases))
  test(`${what} a user ${kept ? "is kept" : "is issued anew"}`, () => assert.equal(credentials === former, kept));

test("seeds that cannot be read are refused with the remedy, and none of them is told", () => {
  assert.throws(
    () => new NatsAccount({ ...seeds, account: "SAnonsense" }),
    ({ code, message }: any) => {
      assert.doesNotMatch(message, /nonsense/);
      return code === "NatsKeysUnusable" && /delete their Secret/.test(message);
    },
  );
});
