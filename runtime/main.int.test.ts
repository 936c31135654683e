// The runtime as a pod starts it: an unknown role ends at once with the roles that there are, a known one reads its settings.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { test } from "node:test";

const root = resolve(import.meta.dirname, "..");

test("a process starts as one of its roles, and names them where it is asked for another", () => {
  for (const [role, want] of Object.entries({ gateway: /ENODIA_/, "gateway+audit": /^usage: .*worker\|gateway\|/, "": /^usage: / })) {
    const { status, stderr } = spawnSync(process.execPath, ["runtime/main.ts", role], { cwd: root, env: {}, encoding: "utf8" });
    assert.equal(status, 1, role);
    assert.match(JSON.parse(stderr.trim()).message, want, role);
  }
});
