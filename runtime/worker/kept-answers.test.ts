// Kept answers alone: what a reader gets whenever it comes, what ends a computation, and that no bound is passed.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import fc from "fast-check";
import { AppError } from "../../crds/common.ts";
import { FinishReason, type GenerateEvent, GenerateEventSchema, type Keep, KeepSchema } from "../net/gen/enodia/runtime/v1/runtime_pb.js";
import { create } from "../net/service.ts";
import { KeptAnswers, type KeptBounds, keptBounds, type Run } from "./kept-answers.ts";

const digest = Buffer.from("d");
const keepOf = (id: string, of = "d"): Keep => create(KeepSchema, { id, digest: Buffer.from(of), note: Buffer.from("n") });
const token = (position: number): GenerateEvent =>
  create(GenerateEventSchema, { event: { case: "token", value: { id: 100 + position, position } } });
const finish = create(GenerateEventSchema, { event: { case: "finish", value: { reason: FinishReason.LENGTH } } });

class Call extends EventEmitter {
  cancelled = false;
  readonly got: string[] = [];
  write({ event }: GenerateEvent): void {
    this.got.push(event.case === "token" ? String(event.value.id) : String(event.case));
  }
  leave(): void {
    this.cancelled = true;
    this.emit("cancelled");
  }
}

function answers(bounds: Partial<KeptBounds> = {}) {
  const clock = { now: 0 };
  return { clock, kept: new KeptAnswers(() => clock.now, { ...keptBounds, ...bounds }) };
}
function read(run: Run): Call {
  const call = new Call();
  run.read(call).catch(() => {});
  return call;
}
function begun(kept: KeptAnswers, id: string, tokens = 0): { run: Run; call: Call } {
  const run = kept.begin(keepOf(id));
  const call = read(run);
  for (let at = 0; at < tokens; at++) run.add(token(at));
  return { run, call };
}

test("whoever reads, early, late or after the end, gets every token once", () => {
  const { kept } = answers();
  const { run, call } = begun(kept, "a", 2);
  const late = read(kept.find(keepOf("a"), [])!);
  run.add(token(2));
  call.leave();
  run.add(finish);
  run.end();
  const all = ["100", "101", "102", "finish"];
  assert.deepEqual([call.got, late.got, read(kept.find(keepOf("a"), [])!).got], [all.slice(0, 3), all, all]);
  assert.throws(() => kept.find(keepOf("a", "other"), []), { code: "KeyReused" });
});

test("what an answer says of its rank's queue is marked for those who read it later", () => {
  const { kept } = answers();
  const { run, call } = begun(kept, "a");
  const said: unknown[] = [];
  for (const name of ["queued", "started"] as const)
    run.add(create(GenerateEventSchema, { event: { case: name, value: { queuedTokens: 9 } } }));
  const late = { cancelled: false, on: () => {}, write: ({ event }: GenerateEvent) => void said.push((event.value as any).again) };
  for (const message of ["queued", "started"]) assert.ok(call.got.includes(message));
  void run.read(late);
  run.add(create(GenerateEventSchema, { event: { case: "queued", value: { queuedTokens: 3 } } }));
  assert.deepEqual(said, [true, true, false]);
  assert.deepEqual([kept.look("a").over, run.end(), kept.look("a").over], [false, undefined, true]);
});

test("an answer that a failover brought begins with the tokens that were there", () => {
  const { kept } = answers();
  const run = kept.begin(keepOf("a"), [100, 101]);
  const second = kept.find(keepOf("a"), [100]);
  assert.deepEqual([second, kept.find(keepOf("a"), [7])], [run, undefined], "a second one joins before anything was computed");
  run.addReplay([100, 101]);
  run.add(token(2));
  assert.deepEqual(read(run).got, ["100", "101", "102"]);
  kept.begin(keepOf("b"), [100, 101]).end();
  assert.equal(kept.find(keepOf("b"), []), undefined, "one that ended in its queue has nothing to read");
});

/** How it ended after two tokens, what a gateway has, whether the answer goes on from there. */
const continued: readonly [how: "runs" | "whole" | "cut" | "stopped", replay: readonly number[], goesOn: boolean][] = [
  ["runs", [], true],
  ["runs", [100, 101], true],
  ["runs", [100, 101, 102], true],
  ["runs", [7], false],
  ["whole", [100, 101], true],
  ["whole", [100, 101, 102], false],
  ["cut", [100], true],
  ["cut", [100, 101], false],
  ["stopped", [], false],
];
test("a gateway that has tokens goes on with an answer that has the same and more", () => {
  for (const [how, replay, goesOn] of continued) {
    const { kept } = answers();
    const { run, call } = begun(kept, "a", 2);
    if (how === "whole") run.add(finish);
    if (how === "stopped") kept.look("a", digest);
    if (how === "stopped") call.leave();
    if (how === "whole" || how === "cut") run.end();
    assert.equal(kept.find(keepOf("a"), replay) !== undefined, goesOn, `${how}, ${replay}`);
  }
});

test("the last reader's end ends what is not kept, what was stopped, and the rest after its time", () => {
  const { kept, clock } = answers();
  const plain = kept.begin(undefined);
  read(plain).leave();
  const { run: stopped, call } = begun(kept, "s", 1);
  assert.deepEqual(kept.look("s", digest), { kept: true, tokens: 1, note: Buffer.from("n"), over: false });
  assert.equal(stopped.signal.aborted, false, "somebody reads");
  call.leave();
  const early = kept.begin(keepOf("e"));
  const hasty = new Call();
  hasty.cancelled = true;
  early.read(hasty).catch(() => {});
  kept.look("e", Buffer.from("another request's"));
  assert.equal(early.signal.aborted, false);
  kept.look("e", digest);
  assert.ok(early.signal.aborted, "also where its reader left before it read");
  const { run, call: gone } = begun(kept, "k", 1);
  gone.leave();
  clock.now = keptBounds.unreadMs - 1;
  kept.sweep();
  assert.deepEqual(
    [plain, stopped, run].map(({ signal }) => signal.aborted),
    [true, true, false],
  );
  read(run);
  clock.now *= 2;
  kept.sweep();
  assert.ok(!run.signal.aborted && kept.find(keepOf("k"), []) === run, "who reads it keeps it");
  run.end();
  clock.now += keptBounds.unreadMs;
  kept.sweep();
  assert.deepEqual([kept.size, kept.look("k")], [{ answers: 0, bytes: 0 }, { kept: false }]);
});

test("an error reaches every reader, and the next request begins anew", async () => {
  const { kept } = answers();
  const run = kept.begin(keepOf("a"));
  const readers = [run.read(new Call()), run.read(new Call())];
  run.end(new AppError("broke", { code: "Internal" }));
  for (const reader of readers) await assert.rejects(reader, { code: "Internal" });
  assert.equal(kept.find(keepOf("a"), []), undefined);
});

test("a stopped answer is read as far as it goes, and says that it is no more", async () => {
  const { kept } = answers();
  const { run, call } = begun(kept, "a", 2);
  kept.look("a", digest);
  call.leave();
  run.end();
  const late = new Call();
  await assert.rejects(kept.find(keepOf("a"), [])!.read(late), { code: "KeptEnded" });
  assert.deepEqual(late.got, ["100", "101"]);
});

test("what a lost gateway read waits for its clients; what none of them takes up is bounded", () => {
  const { kept, clock } = answers();
  const all = Array.from({ length: keptBounds.unreadAtOnce + 1 }, (_, at) => begun(kept, String(at), 1));
  for (const { call } of all) call.leave();
  const live = () => all.filter(({ run }) => !run.signal.aborted).length;
  assert.equal(live(), keptBounds.unreadAtOnce);
  clock.now = keptBounds.unreadGraceMs - 1;
  kept.sweep();
  assert.equal(live(), keptBounds.unreadAtOnce);
  for (const { run } of all.slice(-5)) read(run);
  clock.now++;
  kept.sweep();
  assert.equal(live(), keptBounds.unread + 5, "those that are read again go on");
});

test("no order of requests, tokens, ends and leaves passes a bound, or stops what is read", () => {
  const bounds = { unreadMs: 50, answers: 4, bytes: 6_000, answerBytes: 2_500, unread: 2, unreadGraceMs: 20, unreadAtOnce: 3 };
  const begins = [0, 1, 2, 3, 4].map((id) => ({ what: "begin" as const, id }));
  const step = fc.record({ what: fc.constantFrom("begin", "add", "end", "leave", "read", "stop", "wait"), id: fc.nat(6) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const { kept, clock } = answers(bounds);
      const all: { run: Run; calls: Call[] }[] = [];
      for (const { what, id } of steps) {
        const of = all.at(-1 - id);
        if (what === "begin") {
          const { run, call } = begun(kept, String(id));
          all.push({ run, calls: [call] });
        }
        if (what === "add" && of && !of.run.isOver) of.run.add(token(of.run.ids.length));
        if (what === "end" && of && !of.run.isOver) of.run.end();
        if (what === "leave") for (const call of of?.calls.splice(0) ?? []) call.leave();
        if (what === "read" && of && !of.run.isOver && !of.run.signal.aborted) of.calls.push(read(of.run));
        if (what === "stop") kept.look(String(id), digest);
        if (what === "wait") clock.now += 30;
        kept.sweep();
        const { size } = kept;
        assert.ok(size.answers <= bounds.answers && size.bytes <= bounds.bytes && size.bytes >= 0, JSON.stringify(size));
        const live = all.filter(({ run }) => !run.isOver && !run.signal.aborted);
        assert.ok(live.filter(({ calls }) => calls.length === 0).length <= (what === "wait" ? bounds.unread : bounds.unreadAtOnce));
        for (const { run, calls } of all) assert.ok(calls.length === 0 || run.isOver || !run.signal.aborted, "a read one goes on");
      }
    }),
    { examples: [[begins]] },
  );
});
