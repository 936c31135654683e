// The reach of `--out` and `--overwrite`: a new folder, or a store or dense folder that these commands wrote. Everything else stays.
import assert from "node:assert/strict";
import { cp, link, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { after, test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { openStore } from "../weights/store-reader.ts";
import { importModel } from "./import.ts";
import { upcycleSource } from "./upcycle/upcycle.ts";

const dir = await mkdtemp(join(tmpdir(), "enodia-overwrite-"));
after(() => rm(dir, { recursive: true }));
const golden = join(import.meta.dirname, "../../test/golden");
const gguf = join(golden, "tiny-gguf/tiny-llama.gguf");
const quiet = () => undefined;
const shell = { cache: join(dir, "cache"), secrets: { HF_ENDPOINT: "http://127.0.0.1:9" }, codecs: ["f32"] as const };
/** Of what has experts a store, of what has none a dense folder. */
const importing = (source: string, out: string, overwrite = true) =>
  importModel({ ...shell, source, out, overwrite, folder: !source.endsWith("/moe") }, quiet);
const upcycling = (source: string, out: string, cache = shell.cache) =>
  upcycleSource({ ...shell, cache, source, out, overwrite: true, experts: 4, topK: 2, noise: 0, seed: 1, threads: 1 }, quiet);

const refusal = (code: string, message: RegExp) => ({ name: AppError.name, code, message });

/** Every path below a folder with the bytes of its files: what must be the same afterwards. */
async function everything(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    found[path] = entry.isFile() ? (await readFile(path)).toString("base64") : String((await lstat(path)).mode);
  }
  return found;
}

let rooms = 0;
/** A folder of its own with a dense folder, a checkpoint with experts, and a store in it. */
async function room(): Promise<{ readonly at: string; readonly dense: string; readonly moe: string; readonly store: string }> {
  const at = join(dir, `room-${rooms++}`);
  const [dense, moe, store] = [join(at, "dense"), join(at, "moe"), join(at, "store")];
  await mkdir(at);
  await importing(gguf, dense);
  await cp(join(golden, "tiny-f32"), moe, { recursive: true });
  await importing(moe, store);
  return { at, dense, moe, store };
}
type Room = Awaited<ReturnType<typeof room>>;

type Act = (room: Room) => Promise<unknown>;
type Kept = readonly [code: string, want: RegExp, run: Act, prepare?: Act];

const kept: Readonly<Record<string, Kept>> = {
  "a folder of something else": [
    "NotReplaceable",
    /thesis: --overwrite replaces only .*"chapters", which no dense folder has; name another folder/,
    ({ at, moe }) => importing(moe, join(at, "thesis")),
    async ({ at }) => {
      await mkdir(join(at, "thesis/chapters"), { recursive: true });
      await writeFile(join(at, "thesis/chapters/1.txt"), "years of work");
    },
  ],
  "an empty folder": [
    "NotReplaceable",
    /has no expert-index\.json/,
    ({ at, moe }) => importing(moe, join(at, "empty")),
    ({ at }) => mkdir(join(at, "empty")),
  ],
  "a file": [
    "NotReplaceable",
    /it is a file/,
    ({ at, moe }) => importing(moe, join(at, "file")),
    ({ at }) => writeFile(join(at, "file"), "one"),
  ],
  "a link to a store": [
    "NotReplaceable",
    /it is a symbolic link/,
    ({ at, moe }) => importing(moe, join(at, "link")),
    ({ at, store }) => symlink(store, join(at, "link")),
  ],
  "a checkpoint that was downloaded": [
    "NotReplaceable",
    /"golden\.json", which no dense folder has/,
    ({ at, moe }) => importing(moe, join(at, "other")),
    ({ at, moe }) => cp(moe, join(at, "other"), { recursive: true }),
  ],
  "a store with a file that is not of it": [
    "NotReplaceable",
    /"notes\.txt", which no model store has/,
    ({ moe, store }) => importing(moe, store),
    ({ store }) => writeFile(join(store, "notes.txt"), "keep me"),
  ],
  "a folder whose expert-index.json is another program's": [
    "NotReplaceable",
    /expert-index\.json is not one that was written here/,
    ({ at, moe }) => importing(moe, join(at, "index")),
    async ({ at }) => {
      await mkdir(join(at, "index"));
      await writeFile(join(at, "index/expert-index.json"), '{"version": 1}');
    },
  ],
  "a dense checkpoint that was not written here": [
    "NotReplaceable",
    /no model\.safetensors that was written here/,
    ({ at, moe }) => importing(moe, join(at, "theirs")),
    async ({ at, dense }) => {
      await cp(dense, join(at, "theirs"), { recursive: true });
      const path = join(at, "theirs/model.safetensors");
      const bytes = await readFile(path);
      await writeFile(path, Buffer.from(bytes.toString("latin1").replace('"made_by":"enodia"', '"made_by":"others"'), "latin1"));
    },
  ],
  "the source": ["BadOption", /is the source/, ({ dense }) => importing(dense, dense)],
  "the source, named through a link": [
    "BadOption",
    /is the source/,
    ({ at, dense }) => importing(join(at, "alias"), dense),
    ({ at, dense }) => symlink(dense, join(at, "alias")),
  ],
  "the source of upcycle": ["BadOption", /is the source/, ({ dense }) => upcycling(dense, dense)],
  "the folder around the source": ["BadOption", /contains the source/, ({ at, moe }) => importing(moe, at)],
  "a place within the source": ["BadOption", /lies in the source/, ({ moe }) => importing(moe, join(moe, "a/b"))],
  "a place within the source of upcycle": ["BadOption", /lies in/, ({ dense }) => upcycling(dense, join(dense, "x"))],
  "the folder to which links in the source lead": [
    "BadOption",
    /contains the source/,
    ({ at, dense }) => importing(join(at, "snapshot"), dense),
    async ({ at, dense }) => {
      await cp(dense, join(at, "snapshot"), { recursive: true });
      await rm(join(at, "snapshot/model.safetensors"));
      await symlink(join(dense, "model.safetensors"), join(at, "snapshot/model.safetensors"));
    },
  ],
  "the folder of a GGUF file that is the source": [
    "BadOption",
    /contains the source/,
    ({ at }) => importing(join(at, "gguf/model.gguf"), join(at, "gguf")),
    async ({ at }) => {
      await mkdir(join(at, "gguf"));
      await link(gguf, join(at, "gguf/model.gguf")).catch(() => cp(gguf, join(at, "gguf/model.gguf")));
    },
  ],
  "a foreign folder at upcycle's --out": [
    "NotReplaceable",
    /"1\.jpg"/,
    ({ at, dense }) => upcycling(dense, join(at, "photos")),
    async ({ at }) => {
      await mkdir(join(at, "photos"));
      await writeFile(join(at, "photos/1.jpg"), "x");
    },
  ],
  "a foreign folder where upcycle would keep the dense model": [
    "NotReplaceable",
    /"diary\.txt"/,
    ({ at }) => upcycling(gguf, join(at, "new"), join(at, "cache")),
    async ({ at }) => {
      await mkdir(join(at, "cache/models/tiny-llama-dense"), { recursive: true });
      await writeFile(join(at, "cache/models/tiny-llama-dense/diary.txt"), "x");
    },
  ],
};

for (const [sentence, [code, want, run, prepare]] of Object.entries(kept)) {
  test(`${sentence} is never overwritten`, async () => {
    const made = await room();
    await prepare?.(made);
    const before = await everything(made.at);
    await assert.rejects(run(made), refusal(code, want));
    assert.deepEqual(await everything(made.at), before);
  });
}

test("a store replaces a dense folder and a dense folder a store, and nothing stays beside them", async () => {
  const { at, dense, moe, store } = await room();
  await importing(moe, dense);
  await (await openStore(dense)).close();
  await importing(gguf, store);
  assert.equal(JSON.parse(await readFile(join(store, "config.json"), "utf8")).model_type, "llama");
  assert.deepEqual((await readdir(at)).toSorted(), ["dense", "moe", "store"]);
});

test("a store of another version, as an older or newer product writes it, may be replaced", async () => {
  const { moe, store } = await room();
  const path = join(store, "expert-index.json");
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, "utf8")), version: 99 }));
  await importing(moe, store);
  await (await openStore(store)).close();
});

test("an import that fails leaves the store that it was to replace", async () => {
  const { at, moe, store } = await room();
  const before = await everything(store);
  const weights = join(moe, "model.safetensors");
  await writeFile(weights, (await readFile(weights)).subarray(0, -4));
  await assert.rejects(importing(moe, store), refusal("BadSafetensors", /past the file/));
  assert.deepEqual(await everything(store), before);
  assert.deepEqual((await readdir(at)).toSorted(), ["dense", "moe", "store"]);
});

test("what a dead run left beside the target goes, unless there is something else in it", async () => {
  const { at, moe, store } = await room();
  const left = (pid: number, ending = "") => join(at, `.store.tmp-${hostname()}-${pid}${ending}`);
  const dead = 2 ** 22 + 1; // above the largest pid of Linux
  for (const folder of [left(dead), left(dead + 1), left(process.ppid), left(dead, ".old")]) {
    await mkdir(folder);
    await writeFile(join(folder, "config.json"), "{}");
  }
  await writeFile(join(left(dead + 1), "letter.txt"), "x");
  await mkdir(join(at, ".store.tmp-elsewhere-5"));
  await importing(moe, store);
  const want = [left(dead + 1), left(process.ppid), join(at, ".store.tmp-elsewhere-5")].map((path) => basename(path));
  assert.deepEqual((await readdir(at)).filter((name) => name.startsWith(".")).toSorted(), want.toSorted());
  assert.deepEqual(await readdir(left(dead + 1)), ["letter.txt"]);
});

test("without --overwrite a store stays, whatever it is", async () => {
  const { moe, store } = await room();
  await assert.rejects(importing(moe, store, false), refusal("AlreadyExists", /pass --overwrite/));
  const elsewhere = join(dirname(store), "moved");
  await rename(store, elsewhere);
  await importing(moe, store, false);
});
