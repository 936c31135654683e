// Answers of models that write calls of tools badly, in the words of each family: what is read does not depend on where the text was cut,
// no character is made up, and calls have names, each once and in order.
import assert from "node:assert/strict";
import { deepseekV3, deepseekV31, hermes, llama, mistral } from "../../../runtime/text/tools/index.ts";
import type { CallDelta, CallReader, ToolFormat } from "../../../runtime/text/tools/tool-format.ts";
import type { Fuzzer } from "../fuzzer.ts";
import type { Random } from "../mutate.ts";
import { chance, json, pick, text, times } from "../words.ts";

type Readable = Required<Pick<ToolFormat, "texts" | "reader">> & Pick<ToolFormat, "marks">;
const formats = { hermes, deepseekV3, deepseekV31, llama, mistral } as const satisfies Record<string, Readable>;
type Format = keyof typeof formats;

interface Input {
  readonly format: Format;
  readonly text: string;
  readonly cuts: readonly number[];
}

function argumentsOf(random: Random): string {
  const written = JSON.stringify(json(random)) ?? "null";
  const whole = chance(random, 60) ? `{"a": ${written}}` : written;
  return chance(random, 80) ? whole : whole.slice(0, random(whole.length + 1));
}

function callOf(random: Random, { texts }: Readable): string {
  const name = chance(random, 90) ? pick(random, ["f", "get_weather", "a-b"]) : text(random);
  const whole = texts.before(name) + argumentsOf(random) + texts.after;
  const at = random(100);
  if (at < 70) return whole;
  if (at < 85) return whole.slice(0, random(whole.length + 1));
  return whole.slice(random(whole.length + 1));
}

function answerOf(random: Random, format: Readable): string {
  const { begin, between, end } = format.texts;
  const words = [
    () => text(random),
    () => callOf(random, format),
    () => begin,
    () => between,
    () => end,
    () => format.texts.trigger,
    () => format.marks?.[0] ?? "",
  ];
  if (chance(random, 50))
    return `${text(random)}${begin}${times(random, 3, () => callOf(random, format)).join(between)}${end}${text(random)}`;
  return times(random, 8, () => pick(random, words)()).join("");
}

interface Read {
  readonly text: string;
  readonly calls: readonly { readonly name: string; readonly arguments: string }[];
}

function readAll(reader: CallReader, given: string, cuts: readonly number[]): Read {
  const calls: { name: string; arguments: string }[] = [];
  let said = "";
  const take = (piece: { text: string; calls: readonly CallDelta[] }): void => {
    said += piece.text;
    for (const { index, name, arguments: more = "" } of piece.calls) {
      if (name !== undefined) assert.equal(calls.push({ name, arguments: "" }), index + 1, "names come in order, each once");
      const call = calls[index];
      assert.ok(call, "arguments come after their name");
      call.arguments += more;
    }
  };
  let from = 0;
  for (const cut of [...cuts, given.length].sort((a, b) => a - b)) {
    take(reader.push(given.slice(from, cut)));
    from = Math.max(from, cut);
  }
  take(reader.end());
  return { text: said, calls };
}

type Subject = Readonly<Record<Format, () => CallReader>>;
const subject: Subject = {
  hermes: hermes.reader,
  deepseekV3: deepseekV3.reader,
  deepseekV31: deepseekV31.reader,
  llama: llama.reader,
  mistral: mistral.reader,
};

/** A reader that takes what looks like the beginning of a mark at the end of a piece for text of no use. */
function forgetful(reader: CallReader): CallReader {
  return {
    push: (given) => reader.push(given.endsWith("<") ? given.slice(0, -1) : given),
    end: () => reader.end(),
  };
}

export const toolCalls: Fuzzer<Subject, Input> = {
  name: "tool-calls",
  share: 140,
  deadlineMs: 5_000,
  refusals: [],
  start: () => subject,
  input(random) {
    const format = pick(random, Object.keys(formats) as Format[]);
    const answer = answerOf(random, formats[format]);
    return { format, text: answer, cuts: times(random, 8, () => random(answer.length + 1)) };
  },
  attempt(tried, { format, text: given, cuts }) {
    const whole = readAll(tried[format](), given, []);
    assert.deepEqual(readAll(tried[format](), given, cuts), whole, "where it is cut changes what is read");
    // A name is JSON, of which an escape is longer than its character; "{}" is what a call without arguments has.
    const characters = whole.text.length + whole.calls.reduce((sum, call) => sum + call.name.length + call.arguments.length - 2, 0);
    assert.ok(characters <= given.length, `${characters} characters of ${given.length}`);
  },
  plant: (tried) => ({ ...tried, hermes: () => forgetful(tried.hermes()) }),
};
