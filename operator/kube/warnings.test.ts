import assert from "node:assert/strict";
import { test } from "node:test";
import { warningItems } from "./warnings.ts";

test("pages of warnings are read one by one, and no more than four", async () => {
  const paths: string[] = [];
  const transport = {
    async request({ path }: { readonly path: string }) {
      paths.push(path);
      return JSON.stringify({ items: [paths.length], metadata: { continue: `c${paths.length}` } });
    },
  };
  const found: unknown[] = [];
  for await (const item of warningItems(transport, "a b")) found.push(item);
  assert.deepEqual(found, [1, 2, 3, 4]);
  assert.equal(paths[0], "/api/v1/namespaces/a%20b/events?fieldSelector=type%3DWarning&limit=500");
  assert.match(paths[3] ?? "", /continue=c3$/);
});
