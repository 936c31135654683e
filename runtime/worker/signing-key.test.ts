import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { encodeTelemetryKeys } from "../../crds/telemetry-keys.ts";
import { telemetryKey } from "../../test/kit/ranks/telemetry-keys.ts";
import type { Log } from "../observe/log.ts";
import { silentLog } from "../observe/log.ts";
import { signingKeyAt } from "./signing-key.ts";

test("a rank signs with the newest key of the file, finds a rotated one by itself, and says once why it has none", async () => {
  const dir = mkdtempSync(join(tmpdir(), "enodia-keys-"));
  try {
    const path = join(dir, "keys");
    const warned: string[] = [];
    const log: Log = { ...silentLog, warn: (fields) => void warned.push((fields as { problem: string }).problem) };
    const key = signingKeyAt(path, log);
    assert.deepEqual([await key(), await key()], [undefined, undefined]);
    assert.equal(warned.length, 1);
    assert.match(warned[0] ?? "", /the telemetry Secret is missing or not mounted yet/);
    writeFileSync(path, encodeTelemetryKeys([telemetryKey(1)]));
    assert.deepEqual(await key(), telemetryKey(1));
    writeFileSync(path, encodeTelemetryKeys([telemetryKey(2), telemetryKey(1)]));
    assert.deepEqual(await key(), telemetryKey(2));
    writeFileSync(path, "half-writ");
    assert.equal(await key(), undefined);
    assert.match(warned[1] ?? "", /telemetry keys: not JSON/);
    assert.equal(await signingKeyAt(undefined, silentLog)(), undefined);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
