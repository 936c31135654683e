import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { ServiceRecord } from "./service-record.ts";

test("what says something of this worker is counted, and nothing else", () => {
  const record = new ServiceRecord();
  for (const reason of ["stop", "length", "cancelled", "draining"] as const) record.ended(reason);
  for (const code of ["InvalidRequest", "ContextOverflow", "Cancelled", "DeadlineExceeded", "ExpertUnavailable"])
    record.failed(new AppError("no", { code }));
  record.failed(new Error("out of memory"));
  record.first(300);
  record.gap(20);
  record.gap(0.5);
  assert.deepEqual(record.totals, { requests: 5, failed: 3, gaps: 2, gapMicros: 20_500, firstTokens: 1, firstTokenMicros: 300_000 });
});
