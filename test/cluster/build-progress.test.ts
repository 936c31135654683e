import assert from "node:assert/strict";
import { test } from "node:test";
import { type Standing, type Step, secondsLeft, standingText, timeText } from "./build-estimate.ts";
import { buildAll } from "./build-progress.ts";
import { type Log, waitFor } from "./exec.ts";
import { terminalLog } from "./terminal-log.ts";

const step = (program: string, usualSeconds: number): Step => ({ program, usualSeconds });
const ahead = [step("kubelet", 50), step("coredns", 50)];
const standing = (seconds: number, done: Standing["done"] = []): Standing => ({ done, now: { ...step("etcd", 100), seconds }, ahead });

test("before anything is built the estimate is the sum of the usual times", () => {
  assert.equal(secondsLeft(standing(0)), 200);
  assert.equal(secondsLeft(standing(40)), 160);
});

test("what the finished programs took scales what is left", () => {
  const half = secondsLeft(standing(0, [{ usualSeconds: 200, seconds: 100 }]));
  assert.ok(half > 100 && half < 120, `${half}`);
  const twice = secondsLeft(standing(0, [{ usualSeconds: 200, seconds: 400 }]));
  assert.ok(twice > 350 && twice < 400, `${twice}`);
});

test("one tiny program that took no time, or long, does not decide the pace", () => {
  for (const seconds of [0, 2]) {
    const left = secondsLeft(standing(0, [{ usualSeconds: 0.5, seconds }]));
    assert.ok(left > 180 && left < 220, `${left}`);
  }
});

test("a program that is overdue raises the estimate of the others, and is never over in no time", () => {
  const late = secondsLeft(standing(300));
  assert.ok(late > 100 * 1.5 + 30, `${late}`);
  for (let seconds = 0; seconds < 5000; seconds += 7) assert.ok(secondsLeft(standing(seconds)) >= 100, `at ${seconds} s`);
});

test("when the last program is nearly done, nearly nothing is left", () => {
  const last: Standing = { done: [{ usualSeconds: 100, seconds: 100 }], now: { ...step("coredns", 50), seconds: 49 }, ahead: [] };
  assert.ok(secondsLeft(last) <= 5, `${secondsLeft(last)}`);
});

test("a line says which program it is, of how many, the time so far and the time left", () => {
  assert.equal(standingText(standing(0, [{ usualSeconds: 60, seconds: 60 }])), "[2/4] etcd starts; 60 s in all, about 3 min left");
  assert.equal(standingText(standing(45, [{ usualSeconds: 60, seconds: 60 }])), "[2/4] etcd 45 s; 2 min in all, about 3 min left");
  assert.deepEqual([0, 89.4, 90, 319].map(timeText), ["0 s", "89 s", "2 min", "5 min"]);
});

function recorded(replace: boolean): { log: Log; lines: string[]; replaced: string[] } {
  const lines: string[] = [];
  const replaced: string[] = [];
  const log = (line: string): void => void lines.push(line);
  return { log: replace ? Object.assign(log, { replace: (line: string) => void replaced.push(line) }) : log, lines, replaced };
}

/** A clock that goes on by a second each time it is read. */
function ticking(): () => number {
  let ms = 0;
  return () => {
    ms += 1000;
    return ms;
  };
}

/** A build that ends once so many lines were shown. */
const buildUntil = (lines: readonly string[], count: number) => (): Promise<void> =>
  waitFor("lines of progress", { timeoutMs: 10_000, everyMs: 5 }, async () => (lines.length >= count ? true : undefined)).then(() => {});

test("without a terminal each program is told before, again and again while it is built, and after", async () => {
  const { log, lines } = recorded(false);
  await buildAll([step("etcd", 10), step("pause", 10)], { log, build: buildUntil(lines, 3), clock: ticking(), beatMs: 5 });
  assert.equal(lines[0], "[1/2] etcd 1 s; 1 s in all, about 19 s left");
  assert.equal(lines[1], "[1/2] etcd 2 s; 2 s in all, about 18 s left");
  assert.match(lines.find((line) => line.startsWith("[2/2]")) ?? "", /^\[2\/2\] pause 1 s; \d+ s in all, about \d+ s left$/);
  assert.match(lines.at(-1) ?? "", /^\[2\/2\] pause … \d+ s$/);
});

test("on a terminal one line is replaced, and cleared before the result", async () => {
  const { log, lines, replaced } = recorded(true);
  await buildAll([step("etcd", 10)], { log, build: buildUntil(replaced, 2), clock: ticking(), beatMs: 20 });
  assert.deepEqual(replaced, ["[1/1] etcd 1 s; 1 s in all, about 9 s left", "[1/1] etcd 2 s; 2 s in all, about 8 s left", ""]);
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? "", /^\[1\/1\] etcd … \d+ s$/);
});

test("a build that fails ends the list and its progress", async () => {
  const { log, lines, replaced } = recorded(true);
  const failing = async (): Promise<void> => Promise.reject(new Error("no such module"));
  await assert.rejects(buildAll([step("etcd", 10), step("pause", 1)], { log, build: failing }), /no such module/);
  assert.deepEqual(lines, []);
  assert.equal(replaced.at(-1), "");
});

test("a terminal's log replaces its line and cuts it to the width; other outputs get whole lines and no replacing", () => {
  const written: string[] = [];
  const output = (isTTY: boolean) => ({ isTTY, columns: 12, write: (text: string) => written.push(text) });
  const log = terminalLog(output(true), (line) => `  ${line}`);
  log.replace?.("0123456789abcdef");
  log("done");
  log.replace?.("");
  assert.deepEqual(written.splice(0), ["\r\u001b[2K  012345678", "\r\u001b[2K  done\n", "\r\u001b[2K"]);
  const plain = terminalLog(output(false));
  plain("done");
  assert.equal(plain.replace, undefined);
  assert.deepEqual(written, ["done\n"]);
});
