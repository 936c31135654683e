import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { freshMs, namespacesMax, Readers, readersMax, staleMs } from "./readers.ts";
import { boundOf, has, type Scope } from "./scope.ts";

/** Rights of tokens as a cluster has them: `moedeployments` in all namespaces, `moedeployments/a` in one. */
type Rights = Record<string, readonly string[]>;

function made(rights: Rights, namespaces: readonly string[] = ["a", "b", "c"], bound: readonly string[] = []) {
  const state = { now: 1_000_000, down: false, asked: 0, atOnce: 0, most: 0 };
  const readers = new Readers({
    rightsOf:
      (token) =>
      async ({ resource, namespace }) => {
        state.asked += 1;
        state.most = Math.max(state.most, ++state.atOnce);
        await new Promise(setImmediate);
        state.atOnce -= 1;
        if (state.down) throw new AppError("connection refused", { code: "Unavailable" });
        const held = rights[token];
        if (!held) throw new AppError("Unauthorized", { code: "Unauthorized" });
        return held.includes(namespace === undefined ? resource : `${resource}/${namespace}`);
      },
    namespaces: () => ({ deployments: namespaces, jobs: namespaces }),
    bound: boundOf(bound),
    now: () => state.now,
  });
  const scope = async (token: string): Promise<Scope | undefined> => (await readers.of(token))?.();
  return { state, readers, scope };
}

const seenOf = ({ deployments, jobs }: Scope, namespaces = ["a", "b", "c", "new"]) => ({
  deployments: namespaces.filter((one) => has(deployments, one)),
  jobs: namespaces.filter((one) => has(jobs, one)),
});

test("a user sees the deployments and the jobs of the namespaces where that user may list them", async () => {
  const { scope } = made({ ann: ["moedeployments/a", "moetrainingjobs/b"], ben: ["moedeployments"], cyd: [] });
  assert.deepEqual(seenOf((await scope("ann"))!), { deployments: ["a"], jobs: ["b"] });
  assert.deepEqual(seenOf((await scope("ben"))!), { deployments: ["a", "b", "c", "new"], jobs: [] });
  assert.deepEqual(seenOf((await scope("cyd"))!), { deployments: [], jobs: [] });
  assert.equal(await scope("nobody"), undefined);
});

test("a page that is bounded to namespaces shows no others, whatever a user may list", async () => {
  const { scope } = made({ ann: ["moedeployments/a", "moedeployments/b"], ben: ["moedeployments"] }, ["a", "b", "c"], ["b", "c"]);
  assert.deepEqual(seenOf((await scope("ann"))!).deployments, ["b"]);
  assert.deepEqual(seenOf((await scope("ben"))!).deployments, ["b", "c"]);
});

test("an answer holds for a minute, and what was taken away is gone after it, of a stream too", async () => {
  const rights: Rights = { ann: ["moedeployments/a"] };
  const { state, readers } = made(rights);
  const look = (await readers.of("ann"))!;
  const { asked } = state;
  rights.ann = [];
  state.now += freshMs - 1;
  assert.deepEqual(seenOf(look()!).deployments, ["a"]);
  await readers.of("ann");
  assert.equal(state.asked, asked, "nothing was asked within the minute");
  state.now += 1;
  look();
  for (let n = 0; n < 20; n++) await new Promise(setImmediate);
  assert.deepEqual(seenOf(look()!).deployments, []);
  delete rights.ann;
  state.now += freshMs;
  look();
  for (let n = 0; n < 20; n++) await new Promise(setImmediate);
  assert.equal(look(), undefined, "the token is none any more");
  assert.equal(await readers.of("ann"), undefined);
});

test("while the API server does not answer a reader sees what was so, for three minutes; one that is new sees nothing", async () => {
  const { state, readers } = made({ ann: ["moedeployments/a"] });
  const look = (await readers.of("ann"))!;
  state.down = true;
  state.now += staleMs - 1;
  assert.deepEqual(seenOf(look()!).deployments, ["a"]);
  assert.ok(await readers.of("ann"));
  state.now += 1;
  assert.equal(look(), undefined);
  await assert.rejects(readers.of("ann"), /refused/);
  await assert.rejects(readers.of("ben"), /refused/);
});

test("namespaces, questions at a time and tokens are bounded, and a wrong token is asked about once a minute", async () => {
  const many = Array.from({ length: 3 * namespacesMax }, (_, n) => `n${String(n).padStart(3, "0")}`);
  const { state, readers, scope } = made({ ann: many.map((one) => `moedeployments/${one}`) }, many);
  assert.equal(seenOf((await scope("ann"))!, many).deployments.length, namespacesMax);
  assert.equal(state.asked, 2 * (1 + namespacesMax));
  assert.equal(state.most, 8);
  await readers.of("wrong");
  const { asked } = state;
  assert.ok(readers.knows("wrong") && !readers.knows("another"));
  await readers.of("wrong");
  assert.equal(state.asked, asked);
  state.now += freshMs;
  assert.ok(readers.knows("ann") && !readers.knows("wrong"), "a user of the cluster is known until the server says otherwise");
  for (let n = 0; n < readersMax; n++) await readers.of(`wrong-${n}`);
  assert.ok(!readers.knows("ann") && readers.knows("wrong-0"), "the one that was not used for longest goes");
});
