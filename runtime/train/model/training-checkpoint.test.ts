// The checkpoints that a run finds: a folder that cannot be read is not an empty one, and neither a newer checkpoint is dropped nor one
// that the run has already.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, promises, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../../crds/common.ts";
import { retryOf, statIfThere } from "../../weights/file.ts";
import { type CheckpointState, newestCheckpoint, SavedModel, writeCheckpoint } from "./training-checkpoint.ts";

const folder = mkdtempSync(join(tmpdir(), "enodia-checkpoint-"));
after(() => rmSync(folder, { recursive: true }));

function withSteps(name: string, steps: readonly number[]): string {
  const dir = join(folder, name);
  for (const step of steps) {
    const of = join(dir, `step-0000000${step}`);
    mkdirSync(of, { recursive: true });
    writeFileSync(join(of, "manifest.json"), "{}");
  }
  return dir;
}
const state = { rank: 0, meet: async () => {}, gather: async () => [] } as unknown as CheckpointState;
const nothing = { identity: {}, stored: 3, layout: { parts: [], floats: 0, parameters: 0 }, state, keep: 2, mayWrite: async () => {} };

test("only where there is no folder there is no checkpoint", async () => {
  assert.equal(await newestCheckpoint(join(folder, "none")), undefined);
  const file = join(folder, "file");
  writeFileSync(file, "");
  await assert.rejects(newestCheckpoint(file), (caught) => AppError.from(caught).retry === "backoff");
});

test("a manifest that cannot be asked after does not make its checkpoint none", async () => {
  const dir = withSteps("loop", [1]);
  const broken = join(dir, "step-00000002");
  symlinkSync(broken, broken);
  await assert.rejects(newestCheckpoint(dir), (caught) => AppError.from(caught).retry === "backoff");
});

test("old checkpoints go, unfinished ones too; newer ones stay, finished or being written", async () => {
  const dir = withSteps("newer", [1, 2, 4, 8, 9]);
  for (const step of [3, 7]) mkdirSync(join(dir, `step-0000000${step}`));
  await writeCheckpoint(dir, { ...nothing, step: 5 });
  assert.deepEqual(
    readdirSync(dir).toSorted(),
    [4, 5, 7, 8, 9].map((step) => `step-0000000${step}`),
  );
});

test("where another writes now, nothing is named and nothing dropped", async () => {
  const dir = withSteps("fenced", [1, 2, 3, 4]);
  const before = readdirSync(dir);
  const stopAt = (call: number) => {
    let calls = 0;
    return async (): Promise<void> => {
      calls += 1;
      if (calls === call) throw new AppError("another", { code: "GivenUp" });
    };
  };
  await assert.rejects(writeCheckpoint(dir, { ...nothing, step: 4, mayWrite: stopAt(1) }), { code: "GivenUp" });
  assert.equal(await newestCheckpoint(dir), 4);
  await assert.rejects(writeCheckpoint(dir, { ...nothing, step: 4, mayWrite: stopAt(2) }), { code: "GivenUp" });
  assert.deepEqual([await newestCheckpoint(dir), readdirSync(dir)], [3, before]);
});

test("a checkpoint that the run has stays while it is written again; one of other settings is replaced", async () => {
  const dir = join(folder, "again");
  const seen: (number | undefined)[] = [];
  const gather: CheckpointState["gather"] = async (_step, what, own) => {
    if (what === "checkpoint") seen.push(await newestCheckpoint(dir));
    return [own];
  };
  const write = (seed: number) => writeCheckpoint(dir, { ...nothing, state: { ...state, gather }, identity: { seed }, step: 5 });
  await write(1);
  await write(1);
  await write(2);
  assert.deepEqual(seen, [undefined, 5, undefined]);
  await SavedModel.open(dir, { ...nothing, identity: { seed: 2 }, step: 5 });
});

test("an error that may pass is worth another try, one that tells what is there is not", async () => {
  const retry = (code: string): unknown => retryOf(Object.assign(new Error(code), { code }));
  for (const code of ["EIO", "ESTALE", "EMFILE", "EACCES"]) assert.equal(retry(code), "backoff", code);
  for (const code of ["ENOENT", "ENOTDIR"]) assert.equal(retry(code), "never", code);
  assert.equal(await statIfThere(join(folder, "none")), undefined);
});

test("a checkpoint of other settings stays where another begins to write while this process reads it", async () => {
  const dir = join(folder, "raced");
  const one = { ...state, gather: async (_step: number, _what: string, own: Int32Array) => [own] } as unknown as CheckpointState;
  await writeCheckpoint(dir, { ...nothing, state: one, identity: { seed: 1 }, step: 5 });
  let another = false;
  const mayWrite = async (): Promise<void> => {
    if (another) throw new AppError("another", { code: "GivenUp" });
  };
  const raced = {
    ...{ ...nothing, state: one, step: 5, mayWrite },
    get identity() {
      another = true;
      return { seed: 2 };
    },
  };
  await assert.rejects(writeCheckpoint(dir, raced), { code: "GivenUp" });
  assert.equal(await newestCheckpoint(dir), 5);
});

test("a checkpoint's folder and the one that names it are on disk before older checkpoints go", async (t) => {
  const dir = withSteps("synced", [1, 2]);
  const synced: [string, string[]][] = [];
  const { open } = promises;
  t.mock.method(promises, "open", async (path: string, flags: number) => {
    const handle = await open(path, flags);
    const sync = handle.sync.bind(handle);
    handle.sync = () => sync().then(() => void synced.push([path, readdirSync(dir).toSorted()]));
    return handle;
  });
  syncBuiltinESMExports();
  await writeCheckpoint(dir, { ...nothing, step: 5 });
  t.mock.restoreAll();
  syncBuiltinESMExports();
  const before = [1, 2, 5].map((step) => `step-0000000${step}`);
  assert.deepEqual(synced, [
    [join(dir, "step-00000005"), before],
    [dir, before],
  ]);
});
