// Workers of several images behind one gateway, as in the middle of a roll: requests that only newer ones know go to those, and the load
// that workers tell reaches an endpoint picker.
import assert from "node:assert/strict";
import { test } from "node:test";
import { AppError } from "../../crds/common.ts";
import { chat, post, until, useGateways } from "../../test/kit/gateway/gateway-host.ts";
import type { Script } from "../../test/kit/gateway/scripted-worker.ts";
import type { GenerateRequest } from "../net/gen/enodia/runtime/v1/runtime_pb.js";

const { startAll } = useGateways();

/** A worker that has not heard of a constraint, and says nothing of what it knows. */
function oldWorker(seen: GenerateRequest[]): Script {
  const unknown = () => new AppError("json_object is not one of the constraints", { code: "InvalidRequest" });
  return { knows: [], refuse: () => (seen.at(-1)?.sampling?.constraint ? unknown() : undefined) };
}

const json = chat({ response_format: { type: "json_object" } });

test("what an older worker does not know goes to one that said that it knows it, and everything else to any", async () => {
  const { url, workers } = await startAll([oldWorker([]), {}, oldWorker([])]);
  workers[0]!.script = oldWorker(workers[0]!.requests);
  workers[2]!.script = oldWorker(workers[2]!.requests);
  const held = () => workers.map(({ requests }) => requests.filter(({ sampling }) => sampling?.constraint !== "").length);
  // A worker that has not told yet is tried: one that has is not, however often.
  await until("all said what they know", async () => {
    const before = held();
    for (let i = 0; i < 6; i++) await post(`${url}/v1/chat/completions`, json);
    return String(held()) === String([before[0], before[1]! + 6, before[2]]);
  });
  const [before] = [held()];
  const answers = await Promise.all(Array.from({ length: 12 }, () => post(`${url}/v1/chat/completions`, json)));
  assert.deepEqual([...new Set(answers.map(({ status }) => status))], [200]);
  assert.deepEqual(held(), [before[0], before[1]! + 12, before[2]], "none was tried where it is not known");
  const plain = Array.from({ length: 12 }, (_, i) => chat({ messages: [{ role: "user", content: `${i} is a number` }] }));
  for (const body of plain) assert.equal((await post(`${url}/v1/chat/completions`, body)).status, 200);
  assert.ok(workers[0]!.requests.length + workers[2]!.requests.length > before[0]! + before[2]!, "old ones serve what they know");
});

test("where all workers are older the answer is 503 with the reason and a time, and not that the request is wrong", async () => {
  const { url, workers } = await startAll([{ knows: [] }]);
  workers[0]!.script = oldWorker(workers[0]!.requests);
  const response = await post(`${url}/v1/chat/completions`, json);
  const { error }: any = await response.json();
  assert.deepEqual([response.status, error.code, response.headers.get("retry-after")], [503, "no_worker", "5"]);
  assert.match(error.message, /rank 0 does not know json_object .*its image is older/);
  assert.equal(workers[0]!.requests.length, 3, "tries are counted");
  assert.equal((await post(`${url}/v1/chat/completions`, chat())).status, 200);
});

test("a request that a worker refuses although it knows what is asked is the client's fault", async () => {
  const refuse = () => new AppError("no token of this model begins an object", { code: "InvalidRequest" });
  const { url, workers } = await startAll([{}]);
  await until("it is known", async () => (await (await fetch(`${url}/metrics`)).text()).includes("vllm:num_requests_waiting"));
  await new Promise((resolve) => setTimeout(resolve, 500)); // its first sign
  workers[0]!.script = { refuse };
  assert.equal((await post(`${url}/v1/chat/completions`, json)).status, 400);
});

test("an endpoint picker finds the load at the port of the API, the attention cache's as soon as a worker told", async () => {
  const { url } = await startAll([{ kvUse: 0.25 }, { kvUse: 0.75 }, {}]);
  const scrape = async () => {
    const response = await fetch(`${url}/metrics`);
    assert.match(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
    return response.text();
  };
  await until("both told", async () => (await scrape()).includes('vllm:kv_cache_usage_perc{model_name="tiny"} 0.5\n'));
  assert.match(await scrape(), /^vllm:num_requests_waiting\{model_name="tiny"\} 0$/m);
  const silent = await startAll([{}]);
  assert.doesNotMatch(await (await fetch(`${silent.url}/metrics`)).text(), /cache_usage/);
});
