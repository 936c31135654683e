import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { loadKubeConfig } from "./transport.ts";

const dir = mkdtempSync(join(tmpdir(), "enodia-kubeconfig-"));
after(() => rmSync(dir, { recursive: true }));
const file = join(dir, "config");
writeFileSync(
  file,
  JSON.stringify({
    clusters: [{ name: "c", cluster: { server: "https://c.test" } }],
    users: [{ name: "u", user: { token: "t" } }],
    contexts: [{ name: "dev", context: { cluster: "c", user: "u" } }],
    "current-context": "dev",
  }),
);

test("a kubeconfig gives the server of its context", () => {
  assert.equal(loadKubeConfig(file, undefined).getCurrentCluster()?.server, "https://c.test");
  assert.equal(loadKubeConfig(file, "dev").getCurrentCluster()?.server, "https://c.test");
});

const refused: Readonly<Record<string, { path?: string; context?: string; want: RegExp }>> = {
  "a file that is not there": { path: join(dir, "none"), want: /cannot be read: .*no such file/ },
  "a file of another kind": { path: import.meta.filename, want: /cannot be read|no cluster for context/ },
  "a context that it does not have": { path: file, context: "prod", want: /context "prod"; its contexts are dev/ },
  "no kubeconfig anywhere": { want: /no kubeconfig: name one with --kubeconfig or KUBECONFIG/ },
};
for (const [what, { path, context, want }] of Object.entries(refused)) {
  test(`${what} is named, with what to do`, () => {
    const before = { HOME: process.env.HOME, KUBECONFIG: process.env.KUBECONFIG };
    process.env.HOME = dir;
    delete process.env.KUBECONFIG;
    try {
      assert.throws(
        () => loadKubeConfig(path, context),
        (error: any) => error.code === "NoCluster" && want.test(error.message),
      );
    } finally {
      process.env.HOME = before.HOME;
      if (before.KUBECONFIG !== undefined) process.env.KUBECONFIG = before.KUBECONFIG;
    }
  });
}
