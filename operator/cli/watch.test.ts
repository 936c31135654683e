import assert from "node:assert/strict";
import { test } from "node:test";
import { frame, watch } from "./watch.ts";

/** The lines of a frame without the codes that steer a terminal. */
const printed = (text: string): string[] =>
  text
    .split("\x1b[")
    .map((part, i) => (i === 0 ? part : part.replace(/^[?\d]*[A-Za-z]/, "")))
    .join("")
    .split("\n");

test("a frame cuts lines to the width, and counts those beyond the height", () => {
  assert.deepEqual(printed(frame("abcdef\nx", { rows: 5, columns: 3 })), ["abc", "x"]);
  assert.deepEqual(printed(frame("1\n2\n3\n4", { rows: 3, columns: 80 })), ["1", "2", "... 2 more lines"]);
});

test("a frame begins at the top, clears what stood behind each line and below the last, and never the whole screen", () => {
  const drawn = frame("one\ntwo", { rows: 5, columns: 80 });
  assert.equal(drawn.split("\x1b[K").length - 1, 2);
  assert.ok(drawn.includes("\x1b[H") && drawn.includes("\x1b[J") && !drawn.includes("\x1b[2J"));
});

interface Run {
  readonly isTTY: boolean;
  readonly looks: readonly (string | Error)[];
}

async function run({ isTTY, looks }: Run): Promise<{ readonly written: string; readonly waits: readonly number[] }> {
  const ending = new AbortController();
  let written = "";
  const write = (text: string): void => {
    written += text;
  };
  let i = 0;
  let time = 0;
  const waits: number[] = [];
  await watch({
    make: async () => {
      const look = looks[i];
      i += 1;
      time += 4_000; // a slow cluster
      if (look instanceof Error) throw look;
      return look ?? "";
    },
    screen: { isTTY, size: () => ({ rows: 10, columns: 80 }), write },
    signal: ending.signal,
    sleep: async (ms) => {
      waits.push(ms);
      time += ms;
      if (i >= looks.length) ending.abort();
    },
    clock: () => time,
  });
  return { written, waits };
}

test("watch: on a terminal the cursor comes back, and the last text stays behind", async () => {
  const { written } = await run({ isTTY: true, looks: ["one", "two"] });
  assert.ok(written.startsWith("\x1b[?1049h\x1b[?25l"));
  assert.ok(written.endsWith("\x1b[?25h\x1b[?1049ltwo\n"));
});

test("watch: elsewhere a text is written when it has changed, without codes", async () => {
  const { written } = await run({ isTTY: false, looks: ["one", "one", "two"] });
  assert.equal(written, "one\n\ntwo\n");
});

test("watch: a look that fails is told above the last text and does not end it; a first one that fails does", async () => {
  const { written } = await run({ isTTY: false, looks: ["one", new Error("no answer"), "two"] });
  assert.equal(written, "one\n\nno answer; below is what was seen 6 s ago\n\none\n\ntwo\n");
  await assert.rejects(run({ isTTY: true, looks: [new Error("no cluster")] }), /no cluster/);
});

test("watch: what takes long is followed by a longer rest", async () => {
  const { waits } = await run({ isTTY: false, looks: ["one", "two", "three"] });
  assert.deepEqual(waits, [2_000, 12_000, 12_000]);
});
