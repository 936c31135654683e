import assert from "node:assert/strict";
import { test } from "node:test";
import { loadMessageBytesMax } from "../../crds/telemetry.ts";
import { telemetryKey as key } from "../../test/kit/ranks/telemetry-keys.ts";
import { openLoad, signLoad } from "./load-signature.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const body = '{"v":1,"note":"ü"}';
const signed = signLoad(body, key(1));
const said = (message: Uint8Array, keys = [key(1)]) => {
  const opened = openLoad(message, keys);
  return opened.ok ? Buffer.from(opened.body).toString() : opened.reason;
};

test("a message is read with every key that stands, the one before the newest too", () => {
  assert.equal(said(bytes(signed)), body);
  assert.equal(said(bytes(signed), [key(2), key(1)]), body);
});

test("without keys nothing is taken", () => {
  assert.deepEqual(openLoad(bytes(signed), undefined), { ok: false, reason: "no_key" });
});

const [line = ""] = signed.split("\n");
const refused: Record<string, [string, string]> = {
  "one without a signature": [body, "unsigned"],
  "an empty one": ["", "unsigned"],
  "half a signature": [`${line.slice(0, -1)}\n${body}`, "unsigned"],
  "a line without an end": [line.padEnd(200, "A"), "unsigned"],
  "one whose body was changed": [`${line}\n${body.replace("1", "2")}`, "bad_signature"],
  "one with more behind it": [`${signed} `, "bad_signature"],
  "one of a key that is gone": [signLoad(body, key(3)), "bad_signature"],
  "one that names a key and was signed with another": [signed.replace(key(1).id, key(2).id), "bad_signature"],
};
for (const [name, [message, want]] of Object.entries(refused)) {
  test(`${name} is refused as ${want}`, () => {
    assert.equal(said(bytes(message), [key(1), key(2)]), want);
  });
}

test("a message above the limit is not even looked at", () => {
  assert.equal(said(new Uint8Array(loadMessageBytesMax + 1)), "too_large");
});
