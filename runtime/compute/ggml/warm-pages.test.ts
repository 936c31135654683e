// Pages that experts leave: moved to those that come, never while somebody has them, bounded, and given back when nobody came.
import assert from "node:assert/strict";
import { test } from "node:test";
import { uniform } from "../../kernels/random.ts";
import { ggmlLibrary } from "./library.ts";
import { edgesMax, keptMs, WarmPages } from "./warm-pages.ts";

const pageBytes = 4096;

/** A machine of so many pages that notes which are there, and of which area; `movable` while it moves them. */
function machineOf(pages: number, movable = true) {
  const there = new Uint8Array(pages);
  const areas = new Uint32Array(pages);
  const machine = {
    there,
    moved: 0,
    fresh: 0,
    movable,
    areas: () => areas.reduce((count, area, page) => count + Number(page > 0 && area !== areas[page - 1]), 1),
  };
  let last = 0;
  const each = (at: bigint, bytes: number, work: (page: number) => void): void => {
    assert.equal(Number(at) % pageBytes, 0);
    assert.equal(bytes % pageBytes, 0);
    for (let i = 0; i < bytes / pageBytes; i++) work(Number(at) / pageBytes + i);
  };
  const ggml = {
    discard: (at: bigint, bytes: number) => each(at, bytes, (page) => (there[page] = 0)),
    movePages: (from: bigint, to: bigint, bytes: number) => {
      if (!machine.movable) return false;
      const distance = (Number(to) - Number(from)) / pageBytes;
      const area = areas[Number(from) / pageBytes];
      last += 1;
      each(from, bytes, (page) => {
        assert.equal(areas[page], area, "what is moved at once is of one area");
        areas[page + distance] = last;
        assert.equal(there[page + distance], 0, "what a page is moved over is not there");
        [there[page + distance], there[page]] = [there[page]!, 0];
        machine.moved += 1;
      });
      return true;
    },
    renew: (at: bigint, bytes: number) => {
      last += 1;
      each(at, bytes, (page) => ([there[page], areas[page]] = [0, last]));
    },
  };
  const warm = new WarmPages({ pageBytes, ggml });
  const write = (from: number, to: number): void => {
    machine.fresh += there.subarray(from, to).reduce((sum, page) => sum + 1 - page, 0);
    there.fill(1, from, to);
  };
  const claim = (at: bigint, bytes: number): void => {
    warm.claim(at, bytes);
    write(Number(at) / pageBytes, (Number(at) + bytes) / pageBytes);
  };
  return { machine, warm, write, claim };
}

/** Slots one behind the other, which share pages at their edges, as those of a slab do. */
function slotsOf({ write, warm }: ReturnType<typeof machineOf>, slots: number, stride: number) {
  const used = new Uint8Array(slots);
  const touched = (slot: number) =>
    [Math.floor((slot * stride) / pageBytes) + 1, Math.ceil(((slot + 1) * stride) / pageBytes) + 1] as const;
  const edge = (slot: number): number => (used[slot] === 0 ? pageBytes : 0);
  return {
    used,
    put(slot: number) {
      warm.claim(BigInt(slot * stride + pageBytes), stride);
      used[slot] = 1;
      write(...touched(slot));
    },
    drop(slot: number) {
      used[slot] = 0;
      const [before, after] = [edge(slot - 1), edge(slot + 1)];
      warm.keep(BigInt(slot * stride + pageBytes - before), before + stride + after);
    },
    touched,
  };
}

test("whatever comes and goes, who is there has all pages, and the others only what is kept", () => {
  const random = uniform(11);
  const [slots, stride, pages] = [12, 25 * pageBytes + 1234, 400];
  const kit = machineOf(pages);
  const { machine, warm } = kit;
  const all = slotsOf(kit, slots, stride);
  for (let i = 0; i < 3000; i++) {
    const slot = Math.floor(random() * slots);
    if (all.used[slot] === 0) all.put(slot);
    else all.drop(slot);
    if (random() < 0.02) warm.clear();
    const inUse = new Uint8Array(pages);
    for (let other = 0; other < slots; other++) if (all.used[other] === 1) inUse.fill(1, ...all.touched(other));
    assert.ok(inUse.every((use, page) => use <= machine.there[page]!));
    // The last page of all slots is not theirs alone.
    const unused = inUse.reduce((sum, use, page) => sum + machine.there[page]! - use, 0);
    assert.ok(unused <= warm.keptBytes / pageBytes + 1, `${unused} pages are emptyBuffer's, ${warm.keptBytes} bytes are kept`);
  }
  assert.ok(machine.moved > 1000);
  assert.ok(machine.areas() < pages / 4, `${machine.areas()} areas of ${pages} pages`);
  warm.release(0n, pages * pageBytes);
  assert.deepEqual([machine.areas(), warm.keptBytes], [1, 0]);
  warm.clear();
});

test("areas are bounded: where there are as many as may be, pages are fresh, until memory is freed", () => {
  const [each, places] = [8, 2 * edgesMax];
  const kit = machineOf(2 * each * places + each);
  const { machine, warm, claim } = kit;
  const bytes = each * pageBytes;
  for (let i = 0; i < places; i++) {
    claim(0n, bytes);
    warm.keep(0n, bytes);
    claim(BigInt((2 * i + 1) * bytes), bytes); // apart from the others
  }
  assert.equal(machine.moved, (each * edgesMax) / 2);
  assert.ok(machine.areas() <= edgesMax + 1, `${machine.areas()} areas`);
  const before = machine.moved;
  warm.release(0n, 2 * each * places * pageBytes);
  claim(0n, bytes);
  warm.keep(0n, bytes);
  claim(BigInt(bytes), bytes);
  assert.equal(machine.moved, before + each);
  warm.clear();
});

test("what comes when another went takes no fresh page, and one where pages do not move takes fresh ones alone", () => {
  for (const movable of [true, false]) {
    const kit = machineOf(100, movable);
    const { machine, warm } = kit;
    const all = slotsOf(kit, 4, 8 * pageBytes);
    all.put(0);
    assert.equal(machine.fresh, 8);
    all.drop(0);
    all.put(2);
    assert.equal(machine.fresh, movable ? 9 : 16); // the page behind the first had been nobody's
    assert.equal(machine.moved, movable ? 8 : 0);
    warm.clear();
  }
});

test("what is kept is bounded, and is nobody's after a while", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const pages = 20_000;
  const { machine, warm, claim } = machineOf(pages);
  claim(0n, pages * pageBytes);
  warm.keep(0n, pages * pageBytes);
  assert.equal(warm.keptBytes, 32 * 2 ** 20);
  assert.equal(machine.there.reduce((sum, page) => sum + page, 0) * pageBytes, warm.keptBytes);
  t.mock.timers.tick(keptMs - 1);
  assert.equal(warm.keptBytes, 32 * 2 ** 20);
  t.mock.timers.tick(1);
  assert.deepEqual([warm.keptBytes, machine.there.some((page) => page === 1)], [0, false]);
});

test("nothing is kept after the close, when addresses may be somebody else's", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { machine, warm, claim } = machineOf(100);
  claim(0n, 20 * pageBytes);
  warm.keep(0n, 8 * pageBytes);
  warm.close();
  warm.keep(BigInt(8 * pageBytes), 8 * pageBytes);
  t.mock.timers.tick(keptMs);
  assert.deepEqual([warm.keptBytes, machine.there.reduce((sum, page) => sum + page, 0)], [0, 12]);
});

test("pages of memory that is freed are not moved any more", () => {
  const kit = machineOf(100);
  const { machine, warm } = kit;
  const all = slotsOf(kit, 4, 8 * pageBytes);
  all.put(0);
  all.drop(0);
  warm.forget(0n, 12 * pageBytes - 1);
  all.put(2);
  assert.equal(machine.moved, 0);
  warm.clear();
});

test("the machine moves pages with what is in them, and where it does not, the target can be written", () => {
  const ggml = ggmlLibrary();
  const bytes = 4 * ggml.pageBytes;
  const buffer = ggml.ggml_backend_buft_alloc_buffer(ggml.ggml_backend_dev_buffer_type(cpu(ggml)), 4 * bytes);
  const page = BigInt(ggml.pageBytes);
  const from = ((ggml.ggml_backend_buffer_get_base(buffer) + page - 1n) / page) * page;
  const [to, other] = [from + BigInt(bytes), from + 2n * BigInt(bytes)];
  ggml.writePointer(from + 8n, 42n);
  assert.equal(ggml.movePages(from, to, bytes), true);
  assert.deepEqual([ggml.pointerAt(to + 8n), ggml.pointerAt(from + 8n)], [42n, 0n]);
  assert.equal(ggml.movePages(to + 1n, other, bytes), false); // no page begins there
  ggml.writePointer(other + 8n, 43n);
  assert.deepEqual([ggml.pointerAt(to + 8n), ggml.pointerAt(other + 8n)], [42n, 43n]);
  ggml.renew(from, 3 * bytes);
  assert.deepEqual(
    [from, to, other].map((at) => ggml.pointerAt(at + 8n)),
    [0n, 0n, 0n],
  );
  ggml.ggml_backend_buffer_free(buffer);
});

function cpu(ggml: ReturnType<typeof ggmlLibrary>): bigint {
  return ggml.ggml_backend_reg_dev_get(ggml.ggml_backend_cpu_reg(), 0);
}
