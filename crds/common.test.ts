import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "./common.ts";

const from = (message: string, more: object = {}): string => AppError.from(Object.assign(new Error(message), more)).message;

test("what the system and gRPC say of a connection is told in words, with the code and the address as evidence; other text stays", () => {
  for (const [said, want] of [
    ["read ECONNRESET", "the connection was reset (ECONNRESET)"],
    ["write EPIPE", "the connection was closed (EPIPE)"],
    ["connect ECONNREFUSED 10.0.0.1:443", "nothing listens there (ECONNREFUSED 10.0.0.1:443)"],
    ["getaddrinfo ENOTFOUND nats.x.svc", "the name is not known (ENOTFOUND nats.x.svc)"],
    ["14 UNAVAILABLE: read ECONNRESET", "the connection was reset (ECONNRESET)"],
    [
      "write EPROTO C0C7:error:0A00010B:SSL routines:ssl3_get_record:wrong version number:../ssl.c:354:",
      "TLS failed: wrong version number",
    ],
    ["ENOENT: no such file or directory, open '/x'", "ENOENT: no such file or directory, open '/x'"],
    ["socket hang up", "socket hang up"],
    ["its peer said ECONNRESET twice", "its peer said ECONNRESET twice"],
  ] as const)
    assert.equal(from(said), want);
  assert.equal(from("", { code: "ECONNREFUSED" }), "nothing listens there (ECONNREFUSED)", "of several addresses");
  assert.equal(AppError.from("read ECONNRESET", "reading").message, "reading: the connection was reset (ECONNRESET)");
});

test("of an error and one of the cleanup behind it, the first is told", () => {
  const failed = new AppError("no plan", { code: "NoPlan" as never });
  assert.equal(AppError.from(new SuppressedError(new Error("a close failed"), failed)), failed);
  assert.equal(AppError.from(new SuppressedError(1, new SuppressedError(2, new Error("first"))), "starting").message, "starting: first");
});
