// The words of a download of itself, by a clock of the test's own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { downloadEndText, downloadWordsSchema, readDownloadEnd } from "../../../crds/download.ts";
import { Progress } from "./download-progress.ts";

test("the rate is of the last twenty seconds, and what was there before counts for nothing in it", () => {
  let now = 0;
  const progress = new Progress("pod", () => now);
  progress.listed("c0ffee");
  progress.start(10_000, 4_000);
  assert.deepEqual([progress.message().doneBytes, progress.message().bytesPerSecond], [4_000, 0]);
  for (let second = 1; second <= 60; second++) {
    now = second * 1000;
    progress.add(second <= 30 ? 10 : 100);
  }
  const message = progress.message();
  assert.equal(message.doneBytes, 4_000 + 30 * 10 + 30 * 100);
  assert.equal(message.bytesPerSecond, 100);
  assert.equal(message.revision, "c0ffee");
  assert.deepEqual(downloadWordsSchema.parse(message), message);
});

test("what was fetched in vain is taken off, and another phase has no rate", () => {
  let now = 0;
  const progress = new Progress("pod", () => now);
  progress.start(100, 0);
  now = 2000;
  progress.add(80);
  progress.add(-80);
  assert.deepEqual([progress.message().doneBytes, progress.message().bytesPerSecond], [0, 0]);
  progress.phase("Importing");
  progress.say("x".repeat(5000));
  assert.equal(progress.message().message.length, 1024);
  assert.ok(downloadWordsSchema.safeParse(progress.message()).success);
});

test("an end is cut to what the kubelet keeps, and what is none is not taken for one", () => {
  const text = downloadEndText({ reason: "SourceRefused", message: "y".repeat(5000) });
  assert.ok(text.length < 4096);
  assert.equal(readDownloadEnd(text)?.reason, "SourceRefused");
  for (const other of ["", "Killed", "{}", '{"reason":"with space","message":""}']) assert.equal(readDownloadEnd(other), undefined);
});
