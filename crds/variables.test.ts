// These tests show that what rows render comes back as it was meant, and that rows which could not do so do not compile.
import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import { AppError } from "./common.ts";
import { gatewayProcess, workerProcess } from "./process.ts";
import { parseEnv, renderEnv, rowsFrom, variablesLeft } from "./variables.ts";

interface Facts {
  readonly size: number;
  readonly note: string | undefined;
}
const { rendered, leftToTemplate, fixed } = rowsFrom<Facts>();
const rows = {
  size: rendered("SIZE", z.coerce.number<string>().int().min(1), ({ size }) => String(size)),
  note: rendered("NOTE", z.string().optional(), ({ note }) => note),
  arenas: fixed("ARENAS", "2"),
  pod: rendered("POD", z.string().min(1), () => ({ fieldPath: "metadata.name" })),
  threads: leftToTemplate("THREADS", z.coerce.number<string>().default(4)),
};

test("rows are rendered in their order, fields of the pod by reference, and nothing for undefined or for what is left", () => {
  assert.deepEqual(renderEnv(rows, { size: 3, note: undefined }), [
    { name: "SIZE", value: "3" },
    { name: "ARENAS", value: "2" },
    { name: "POD", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
  ]);
  assert.deepEqual(variablesLeft(rows), ["THREADS"]);
});

test("settings have the names and the types of their rows; what only others read is no setting", () => {
  const settings = parseEnv(rows, { SIZE: "3", ARENAS: "2", POD: "a-0", OTHER: "x" });
  const size: number = settings.size;
  const note: string | undefined = settings.note;
  assert.deepEqual(settings, { size, note, pod: "a-0", threads: 4 });
  // @ts-expect-error a fixed variable is nothing that the process reads
  assert.equal(settings.arenas, undefined);
});

test("an environment that does not fit is refused with the variable's name", () => {
  assert.throws(
    () => parseEnv(rows, { SIZE: "none", POD: "" }),
    (error: unknown) =>
      error instanceof AppError && error.code === "InvalidConfig" && /SIZE/.test(error.message) && /POD/.test(error.message),
  );
});

test("a row that is rendered into something its schema does not take does not compile", () => {
  // @ts-expect-error left out, but the schema needs a value
  rendered("SIZE", z.coerce.number<string>(), ({ note }) => note);
  // @ts-expect-error a number: variables are text
  rendered("SIZE", z.coerce.number<string>(), ({ size }) => size);
  // @ts-expect-error any text, where the schema takes one of two names
  rendered("LEVEL", z.enum(["low", "high"]), () => String("low"));
  // @ts-expect-error not among the facts
  rendered("NOTE", z.string().optional(), ({ misspelt }) => misspelt);
  rendered("NOTE", z.string().optional(), ({ note }) => note);
});

test("no two settings of a process share a variable", () => {
  for (const process of [workerProcess, gatewayProcess]) {
    const variables = Object.values(process).map(({ variable }) => variable);
    assert.deepEqual(variables, [...new Set(variables)]);
  }
});
