import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { forwardPage } from "./page.ts";

test("a browser's requests reach the page, and a closed forward ends them", async (t) => {
  const page = createServer((request, response) => response.end(`page ${request.url}`)).listen(0, "127.0.0.1");
  t.after(() => page.close());
  await once(page, "listening");
  const forward = await forwardPage(async () => connect((page.address() as AddressInfo).port, "127.0.0.1"), 0);
  await forward.check();
  assert.equal(await (await fetch(`${forward.url}deployment?name=moe`)).text(), "page /deployment?name=moe");
  forward.close();
  await assert.rejects(fetch(forward.url));
});

test("a page that is off is said with the remedy", async (t) => {
  const refuses = async () => {
    throw new AppError("connection refused", { code: "Unavailable" });
  };
  const forward = await forwardPage(refuses, 0);
  t.after(() => forward.close());
  await assert.rejects(forward.check(), { code: "Unavailable", message: /connection refused; .*page\.enabled=true/ });
});
