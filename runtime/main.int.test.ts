// The runtime as a pod starts it: a role with a guard that the image does not know ends at once, and opens no port.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { test } from "node:test";

const root = resolve(import.meta.dirname, "..");
const started = (role: string) => {
  const { status, stderr } = spawnSync(process.execPath, ["runtime/main.ts", role], { cwd: root, env: {}, encoding: "utf8" });
  return { status, said: JSON.parse(stderr.trim()).message as string };
};

test("a role starts only with guards that it knows", () => {
  for (const role of ["gateway+audit", "gateway+jwt+audit", "worker+jwt", "gateway+"]) {
    const { status, said } = started(role);
    assert.equal(status, 1, role);
    assert.match(said, /^this image cannot be a (gateway|worker) with /, role);
  }
  assert.match(started("gateway+jwt").said, /ENODIA_/, "it goes on to its settings");
  assert.match(started("gateway-jwt").said, /^usage: /, "one that knows no guards says so of each of these");
});
