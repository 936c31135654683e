import assert from "node:assert/strict";
import { test } from "node:test";
import type { PodFacts } from "../views/pods.ts";
import { withExitMessages } from "./status-reads.ts";

const pod = (name: string, exitCode: number, message = ""): PodFacts => ({
  namespace: "ns",
  name,
  component: "worker",
  owner: "moe",
  rank: 0,
  node: "n",
  phase: "Running",
  failure: "",
  ready: false,
  terminating: false,
  unscheduled: "",
  gates: [],
  createdAt: undefined,
  containers: [
    {
      name: "runtime",
      image: "i",
      memoryLimit: undefined,
      restarts: 3,
      waiting: undefined,
      ended: { reason: "Error", exitCode, message, at: undefined },
    },
    { name: "agent", image: "i", memoryLimit: undefined, restarts: 0, waiting: undefined, ended: undefined },
  ],
});
const messageOf = ({ containers }: PodFacts) => containers[0]?.ended?.message;

test("a container that ended with an error and said nothing is asked for the end of its log, and no other", async () => {
  const asked: string[] = [];
  const transport = {
    async request({ path }: { readonly path: string }) {
      asked.push(path);
      return "the end";
    },
  };
  const pods = await withExitMessages(transport, [pod("a", 1), pod("b", 1, "known"), pod("c", 0)]);
  assert.deepEqual(pods.map(messageOf), ["the end", "known", ""]);
  assert.deepEqual(asked, ["/api/v1/namespaces/ns/pods/a/log?container=runtime&previous=true&tailLines=3&limitBytes=16384"]);
});

test("few pods are asked, and one whose log may not be read stays as it is", async () => {
  let asked = 0;
  const transport = {
    async request(): Promise<string> {
      asked += 1;
      throw new Error("forbidden");
    },
  };
  const pods = await withExitMessages(
    transport,
    Array.from({ length: 20 }, (_, i) => pod(`p${i}`, 1)),
  );
  assert.equal(asked, 8);
  assert.ok(pods.every((each) => messageOf(each) === ""));
});

test("a log that is gone with its container is no last word", async () => {
  const gone = "unable to retrieve container logs for containerd://ad7eb8d4ab2b2a532ecbbda399ea1dab";
  const [silent] = await withExitMessages({ request: async () => gone }, [pod("a", 1)]);
  assert.equal(messageOf(silent!), "");
});
